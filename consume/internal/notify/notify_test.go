package notify

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"sparkles.dev/consume/internal/wire"
)

const hostVariable = "PUBSUB_EMULATOR_HOST"

// notes is a log that can be read while it is written.
type notes struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (n *notes) Write(data []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(data)
}

func (n *notes) lines() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.FieldsFunc(n.text.String(), func(r rune) bool { return r == '\n' })
}

// emulated gives options for a topic that nobody else uses, or skips the test; and what is logged.
func emulated(t *testing.T) (Options, *notes) {
	t.Helper()
	host := os.Getenv(hostVariable)
	if host == "" {
		const why = hostVariable + " is not set: this test needs Google's Pub/Sub emulator (python -m tests.support.emulators)"
		if os.Getenv("SPARKLES_TEST_ALL") == "1" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	return optionsFor(host)
}

func optionsFor(host string) (Options, *notes) {
	log := &notes{}
	return Options{
		Project: "sparkles-test", Topic: fmt.Sprintf("go-%x", time.Now().UnixNano()), Installation: "mine.here", EmulatorHost: host,
		Log: slog.New(slog.NewTextHandler(log, nil)),
	}, log
}

func publisher(t *testing.T, options Options) *Publisher {
	t.Helper()
	made, err := Open(context.Background(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(made.Close)
	return made
}

// watcher subscribes to the topic, which it makes, and returns what gives the next messages: at least so many, or those of 10 s.
func watcher(t *testing.T, options Options) func(atLeast int) []*pubsubpb.PubsubMessage {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	connection, err := grpc.NewClient(options.EmulatorHost, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	topic := fmt.Sprintf("projects/%s/topics/%s", options.Project, options.Topic)
	name := fmt.Sprintf("projects/%s/subscriptions/%s", options.Project, options.Topic)
	if _, err := pubsubpb.NewPublisherClient(connection).CreateTopic(ctx, &pubsubpb.Topic{Name: topic}); err != nil {
		t.Fatal(err)
	}
	client := pubsubpb.NewSubscriberClient(connection)
	if _, err := client.CreateSubscription(ctx, &pubsubpb.Subscription{Name: name, Topic: topic}); err != nil {
		t.Fatal(err)
	}
	return func(atLeast int) []*pubsubpb.PubsubMessage {
		t.Helper()
		var found []*pubsubpb.PubsubMessage
		for deadline := time.Now().Add(10 * time.Second); len(found) < atLeast && time.Now().Before(deadline); {
			// Where there is no message the answer takes long.
			soon, stop := context.WithTimeout(ctx, time.Second)
			answer, err := client.Pull(soon, &pubsubpb.PullRequest{Subscription: name, MaxMessages: 1000})
			stop()
			if status.Code(err) == codes.DeadlineExceeded {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, each := range answer.ReceivedMessages {
				found, ids = append(found, each.Message), append(ids, each.AckId)
			}
			if len(ids) > 0 {
				if _, err := client.Acknowledge(ctx, &pubsubpb.AcknowledgeRequest{Subscription: name, AckIds: ids}); err != nil {
					t.Fatal(err)
				}
			}
		}
		return found
	}
}

func event(seq int64) wire.Event {
	return wire.Event{
		Schema: wire.Schema, Job: "job-1", Shard: 2, Seq: seq,
		Changes: []wire.Change{{Index: 7, State: wire.Succeeded, Attempt: 1}},
	}
}

// TestWhatAMessageCarries: the event as wire JSON, and as attributes the job and the installation, by which watchers choose.
func TestWhatAMessageCarries(t *testing.T) {
	options, log := emulated(t)
	next := watcher(t, options)
	publisher(t, options).Publish(context.Background(), event(5))
	messages := next(1)
	if len(messages) != 1 {
		t.Fatalf("found %d messages, expected 1", len(messages))
	}
	found, err := wire.Decode[wire.Event](messages[0].Data, "a message")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(found, event(5)) {
		t.Errorf("found %+v, expected %+v", found, event(5))
	}
	if expected := map[string]string{"job": "job-1", "installation": "mine.here"}; !reflect.DeepEqual(messages[0].Attributes, expected) {
		t.Errorf("found attributes %v, expected %v", messages[0].Attributes, expected)
	}
	if lines := log.lines(); len(lines) > 0 {
		t.Errorf("logged %q, expected nothing", lines)
	}
}

// TestCloseSendsWhatWaits: a worker that leaves has told what it did; what comes later is dropped without harm, and so is a second Close.
func TestCloseSendsWhatWaits(t *testing.T) {
	options, _ := emulated(t)
	next := watcher(t, options)
	p := publisher(t, options)
	for seq := range int64(120) {
		p.Publish(context.Background(), event(seq))
	}
	p.Close()
	p.Publish(context.Background(), event(1000))
	p.Close()
	seqs := map[int64]bool{}
	for _, message := range next(120) {
		found, err := wire.Decode[wire.Event](message.Data, "a message")
		if err != nil {
			t.Fatal(err)
		}
		seqs[found.Seq] = true
	}
	if len(seqs) != 120 || seqs[1000] {
		t.Errorf("found %d different events (a late one: %t), expected the 120 that were published", len(seqs), seqs[1000])
	}
}

// TestNoTopic: nobody has listened yet, which is no trouble; as soon as there is one, events are on it.
func TestNoTopic(t *testing.T) {
	options, log := emulated(t)
	p := publisher(t, options)
	p.Publish(context.Background(), event(1))
	time.Sleep(500 * time.Millisecond)
	next := watcher(t, options)
	p.Publish(context.Background(), event(2))
	if messages := next(1); len(messages) != 1 || !bytes.Contains(messages[0].Data, []byte(`"seq":2`)) {
		t.Errorf("found %v, expected the event after the topic was made", messages)
	}
	if lines := log.lines(); len(lines) > 0 {
		t.Errorf("logged %q, expected nothing", lines)
	}
}

// TestNoTopicIsWanted: an empty topic turns events off.
func TestNoTopicIsWanted(t *testing.T) {
	p, err := Open(context.Background(), Options{})
	if p != nil || err != nil {
		t.Fatalf("found %v, %v, expected no publisher and no error", p, err)
	}
	p.Publish(context.Background(), event(1))
	p.Close()
}

// TestAServiceThatDoesNotAnswer: publishing never waits, closing waits for no more than its limit, and one line of the log says it.
func TestAServiceThatDoesNotAnswer(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing, as a server that is stopped
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	options, log := optionsFor(silent.Addr().String())
	p, err := Open(context.Background(), options)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for seq := range int64(100_000) {
		p.Publish(context.Background(), event(seq))
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("publishing took %v, expected no waiting", took)
	}
	time.Sleep(limit + 500*time.Millisecond)
	began = time.Now()
	p.Close()
	if took := time.Since(began); took > 2*limit+time.Second {
		t.Errorf("closing took %v, expected at most %v", took, 2*limit)
	}
	lines := log.lines()
	if len(lines) != 1 || !strings.Contains(lines[0], "level=WARN") || !strings.Contains(lines[0], "events are not published") {
		t.Errorf("logged %q, expected one warning", lines)
	}
}

// TestAServiceThatComesBack: what was published meanwhile is lost, what comes later arrives.
func TestAServiceThatComesBack(t *testing.T) {
	options, _ := emulated(t)
	next := watcher(t, options)
	relay := newRelay(t, options.EmulatorHost)
	p := publisher(t, Options{
		Project: options.Project, Topic: options.Topic, Installation: options.Installation, EmulatorHost: relay.address, Log: options.Log,
	})
	p.Publish(context.Background(), event(1))
	if len(next(1)) != 1 {
		t.Fatal("the first event did not arrive")
	}
	relay.cut(true)
	p.Publish(context.Background(), event(2))
	time.Sleep(limit + 500*time.Millisecond)
	relay.cut(false)
	done := make(chan struct{})
	defer close(done)
	go func() {
		for seq := int64(3); ; seq++ {
			select {
			case <-done:
				return
			case <-time.After(200 * time.Millisecond):
				p.Publish(context.Background(), event(seq))
			}
		}
	}()
	if len(next(1)) == 0 {
		t.Error("no event arrived after the service was back")
	}
}

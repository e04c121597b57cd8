// Package notify publishes events: hints that a shard was written. Best effort: what is not published within its time is not published, and
// nothing else suffers for it. It imports wire.
package notify

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/api/option"
	gtransport "google.golang.org/api/transport/grpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"sparkles.dev/consume/internal/wire"
)

const (
	limit = 2 * time.Second
	// waiting events beyond this are dropped: whoever misses them reads the shard again.
	waiting = 256
	batch   = 100
)

// Options says where to. EmulatorHost (PUBSUB_EMULATOR_HOST) is host:port of an emulator, spoken to without credentials; "": the service.
// Installation is an attribute of every message: the installation's namespace.
type Options struct {
	Project, Topic, Installation string
	EmulatorHost                 string
	Log                          *slog.Logger
}

// Publisher publishes in the background. A nil Publisher publishes nothing.
type Publisher struct {
	options    Options
	connection *grpc.ClientConn
	client     pubsubpb.PublisherClient
	events     chan wire.Event
	done       chan struct{}
	told       sync.Once

	closing sync.RWMutex // held for writing while events is closed
	closed  bool
}

// Open makes a publisher; it does not connect yet. An empty topic gives nil.
func Open(ctx context.Context, options Options) (*Publisher, error) {
	if options.Topic == "" {
		return nil, nil
	}
	connection, err := dial(ctx, options.EmulatorHost)
	if err != nil {
		return nil, fmt.Errorf("connect to Pub/Sub: %w", err)
	}
	p := &Publisher{
		options: options, connection: connection, client: pubsubpb.NewPublisherClient(connection),
		events: make(chan wire.Event, waiting), done: make(chan struct{}),
	}
	go p.work()
	return p, nil
}

func dial(ctx context.Context, emulator string) (*grpc.ClientConn, error) {
	if emulator != "" {
		return grpc.NewClient(emulator, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	return gtransport.Dial(ctx, option.WithEndpoint("pubsub.googleapis.com:443"), option.WithScopes("https://www.googleapis.com/auth/pubsub"))
}

// Publish takes an event and returns at once.
func (p *Publisher) Publish(_ context.Context, event wire.Event) {
	if p == nil {
		return
	}
	p.closing.RLock()
	defer p.closing.RUnlock()
	if p.closed {
		return
	}
	select {
	case p.events <- event:
	default:
	}
}

// Close publishes what was taken, within the time limit, and ends the connection. What is published afterwards is dropped.
func (p *Publisher) Close() {
	if p == nil {
		return
	}
	p.closing.Lock()
	if !p.closed {
		p.closed = true
		close(p.events)
	}
	p.closing.Unlock()
	select {
	case <-p.done:
	case <-time.After(2 * limit):
	}
	_ = p.connection.Close()
}

func (p *Publisher) work() {
	defer close(p.done)
	for event := range p.events {
		taken := []wire.Event{event}
		for more := true; more && len(taken) < batch; {
			select {
			case next, open := <-p.events:
				if !open {
					more = false
					break
				}
				taken = append(taken, next)
			default:
				more = false
			}
		}
		// Where there is no topic nobody listens: the first who does makes it.
		if err := p.send(taken); err != nil && status.Code(err) != codes.NotFound {
			p.told.Do(func() {
				p.options.Log.Warn("events are not published; whoever waits for them reads the shards instead", "error", err)
			})
		}
	}
}

func (p *Publisher) send(events []wire.Event) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	request := &pubsubpb.PublishRequest{Topic: fmt.Sprintf("projects/%s/topics/%s", p.options.Project, strings.TrimPrefix(p.options.Topic, "/"))}
	for _, event := range events {
		request.Messages = append(request.Messages, &pubsubpb.PubsubMessage{
			Data: wire.Encode(event), Attributes: map[string]string{"job": event.Job, "installation": p.options.Installation},
		})
	}
	_, err := p.client.Publish(ctx, request)
	return err
}

package datastore

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"

	"sparkles.dev/consume/internal/jobstore"
	"sparkles.dev/consume/internal/jobstore/jobstoretest"
	"sparkles.dev/consume/internal/jobstore/memory"
	"sparkles.dev/consume/internal/wire"
)

const hostVariable = "DATASTORE_EMULATOR_HOST"

// emulated gives options for a namespace that nobody else uses, or skips the test.
func emulated(t testing.TB) Options {
	t.Helper()
	host := os.Getenv(hostVariable)
	if host == "" {
		if os.Getenv("SPARKLES_TEST_ALL") == "1" {
			t.Fatal(hostVariable + " is not set: this test needs an emulator of Datastore (python -m tests.support.emulators)")
		}
		t.Skip(hostVariable + " is not set: this test needs an emulator of Datastore (python -m tests.support.emulators)")
	}
	return Options{
		Project: "sparkles-test", Namespace: fmt.Sprintf("go.%x", time.Now().UnixNano()), EmulatorHost: host, Patience: 30 * time.Second,
	}
}

func open(t testing.TB, options Options, objects jobstore.Objects, dial ...grpc.DialOption) *Store {
	t.Helper()
	options.Dial = dial
	store, err := Open(context.Background(), options, objects, nil, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// driver is what a driver does to the documents.
type driver struct {
	testing.TB
	*Store
}

func (d driver) put(made jobstoretest.Made) {
	d.Helper()
	ctx := context.Background()
	for _, document := range made.Shards {
		each, err := entityOf(document)
		if err == nil {
			err = d.client.upsert(ctx, each)
		}
		if err != nil {
			d.Fatal(err)
		}
	}
	job := made.Job.Job
	written := &entity{
		kind: jobKind, name: job.ID, document: wire.Encode(made.Job),
		texts: map[string]string{"pool": job.Pool, "owner": job.Owner},
	}
	if err := d.client.upsert(ctx, written); err != nil {
		d.Fatal(err)
	}
}

func (d driver) shards(job string) []stored {
	d.Helper()
	entities, err := d.client.query(context.Background(), question{kind: shardKind, equal: [2]string{"job", job}})
	if err != nil {
		d.Fatal(err)
	}
	found := make([]stored, len(entities))
	for place, each := range entities {
		if found[place], err = storedOf(each); err != nil {
			d.Fatal(err)
		}
	}
	slices.SortFunc(found, func(a, b stored) int { return a.document.Number - b.document.Number })
	return found
}

func (d driver) documents(job string) []wire.ShardDocument {
	d.Helper()
	var documents []wire.ShardDocument
	for _, each := range d.shards(job) {
		documents = append(documents, each.document)
	}
	return documents
}

func (d driver) alterAll(job string, act func(wire.ShardDocument) wire.ShardDocument) {
	d.Helper()
	for _, each := range d.shards(job) {
		_, err := d.alter(context.Background(), each, func(document wire.ShardDocument) (wire.ShardDocument, bool, error) {
			after := act(document)
			return after, after.Seq != document.Seq, nil
		}, func(wire.ShardDocument) {})
		if err != nil {
			d.Fatal(err)
		}
	}
}

func (d driver) delete(job string) {
	d.Helper()
	if err := d.client.remove(context.Background(), jobKind, job); err != nil {
		d.Fatal(err)
	}
}

// TestContract: the store in Datastore keeps what every store keeps, on whichever emulator there is.
func TestContract(t *testing.T) {
	emulated(t)
	jobstoretest.Run(t, func(t *testing.T) jobstoretest.Backend {
		options, objects := emulated(t), memory.NewObjects()
		driver := driver{t, open(t, options, objects)}
		return jobstoretest.Backend{
			Open:    func() jobstore.Store { return open(t, options, objects) },
			Objects: objects,
			Put:     driver.put,
			Delete:  driver.delete,
			Shards:  driver.documents,
			Change:  driver.alterAll,
		}
	})
}

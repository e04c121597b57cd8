// Package datastore is the job store in Datastore, as docs/wire.md says. It imports jobstore, shard and wire.
//
// Every write to a shard is one commit of one entity with base_version and conflict resolution FAIL. Surprise: a commit whose answer was
// lost is not an error; the entity is looked up again, and it was applied if the shard has the tokens (or records) that were written.
package datastore

import (
	"context"
	"sync"
	"time"

	"sparkles.dev/consume/internal/jobstore"
	"sparkles.dev/consume/internal/wire"
)

var _ jobstore.Store = (*Store)(nil)

// Store is the job store; made by Open, safe for concurrent use.
type Store struct {
	client      *client
	objects     jobstore.Objects
	definitions *jobstore.Definitions
	publish     func(wire.Event)
	version     string

	mutex sync.Mutex
	jobs  map[string]knownJob
	beats map[string]seenBeat
	swept time.Time
}

type seenBeat struct {
	beat    int64
	started int64
	since   time.Time
}

// Open connects. publish, if not nil, is given an event after each write to a shard and must not block; version is the program's.
func Open(ctx context.Context, options Options, objects jobstore.Objects, publish func(wire.Event), version string) (*Store, error) {
	made, err := dial(ctx, options)
	if err != nil {
		return nil, err
	}
	return &Store{
		client: made, objects: objects, definitions: jobstore.NewDefinitions(objects), publish: publish, version: version,
		jobs: make(map[string]knownJob), beats: make(map[string]seenBeat), swept: time.Now(),
	}, nil
}

// Close ends the connection.
func (s *Store) Close() error { return s.client.connection.Close() }

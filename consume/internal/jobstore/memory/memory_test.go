package memory_test

import (
	"testing"

	"sparkles.dev/consume/internal/jobstore"
	"sparkles.dev/consume/internal/jobstore/jobstoretest"
	"sparkles.dev/consume/internal/jobstore/memory"
)

// TestContract: the store in memory keeps what every store keeps.
func TestContract(t *testing.T) {
	jobstoretest.Run(t, func(*testing.T) jobstoretest.Backend {
		objects := memory.NewObjects()
		store := memory.New(objects)
		return jobstoretest.Backend{
			Open:    func() jobstore.Store { return store },
			Objects: objects,
			Put:     func(made jobstoretest.Made) { store.Put(made.Job, made.Shards) },
			Delete:  store.Delete,
			Shards:  store.Shards,
			Change:  store.Change,
		}
	})
}

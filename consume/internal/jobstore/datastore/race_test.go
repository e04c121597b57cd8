package datastore

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sparkles.dev/consume/internal/jobstore/jobstoretest"
	"sparkles.dev/consume/internal/wire"
)

// TestManyClaimersAndManyTasks: no task is claimed twice, and none is left.
func TestManyClaimersAndManyTasks(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some seconds")
	}
	const tasks, claimers = 2000, 32
	s := newScene(t, tasks, 8)
	got := make(chan wire.Claim, 2*tasks)
	var group sync.WaitGroup
	began := time.Now()
	for number := range claimers {
		id := fmt.Sprintf("c%d", number)
		if err := s.driver.EnterWorker(t.Context(), wire.Worker{ID: id, Pool: "p"}); err != nil {
			t.Fatal(err)
		}
		store := open(t, s.options, s.objects)
		group.Go(func() {
			for {
				claims, err := store.Claim(t.Context(), id, "p", 4, 0)
				if err != nil {
					t.Error(err)
					return
				}
				if len(claims) == 0 {
					if _, found, err := store.NextDue(t.Context(), "p"); err != nil || !found {
						return
					}
				}
				for _, claim := range claims {
					got <- claim
				}
			}
		})
	}
	group.Wait()
	close(got)
	t.Logf("%d claims by %d claimers in %.1f s", len(got), claimers, time.Since(began).Seconds())
	tokens := make(map[int]string)
	for claim := range got {
		if other := tokens[claim.Ref.Index]; other != "" {
			t.Errorf("task %d was claimed twice, with %s and %s", claim.Ref.Index, other, claim.Token)
		}
		tokens[claim.Ref.Index] = claim.Token
	}
	for index, task := range s.tasks() {
		if task.State != wire.Claimed || task.Token != tokens[index] || task.Attempt != 1 {
			t.Errorf("task %d: %+v, its claimer has %q", index, task, tokens[index])
		}
	}
	if len(tokens) != tasks {
		t.Errorf("%d of %d tasks were claimed", len(tokens), tasks)
	}
}

// TestNeverMoreAtOnceThanTheJobAllows: eight workers, a job of 40 tasks in shards of 4, three at a time.
func TestNeverMoreAtOnceThanTheJobAllows(t *testing.T) {
	const tasks, most = 40, 3
	s := newScene(t, tasks, 4, func(draft *jobstoretest.Draft) { draft.Parallelism = most })
	var running, peak, done atomic.Int32
	var group sync.WaitGroup
	for number := range 8 {
		id := fmt.Sprintf("c%d", number)
		if err := s.driver.EnterWorker(t.Context(), wire.Worker{ID: id, Pool: "p"}); err != nil {
			t.Fatal(err)
		}
		store := open(t, s.options, s.objects)
		group.Go(func() {
			for done.Load() < tasks && t.Context().Err() == nil {
				claims, err := store.Claim(t.Context(), id, "p", 2, 0)
				if err != nil {
					t.Error(err)
					return
				}
				if len(claims) == 0 {
					time.Sleep(20 * time.Millisecond)
					continue
				}
				for now, before := running.Add(int32(len(claims))), peak.Load(); now > before; before = peak.Load() {
					peak.CompareAndSwap(before, now)
				}
				time.Sleep(10 * time.Millisecond)
				running.Add(-int32(len(claims)))
				var finishes []wire.Finish
				for _, claim := range claims {
					finishes = append(finishes, wire.Finish{Attempt: wire.Attempt{Ref: claim.Ref, Token: claim.Token, Worker: id}, State: wire.Succeeded, Tries: 1})
				}
				accepted, err := store.Finish(t.Context(), finishes, nil)
				if err != nil {
					t.Error(err)
					return
				}
				for _, each := range accepted {
					if each {
						done.Add(1)
					}
				}
			}
		})
	}
	group.Wait()
	t.Logf("at most %d ran at once", peak.Load())
	if peak.Load() > most || done.Load() != tasks {
		t.Errorf("%d ran at once of %d that may; %d of %d are done", peak.Load(), most, done.Load(), tasks)
	}
}

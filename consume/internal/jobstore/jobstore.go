// Package jobstore is what a worker needs of the jobs: claims, their ends, and the other workers. It imports wire, shard and retry.
//
// A claim carries a token, and a write without the current token is refused. jobstoretest holds the list that every store keeps, the
// same as tests/contract/test_job_claims.py.
package jobstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"sparkles.dev/consume/internal/shard"
	"sparkles.dev/consume/internal/wire"
)

// ErrNotFound says that there is no such job (any more).
var ErrNotFound = errors.New("not found")

// HoldsClaims says that a worker cannot leave: without its row nobody could recover its claims.
type HoldsClaims struct {
	Worker string
	Count  int
}

func (e *HoldsClaims) Error() string {
	return fmt.Sprintf("worker %s still holds %s, which must be finished or released first", e.Worker, counted(e.Count, "claim"))
}

// Queue is where claims come from and how they end.
type Queue interface {
	// Claim claims up to limit pending tasks of the pool for a worker that has a row: greatest priority first, then the older job; within
	// a job the lower index of a shard first. Held jobs, tasks before their NotBeforeMS and jobs at their parallelism are passed over,
	// and so is a job whose definitions cannot be believed: where nothing else can be claimed the error is that *wire.Damaged.
	Claim(ctx context.Context, worker, pool string, limit int, nowMS int64) ([]wire.Claim, error)

	// Finish ends claims. An element is false where the token is not current: that one was not recorded. The attempt's result.json is
	// written first where it is not there; that of a preempted one may be missing, since the task runs again. The programs of the claims started run: they are counted as running from now on. Where a job
	// has more failed tasks than its MaxFailures, what is pending of it is cancelled.
	Finish(ctx context.Context, finishes []wire.Finish, started []wire.Claim) ([]bool, error)

	// Release gives back claims whose program was never started: the attempt's number is free again. It returns how many were current.
	Release(ctx context.Context, claims []wire.Claim) (int, error)

	// NextDue is the least NotBeforeMS of the pool's pending, unheld tasks; false where none is pending.
	NextDue(ctx context.Context, pool string) (int64, bool, error)
}

// Roster is who works.
type Roster interface {
	// EnterWorker adds or replaces a worker's row.
	EnterWorker(ctx context.Context, worker wire.Worker) error

	// Beat adds one to the worker's beat; waiting says that it has tasks and no capacity for them, trouble in a few words for people what keeps
	// it from going on. False where the row is gone: the worker was found dead, and its claims are not its own any more.
	Beat(ctx context.Context, worker string, waiting bool, trouble string) (bool, error)

	// Leave removes the row. The error is a *HoldsClaims where the worker still holds some: ListClaims tells which.
	Leave(ctx context.Context, worker string) error

	// ListWorkers is every row, oldest first.
	ListWorkers(ctx context.Context) ([]wire.Worker, error)
}

// Watch is what a worker looks at while programs run.
type Watch interface {
	// HeldTokens is the tokens of those claims that are current; one that is not here was taken away. Cheap: it reads their shards only.
	HeldTokens(ctx context.Context, claims []wire.Claim) (map[string]bool, error)

	// ListClaims is the worker's current claims by job and index, also those that it does not know of because an answer was lost. Reads
	// every open shard: for leaving and for recovery.
	ListClaims(ctx context.Context, worker string) ([]wire.Claim, error)

	// Job is a job as it is now or was a few seconds ago. ErrNotFound: it was deleted.
	Job(ctx context.Context, id string) (wire.JobDocument, error)

	// HealDead ends the claims of workers whose lease is over and removes their rows, last. A result.json with the claim's token counts;
	// otherwise the attempt is recorded as lost. nowMS is the end of what was lost.
	HealDead(ctx context.Context, lease time.Duration, nowMS int64) ([]Healed, error)
}

// Store is all of it.
type Store interface {
	Queue
	Roster
	Watch
}

// Healed is a dead worker whose claims were ended: Recorded had finished, Lost had not.
type Healed struct {
	Worker   string
	How      string
	Recorded int
	Lost     int
}

// String says it for people.
func (h Healed) String() string {
	return fmt.Sprintf("worker %s %s: %d finished but not yet recorded, %d lost", h.Worker, h.How, h.Recorded, h.Lost)
}

// Objects is what the store reads and writes in the bucket, by the names of docs/wire.md. What is not there is fs.ErrNotExist.
type Objects interface {
	ReadAll(ctx context.Context, name string) ([]byte, error)
	ReadRange(ctx context.Context, name string, offset, length int64) ([]byte, error)
	// WriteNew writes an object that is not there yet (ifGenerationMatch=0). False: it is there; nothing was written.
	WriteNew(ctx context.Context, name string, data []byte) (bool, error)
}

// ErrNoObject is what Objects return for what is not there.
var ErrNoObject = fs.ErrNotExist

// ResultName is the object with an attempt's record.
func ResultName(ref wire.AttemptRef) string {
	return fmt.Sprintf("jobs/%s/%d/a%d/result.json", ref.Job, ref.Index, ref.Attempt)
}

// TooManyFailures is the reason of a task that was not started any more because of its job's MaxFailures.
func TooManyFailures(failed, limit int) string {
	return fmt.Sprintf("%s of the job failed and at most %d may", counted(failed, "task"), limit)
}

// HeldOf is claims as shard takes them.
func HeldOf(claims []wire.Claim) []shard.Held {
	held := make([]shard.Held, len(claims))
	for place, claim := range claims {
		held[place] = shard.Held{Ref: claim.Ref, Token: claim.Token}
	}
	return held
}

// ClaimOf is the claim on a claimed task of a shard.
func ClaimOf(document wire.ShardDocument, index int, spec wire.TaskSpec) wire.Claim {
	task := document.Tasks[index-document.First]
	return wire.Claim{
		Ref:   wire.AttemptRef{Job: document.Job, Index: index, Attempt: task.Attempt},
		Token: task.Token, Worker: task.Worker, Spec: spec,
		Tries: task.Tries, Losses: task.Losses, MemoryBytes: task.MemoryBytes,
	}
}

func counted(count int, what string) string {
	if count == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", count, what)
}

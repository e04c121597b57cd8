// Package memory is the job store in memory: shard documents behind one lock. It keeps every promise of jobstoretest, so tests of the
// worker run against it.
package memory

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"sparkles.dev/consume/internal/jobstore"
	"sparkles.dev/consume/internal/shard"
	"sparkles.dev/consume/internal/wire"
)

var (
	_ jobstore.Store   = (*Store)(nil)
	_ jobstore.Objects = (*Objects)(nil)
)

// Store is the job store; made by New.
type Store struct {
	objects     jobstore.Objects
	definitions *jobstore.Definitions

	mutex   sync.Mutex
	jobs    map[string]wire.JobDocument
	shards  map[string][]wire.ShardDocument // by job, in order of number
	workers map[string]*row
}

type row struct {
	worker  wire.Worker
	written time.Time
}

// New makes an empty store whose manifests and records are in objects.
func New(objects jobstore.Objects) *Store {
	return &Store{
		objects: objects, definitions: jobstore.NewDefinitions(objects),
		jobs: make(map[string]wire.JobDocument), shards: make(map[string][]wire.ShardDocument), workers: make(map[string]*row),
	}
}

// Put is the driver's part: it stores a job with its shards, or replaces them.
func (s *Store) Put(job wire.JobDocument, shards []wire.ShardDocument) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.jobs[job.Job.ID], s.shards[job.Job.ID] = job, slices.Clone(shards)
}

// Delete removes a job.
func (s *Store) Delete(job string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	delete(s.jobs, job)
	delete(s.shards, job)
}

// Shards is a job's shards as they are now.
func (s *Store) Shards(job string) []wire.ShardDocument {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return slices.Clone(s.shards[job])
}

// Change writes what a driver would to every shard of a job.
func (s *Store) Change(job string, act func(wire.ShardDocument) wire.ShardDocument) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for place, document := range s.shards[job] {
		s.shards[job][place] = act(document)
	}
}

// Claim: see jobstore.Queue.
func (s *Store) Claim(ctx context.Context, worker, pool string, limit int, nowMS int64) ([]wire.Claim, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	var claims []wire.Claim
	var damaged *wire.Damaged
	if s.workers[worker] == nil {
		return nil, nil
	}
	for _, job := range s.line(pool) {
		got, err := s.claimOf(ctx, job, worker, limit-len(claims), nowMS)
		claims = append(claims, got...)
		if err != nil && !errors.As(err, &damaged) {
			return claims, err
		}
	}
	if len(claims) == 0 && damaged != nil {
		return nil, fmt.Errorf("claim task: %w", damaged)
	}
	return claims, nil
}

// line is the pool's unheld jobs in order of service.
func (s *Store) line(pool string) []wire.JobDocument {
	var found []wire.JobDocument
	for _, job := range s.jobs {
		if job.Job.Pool == pool && !job.Job.Held {
			found = append(found, job)
		}
	}
	slices.SortFunc(found, func(a, b wire.JobDocument) int {
		return cmp.Or(cmp.Compare(b.Job.Spec.Priority, a.Job.Spec.Priority), cmp.Compare(a.Job.Sequence, b.Job.Sequence))
	})
	return found
}

func (s *Store) claimOf(ctx context.Context, job wire.JobDocument, worker string, limit int, nowMS int64) ([]wire.Claim, error) {
	var claims []wire.Claim
	shards := s.shards[job.Job.ID]
	if parallelism := job.Job.Spec.Parallelism; parallelism != nil {
		limit = min(limit, *parallelism-countOf(shards, wire.Claimed))
	}
	for place := range shards {
		if len(claims) >= limit {
			break
		}
		tokens := make([]string, limit-len(claims))
		for number := range tokens {
			tokens[number] = token()
		}
		after, taken := shard.Claim(shards[place], worker, tokens, nowMS)
		fresh := make([]wire.Claim, len(taken))
		for number, index := range taken {
			spec, err := s.definitions.Spec(ctx, job, index)
			if err != nil {
				return claims, err
			}
			fresh[number] = jobstore.ClaimOf(after, index, spec)
		}
		shards[place] = after
		claims = append(claims, fresh...)
	}
	return claims, nil
}

func countOf(shards []wire.ShardDocument, state wire.TaskState) int {
	count := 0
	for _, document := range shards {
		for _, task := range document.Tasks {
			if task.State == state {
				count++
			}
		}
	}
	return count
}

func token() string {
	var random [12]byte
	_, _ = rand.Read(random[:]) // never fails: it ends the process instead
	return hex.EncodeToString(random[:])
}

// Finish: see jobstore.Queue.
func (s *Store) Finish(ctx context.Context, finishes []wire.Finish, started []wire.Claim) ([]bool, error) {
	for _, finish := range finishes {
		if err := shard.CheckEnd(finish.State); err != nil {
			return nil, fmt.Errorf("finish task %s: %w", finish.Attempt.Ref, err)
		}
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.finish(ctx, finishes, started)
}

func (s *Store) finish(ctx context.Context, finishes []wire.Finish, started []wire.Claim) ([]bool, error) {
	accepted := make([]bool, len(finishes))
	for place, finish := range finishes {
		document := s.shardOf(finish.Attempt.Ref)
		if document == nil {
			continue
		}
		after, recorded, err := shard.Finish(*document, []wire.Finish{finish}, nil)
		if err != nil {
			return nil, err
		}
		if accepted[place] = recorded[0]; !recorded[0] {
			continue
		}
		name := jobstore.ResultName(finish.Attempt.Ref)
		if _, err := s.objects.WriteNew(ctx, name, wire.Encode(finish.Attempt)); err != nil && finish.Attempt.Failure != wire.FailurePreempted {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
		*document = after
	}
	for _, claim := range started {
		if document := s.shardOf(claim.Ref); document != nil {
			*document, _, _ = shard.Finish(*document, nil, jobstore.HeldOf([]wire.Claim{claim}))
		}
	}
	for place, finish := range finishes {
		if accepted[place] && (finish.State == wire.Failed || finish.State == wire.Pending) {
			s.limitFailures(finish.Attempt.Ref.Job)
		}
	}
	return accepted, nil
}

func (s *Store) limitFailures(id string) {
	limit := s.jobs[id].Job.Spec.MaxFailures
	failed := countOf(s.shards[id], wire.Failed)
	if limit == nil || failed <= *limit {
		return
	}
	for place, document := range s.shards[id] {
		s.shards[id][place], _ = shard.Cancel(document, []wire.TaskState{wire.Pending}, jobstore.TooManyFailures(failed, *limit), nil)
	}
}

func (s *Store) shardOf(ref wire.AttemptRef) *wire.ShardDocument {
	job, ok := s.jobs[ref.Job]
	if !ok || ref.Index < 1 || ref.Index > job.Job.Count {
		return nil
	}
	return &s.shards[ref.Job][(ref.Index-1)/job.ShardSize]
}

// Release: see jobstore.Queue.
func (s *Store) Release(_ context.Context, claims []wire.Claim) (int, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	total := 0
	for _, claim := range claims {
		if document := s.shardOf(claim.Ref); document != nil {
			after, count := shard.Release(*document, jobstore.HeldOf([]wire.Claim{claim}))
			*document = after
			total += count
			s.limitFailures(claim.Ref.Job)
		}
	}
	return total, nil
}

// NextDue: see jobstore.Queue.
func (s *Store) NextDue(_ context.Context, pool string) (int64, bool, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	var due int64
	found := false
	for _, job := range s.line(pool) {
		for _, document := range s.shards[job.Job.ID] {
			for _, task := range document.Tasks {
				if task.State == wire.Pending && (!found || task.NotBeforeMS < due) {
					due, found = task.NotBeforeMS, true
				}
			}
		}
	}
	return due, found, nil
}

// EnterWorker: see jobstore.Roster.
func (s *Store) EnterWorker(_ context.Context, worker wire.Worker) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.workers[worker.ID] = &row{worker, time.Now()}
	return nil
}

// Beat: see jobstore.Roster.
func (s *Store) Beat(_ context.Context, worker string, waiting bool, _ string) (bool, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	found, ok := s.workers[worker]
	if ok {
		found.worker.Beat++
		found.worker.Waiting, found.written = waiting, time.Now()
	}
	return ok, nil
}

// Leave: see jobstore.Roster.
func (s *Store) Leave(_ context.Context, worker string) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if held := len(s.claimsOf(worker)); held > 0 {
		return &jobstore.HoldsClaims{Worker: worker, Count: held}
	}
	delete(s.workers, worker)
	return nil
}

// ListWorkers: see jobstore.Roster.
func (s *Store) ListWorkers(context.Context) ([]wire.Worker, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	var found []wire.Worker
	for _, each := range s.workers {
		found = append(found, each.worker)
	}
	slices.SortFunc(found, func(a, b wire.Worker) int {
		return cmp.Or(cmp.Compare(a.StartedAtMS, b.StartedAtMS), cmp.Compare(a.ID, b.ID))
	})
	return found, nil
}

// HeldTokens: see jobstore.Watch.
func (s *Store) HeldTokens(_ context.Context, claims []wire.Claim) (map[string]bool, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	held := make(map[string]bool)
	for _, claim := range claims {
		document := s.shardOf(claim.Ref)
		if document != nil && shard.IsHeld(*document, shard.Held{Ref: claim.Ref, Token: claim.Token}) {
			held[claim.Token] = true
		}
	}
	return held, nil
}

// ListClaims: see jobstore.Watch.
func (s *Store) ListClaims(ctx context.Context, worker string) ([]wire.Claim, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	claims := s.claimsOf(worker)
	for place, claim := range claims {
		spec, err := s.definitions.Spec(ctx, s.jobs[claim.Ref.Job], claim.Ref.Index)
		if err != nil {
			return nil, err
		}
		claims[place].Spec = spec
	}
	return claims, nil
}

// claimsOf is the worker's current claims without their definitions.
func (s *Store) claimsOf(worker string) []wire.Claim {
	var claims []wire.Claim
	for _, documents := range s.shards {
		for _, document := range documents {
			for place, task := range document.Tasks {
				if task.State == wire.Claimed && task.Worker == worker {
					claims = append(claims, jobstore.ClaimOf(document, document.First+place, wire.TaskSpec{}))
				}
			}
		}
	}
	slices.SortFunc(claims, func(a, b wire.Claim) int {
		return cmp.Or(cmp.Compare(a.Ref.Job, b.Ref.Job), cmp.Compare(a.Ref.Index, b.Ref.Index))
	})
	return claims
}

// Job: see jobstore.Watch.
func (s *Store) Job(_ context.Context, id string) (wire.JobDocument, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	job, ok := s.jobs[id]
	if !ok {
		return wire.JobDocument{}, fmt.Errorf("job %s: %w", id, jobstore.ErrNotFound)
	}
	return job, nil
}

// HealDead: see jobstore.Watch.
func (s *Store) HealDead(ctx context.Context, lease time.Duration, nowMS int64) ([]jobstore.Healed, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	dead := make(map[string]string)
	for id, each := range s.workers {
		if time.Since(each.written) > lease {
			dead[id] = jobstore.StoodStill
		}
	}
	for _, documents := range s.shards {
		for _, document := range documents {
			for _, task := range document.Tasks {
				if task.State == wire.Claimed && s.workers[task.Worker] == nil {
					dead[task.Worker] = jobstore.Died
				}
			}
		}
	}
	var healed []jobstore.Healed
	for worker, how := range dead {
		var finishes []wire.Finish
		for _, claim := range s.claimsOf(worker) {
			spec := s.jobs[claim.Ref.Job].Job.Spec
			definition, err := s.definitions.Spec(ctx, s.jobs[claim.Ref.Job], claim.Ref.Index)
			if err == nil {
				claim.Spec = definition
			}
			finish, err := jobstore.FinishOfDead(ctx, s.objects, claim, how, &spec, nowMS)
			if err != nil {
				return healed, err
			}
			finishes = append(finishes, finish)
		}
		accepted, err := s.finish(ctx, finishes, nil)
		if err != nil {
			return healed, err
		}
		delete(s.workers, worker)
		healed = append(healed, jobstore.CountHealed(worker, how, finishes, accepted))
	}
	return healed, nil
}

// Objects is a bucket in memory.
type Objects struct {
	mutex sync.Mutex
	held  map[string][]byte
}

// NewObjects makes an empty bucket.
func NewObjects() *Objects { return &Objects{held: make(map[string][]byte)} }

// Put writes an object, whatever is there.
func (o *Objects) Put(name string, data []byte) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	o.held[name] = slices.Clone(data)
}

// ReadAll: see jobstore.Objects.
func (o *Objects) ReadAll(_ context.Context, name string) ([]byte, error) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	data, ok := o.held[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return slices.Clone(data), nil
}

// ReadRange: see jobstore.Objects.
func (o *Objects) ReadRange(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	data, err := o.ReadAll(ctx, name)
	if err != nil {
		return nil, err
	}
	begin := min(offset, int64(len(data)))
	return data[begin:min(begin+length, int64(len(data)))], nil
}

// WriteNew: see jobstore.Objects.
func (o *Objects) WriteNew(_ context.Context, name string, data []byte) (bool, error) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	if _, ok := o.held[name]; ok {
		return false, nil
	}
	o.held[name] = slices.Clone(data)
	return true, nil
}

package datastore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sparkles.dev/consume/internal/jobstore"
	"sparkles.dev/consume/internal/shard"
	"sparkles.dev/consume/internal/wire"
)

// sweepEvery: claims of workers without a row come from a worker that stood still between looking at its row and its commit, longer than
// the lease. Finding them means reading every open shard, so it is done this seldom where no worker is dead.
const sweepEvery = 5 * time.Minute

func workerEntity(document wire.WorkerDocument) *entity {
	worker := document.Worker
	return &entity{
		kind: workerKind, name: worker.ID, document: wire.Encode(document), texts: map[string]string{"pool": worker.Pool},
	}
}

// EnterWorker: see jobstore.Roster.
func (s *Store) EnterWorker(ctx context.Context, worker wire.Worker) error {
	if err := s.client.upsert(ctx, workerEntity(wire.WorkerDocument{Schema: wire.Schema, Worker: worker, Version: s.version})); err != nil {
		return fmt.Errorf("enter worker %s: %w", worker.ID, err)
	}
	return nil
}

// Beat: see jobstore.Roster.
func (s *Store) Beat(ctx context.Context, worker string, waiting bool, trouble string) (bool, error) {
	for {
		found, err := s.client.get(ctx, workerKind, worker)
		if err != nil || found == nil {
			return false, wrap(err, "beat of worker "+worker)
		}
		document, err := wire.Decode[wire.WorkerDocument](found.document, workerKind+" "+worker)
		if err != nil {
			return false, err
		}
		document.Worker.Beat++
		document.Worker.Waiting = waiting
		document.Trouble = trouble
		written := workerEntity(document)
		written.version = found.version
		result, err := s.client.replace(ctx, written)
		if err != nil {
			return false, wrap(err, "beat of worker "+worker)
		}
		if result != refused { // one whose answer was lost has beaten, or the row is gone: the next beat tells
			return true, nil
		}
		if err := rest(ctx, leastPause); err != nil {
			return false, wrap(err, "beat of worker "+worker)
		}
	}
}

func wrap(err error, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Leave: see jobstore.Roster.
func (s *Store) Leave(ctx context.Context, worker string) error {
	shards, err := s.openShards(ctx)
	if err != nil {
		return wrap(err, "leave of worker "+worker)
	}
	if held := len(claimsOf(shards, func(id string) bool { return id == worker })); held > 0 {
		return &jobstore.HoldsClaims{Worker: worker, Count: held}
	}
	return wrap(s.client.remove(ctx, workerKind, worker), "leave of worker "+worker)
}

// ListWorkers: see jobstore.Roster.
func (s *Store) ListWorkers(ctx context.Context) ([]wire.Worker, error) {
	rows, err := s.rows(ctx)
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	workers := make([]wire.Worker, len(rows))
	for place, each := range rows {
		workers[place] = each.worker
	}
	slices.SortFunc(workers, func(a, b wire.Worker) int {
		return cmp.Or(cmp.Compare(a.StartedAtMS, b.StartedAtMS), cmp.Compare(a.ID, b.ID))
	})
	return workers, nil
}

type row struct {
	entity *entity
	worker wire.Worker
}

func (s *Store) rows(ctx context.Context) ([]row, error) {
	found, err := s.client.query(ctx, question{kind: workerKind})
	if err != nil {
		return nil, err
	}
	rows := make([]row, len(found))
	for place, each := range found {
		document, err := wire.Decode[wire.WorkerDocument](each.document, workerKind+" "+each.name)
		if err != nil {
			return nil, err
		}
		rows[place] = row{each, document.Worker}
	}
	return rows, nil
}

// HeldTokens: see jobstore.Watch.
func (s *Store) HeldTokens(ctx context.Context, claims []wire.Claim) (map[string]bool, error) {
	held := make(map[string]bool)
	places := make(map[shardID][]wire.Claim)
	var wanted []shardID
	for _, claim := range claims {
		where, err := s.placeOf(ctx, claim.Ref)
		if errors.Is(err, jobstore.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look at claim %s: %w", claim.Ref, err)
		}
		if places[where] == nil {
			wanted = append(wanted, where)
		}
		places[where] = append(places[where], claim)
	}
	shards, err := s.getMany(ctx, wanted)
	if err != nil {
		return nil, fmt.Errorf("look at claims: %w", err)
	}
	for where, found := range shards {
		for _, claim := range places[where] {
			if shard.IsHeld(found.document, shard.Held{Ref: claim.Ref, Token: claim.Token}) {
				held[claim.Token] = true
			}
		}
	}
	return held, nil
}

// ListClaims: see jobstore.Watch.
func (s *Store) ListClaims(ctx context.Context, worker string) ([]wire.Claim, error) {
	shards, err := s.openShards(ctx)
	if err != nil {
		return nil, fmt.Errorf("list claims of worker %s: %w", worker, err)
	}
	claims := claimsOf(shards, func(id string) bool { return id == worker })
	for place, claim := range claims {
		job, err := s.Job(ctx, claim.Ref.Job)
		if err != nil {
			return nil, err
		}
		if claims[place].Spec, err = s.definitions.Spec(ctx, job, claim.Ref.Index); err != nil {
			return nil, err
		}
	}
	return claims, nil
}

// claimsOf is the current claims of those workers, by job and index, without their definitions.
func claimsOf(shards []stored, of func(worker string) bool) []wire.Claim {
	var claims []wire.Claim
	for _, each := range shards {
		for place, task := range each.document.Tasks {
			if task.State == wire.Claimed && of(task.Worker) {
				claims = append(claims, jobstore.ClaimOf(each.document, each.document.First+place, wire.TaskSpec{}))
			}
		}
	}
	slices.SortFunc(claims, func(a, b wire.Claim) int {
		return cmp.Or(cmp.Compare(a.Ref.Job, b.Ref.Job), cmp.Compare(a.Ref.Index, b.Ref.Index))
	})
	return claims
}

// HealDead: see jobstore.Watch.
func (s *Store) HealDead(ctx context.Context, lease time.Duration, nowMS int64) ([]jobstore.Healed, error) {
	rows, err := s.rows(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for dead workers: %w", err)
	}
	dead := s.stoodStill(rows, lease)
	if len(dead) == 0 && !s.sweepDue() {
		return nil, nil
	}
	shards, err := s.openShards(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for claims of dead workers: %w", err)
	}
	// Rows are read again after the shards: a worker enters before it claims, so one whose claim was seen has a row now, unless it is gone.
	if rows, err = s.rows(ctx); err != nil {
		return nil, fmt.Errorf("look for dead workers: %w", err)
	}
	alive := make(map[string]bool)
	for _, each := range rows {
		alive[each.worker.ID] = true
	}
	for _, claim := range claimsOf(shards, func(id string) bool { return !alive[id] }) {
		if dead[claim.Worker] == "" {
			dead[claim.Worker] = jobstore.Died
		}
	}
	var healed []jobstore.Healed
	for worker, how := range dead {
		each, err := s.heal(ctx, worker, how, shards, lease, nowMS)
		if err != nil {
			return healed, fmt.Errorf("end the claims of worker %s, which %s: %w", worker, how, err)
		}
		if each != nil {
			healed = append(healed, *each)
		}
	}
	return healed, nil
}

// stoodStill is the workers whose lease is over: by the server's own times where it has them, else by how long this process saw the same
// beat. Two machines' clocks are never compared. Nobody is dead until the service has answered for a whole lease after it was away.
func (s *Store) stoodStill(rows []row, lease time.Duration) map[string]string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	now := time.Now()
	seen := make(map[string]seenBeat, len(rows))
	dead := make(map[string]string)
	for _, each := range rows {
		before, ok := s.beats[each.worker.ID]
		if !ok || before.beat != each.worker.Beat || before.started != each.worker.StartedAtMS {
			before = seenBeat{each.worker.Beat, each.worker.StartedAtMS, now}
		}
		seen[each.worker.ID] = before
		age := now.Sub(before.since)
		if each.entity.known {
			age = each.entity.age
		}
		if age > lease {
			dead[each.worker.ID] = jobstore.StoodStill
		}
	}
	s.beats = seen
	if s.client.answersFor() <= lease {
		clear(dead)
	}
	return dead
}

func (s *Store) sweepDue() bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if time.Since(s.swept) < sweepEvery {
		return false
	}
	s.swept = time.Now()
	return true
}

// heal ends the claims of one dead worker and then removes its row, unless it has beaten since.
func (s *Store) heal(ctx context.Context, worker, how string, shards []stored, lease time.Duration, nowMS int64) (*jobstore.Healed, error) {
	var finishes []wire.Finish
	for _, claim := range claimsOf(shards, func(id string) bool { return id == worker }) {
		var spec *wire.JobSpec
		job, err := s.Job(ctx, claim.Ref.Job)
		switch {
		case errors.Is(err, jobstore.ErrNotFound):
		case err != nil:
			return nil, err
		default:
			spec = &job.Job.Spec
			// A definition that cannot be believed says nothing of the task's own memory: the job's stands in.
			var damaged *wire.Damaged
			if claim.Spec, err = s.definitions.Spec(ctx, job, claim.Ref.Index); err != nil && !errors.As(err, &damaged) {
				return nil, err
			}
		}
		finish, err := jobstore.FinishOfDead(ctx, s.objects, claim, how, spec, nowMS)
		if err != nil {
			return nil, err
		}
		finishes = append(finishes, finish)
	}
	accepted, err := s.Finish(ctx, finishes, nil)
	if err != nil {
		return nil, err
	}
	healed := jobstore.CountHealed(worker, how, finishes, accepted)
	// Claims that it made since the shards were read keep the row: the next look ends them.
	err = s.Leave(ctx, worker)
	var holds *jobstore.HoldsClaims
	if err != nil && !errors.As(err, &holds) {
		return nil, err
	}
	if how == jobstore.Died && healed.Recorded+healed.Lost == 0 {
		return nil, nil
	}
	return &healed, nil
}

package datastore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"sparkles.dev/consume/internal/jobstore"
	"sparkles.dev/consume/internal/shard"
	"sparkles.dev/consume/internal/wire"
)

// spareTime is for the record of an attempt that runs again.
const spareTime = 2 * time.Second

// group is what is to be written to one shard.
type group struct {
	finishes []int // places among all
	started  []shard.Held
}

// Finish: see jobstore.Queue. One commit for each shard.
func (s *Store) Finish(ctx context.Context, finishes []wire.Finish, started []wire.Claim) ([]bool, error) {
	for _, finish := range finishes {
		if err := shard.CheckEnd(finish.State); err != nil {
			return nil, fmt.Errorf("finish task %s: %w", finish.Attempt.Ref, err)
		}
	}
	// By the server's clock: who claims next may have another one.
	finishes = slices.Clone(finishes)
	for number := range finishes {
		if finishes[number].NotBeforeMS > 0 {
			finishes[number].NotBeforeMS += s.client.aheadMS()
		}
	}
	groups := make(map[shardID]*group)
	for number, finish := range finishes {
		at, err := s.groupOf(ctx, groups, finish.Attempt.Ref)
		if err != nil {
			return nil, fmt.Errorf("finish task %s: %w", finish.Attempt.Ref, err)
		}
		if at != nil {
			at.finishes = append(at.finishes, number)
		}
	}
	for _, claim := range started {
		at, err := s.groupOf(ctx, groups, claim.Ref)
		if err != nil {
			return nil, fmt.Errorf("mark task %s as started: %w", claim.Ref, err)
		}
		if at != nil {
			at.started = append(at.started, shard.Held{Ref: claim.Ref, Token: claim.Token})
		}
	}
	accepted := make([]bool, len(finishes))
	away := false
	shards, err := s.getMany(ctx, slices.Collect(maps.Keys(groups)))
	if err != nil {
		return nil, fmt.Errorf("finish tasks: %w", err)
	}
	for where, found := range shards {
		if err := s.finishIn(ctx, found, groups[where], finishes, accepted, &away); err != nil {
			return accepted, fmt.Errorf("finish tasks of shard %s: %w", found.entity.name, err)
		}
	}
	limited := make(map[string]bool)
	for number, finish := range finishes {
		if job := finish.Attempt.Ref.Job; accepted[number] && (finish.State == wire.Failed || finish.State == wire.Pending) && !limited[job] {
			limited[job] = true
			if err := s.limitFailures(ctx, job); err != nil {
				return accepted, fmt.Errorf("cancel what is pending of job %s: %w", job, err)
			}
		}
	}
	return accepted, nil
}

// groupOf is the group that a task's shard has; nil where there is no such task (any more).
func (s *Store) groupOf(ctx context.Context, groups map[shardID]*group, ref wire.AttemptRef) (*group, error) {
	where, err := s.placeOf(ctx, ref)
	if errors.Is(err, jobstore.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if groups[where] == nil {
		groups[where] = &group{}
	}
	return groups[where], nil
}

func (s *Store) finishIn(ctx context.Context, found stored, wanted *group, finishes []wire.Finish, accepted []bool, away *bool) error {
	mine := make([]wire.Finish, len(wanted.finishes))
	for number, each := range wanted.finishes {
		mine[number] = finishes[each]
	}
	if err := s.writeRecords(ctx, found.document, mine, away); err != nil {
		return err
	}
	done := make([]bool, len(mine)) // by an earlier try whose answer was lost
	present, err := s.alter(ctx, found, func(document wire.ShardDocument) (wire.ShardDocument, bool, error) {
		after, recorded, err := shard.Finish(document, mine, wanted.started)
		for number, each := range wanted.finishes {
			accepted[each] = err == nil && (recorded[number] || done[number])
		}
		return after, after.Seq != document.Seq, err
	}, func(document wire.ShardDocument) {
		for number, finish := range mine {
			done[number] = done[number] || wasRecorded(document, finish.Attempt)
		}
	})
	if err != nil || !present {
		for _, each := range wanted.finishes {
			accepted[each] = false
		}
	}
	return err
}

// wasRecorded tells whether the shard has the attempt's record.
func wasRecorded(document wire.ShardDocument, attempt wire.Attempt) bool {
	at := attempt.Ref.Index - document.First
	return at >= 0 && at < len(document.Tasks) && slices.ContainsFunc(document.Tasks[at].Records, func(record wire.Attempt) bool {
		return record.Ref == attempt.Ref && record.Token == attempt.Token
	})
}

// writeRecords writes result.json of each attempt that is about to be recorded, where it is not there: before a shard names an attempt as
// ended, its record exists. A preempted one is given back without it where the bucket is away: its worker has little time.
func (s *Store) writeRecords(ctx context.Context, document wire.ShardDocument, finishes []wire.Finish, away *bool) error {
	for _, finish := range finishes {
		attempt := finish.Attempt
		if !shard.IsHeld(document, shard.Held{Ref: attempt.Ref, Token: attempt.Token}) {
			continue
		}
		name := jobstore.ResultName(attempt.Ref)
		if attempt.Failure == wire.FailurePreempted {
			if !*away {
				limited, done := context.WithTimeout(ctx, spareTime)
				_, err := s.objects.WriteNew(limited, name, wire.Encode(attempt))
				*away = err != nil
				done()
			}
			continue
		}
		if _, err := s.objects.WriteNew(ctx, name, wire.Encode(attempt)); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

// Release: see jobstore.Queue.
func (s *Store) Release(ctx context.Context, claims []wire.Claim) (int, error) {
	groups := make(map[shardID]*group)
	for _, claim := range claims {
		at, err := s.groupOf(ctx, groups, claim.Ref)
		if err != nil {
			return 0, fmt.Errorf("release task %s: %w", claim.Ref, err)
		}
		if at != nil {
			at.started = append(at.started, shard.Held{Ref: claim.Ref, Token: claim.Token})
		}
	}
	shards, err := s.getMany(ctx, slices.Collect(maps.Keys(groups)))
	if err != nil {
		return 0, fmt.Errorf("release tasks: %w", err)
	}
	total := 0
	for where, found := range shards {
		count := 0
		_, err := s.alter(ctx, found, func(document wire.ShardDocument) (wire.ShardDocument, bool, error) {
			after, now := shard.Release(document, groups[where].started)
			count = max(count, now) // a try whose answer was lost may have released them
			return after, now > 0, nil
		}, func(wire.ShardDocument) {})
		if err != nil {
			return total, fmt.Errorf("release tasks of shard %s: %w", found.entity.name, err)
		}
		total += count
	}
	jobs := make(map[string]bool)
	for where := range groups {
		if !jobs[where.job] {
			jobs[where.job] = true
			if err := s.limitFailures(ctx, where.job); err != nil {
				return total, fmt.Errorf("cancel what is pending of job %s: %w", where.job, err)
			}
		}
	}
	return total, nil
}

// limitFailures cancels what is pending where the job has more failures than it may.
func (s *Store) limitFailures(ctx context.Context, id string) error {
	job, err := s.Job(ctx, id)
	if errors.Is(err, jobstore.ErrNotFound) {
		return nil
	}
	if err != nil || job.Job.Spec.MaxFailures == nil {
		return err
	}
	shards, err := s.ofJob(ctx, job)
	if err != nil {
		return err
	}
	failed := 0
	for _, each := range shards {
		for _, task := range each.document.Tasks {
			if task.State == wire.Failed {
				failed++
			}
		}
	}
	if failed <= *job.Job.Spec.MaxFailures {
		return nil
	}
	reason := jobstore.TooManyFailures(failed, *job.Job.Spec.MaxFailures)
	for _, each := range shards {
		_, err := s.alter(ctx, each, func(document wire.ShardDocument) (wire.ShardDocument, bool, error) {
			after, count := shard.Cancel(document, []wire.TaskState{wire.Pending}, reason, nil)
			return after, count > 0, nil
		}, func(wire.ShardDocument) {})
		if err != nil {
			return err
		}
	}
	return nil
}

package datastore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"sparkles.dev/consume/internal/jobstore"
	"sparkles.dev/consume/internal/shard"
	"sparkles.dev/consume/internal/wire"
)

const (
	// fewShards is what the first query asks for; where they give nothing, the next asks for four times as many, manyShards at most.
	fewShards  = 4
	manyShards = 64
	// meetings: claimers that met this often at a job look elsewhere; with pauses of 50 ms to 2 s they are all over it.
	meetings = 10
)

// Claim: see jobstore.Queue.
func (s *Store) Claim(ctx context.Context, worker, pool string, limit int, nowMS int64) ([]wire.Claim, error) {
	if limit < 1 {
		return nil, nil
	}
	row, err := s.client.get(ctx, workerKind, worker)
	if err != nil {
		return nil, fmt.Errorf("claim task: %w", err)
	}
	if row == nil {
		return nil, nil
	}
	ask := claiming{worker: worker, nowMS: nowMS}
	var claims []wire.Claim
	var damaged *wire.Damaged
	line := ""
	for len(claims) < limit {
		if line, err = s.nextLine(ctx, pool, line); err != nil || line == "" {
			break
		}
		var got []wire.Claim
		got, err = s.claimInLine(ctx, line, ask, limit-len(claims))
		claims = append(claims, got...)
		if err != nil && !errors.As(err, &damaged) {
			break
		}
		err = nil
	}
	if len(claims) > 0 {
		// What went wrong afterwards will go wrong again; these are held already.
		return claims, nil
	}
	if err == nil && damaged != nil {
		err = damaged
	}
	if err != nil {
		return nil, fmt.Errorf("claim task: %w", err)
	}
	return nil, nil
}

// claiming is who claims and when.
type claiming struct {
	worker string
	nowMS  int64
}

// nextLine is the least claimable of a pool that is greater than after; "" where there is none.
func (s *Store) nextLine(ctx context.Context, pool, after string) (string, error) {
	prefix := shard.LinePrefix(pool)
	if after == "" {
		after = prefix
	}
	end := prefix[:len(prefix)-1] + "0" // the character after "/"
	found, err := s.client.query(ctx, question{
		kind: shardKind, above: [2]string{"claimable", after}, below: [2]string{"claimable", end}, order: "claimable", limit: 1,
	})
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0].texts["claimable"], nil
}

// claimInLine claims in the shards of one job, from a random key on and around; again from another where somebody else was faster.
func (s *Store) claimInLine(ctx context.Context, line string, ask claiming, limit int) ([]wire.Claim, error) {
	pause := leastPause
	for range meetings {
		claims, met, err := s.claimAround(ctx, line, ask, limit)
		if err != nil || !met || len(claims) > 0 {
			return claims, err
		}
		if err := rest(ctx, pause); err != nil {
			return nil, err
		}
		pause = min(2*pause, mostPause)
	}
	return nil, nil
}

// claimAround goes once around the line's shards. met: it ended early because somebody else wrote to a shard first.
func (s *Store) claimAround(ctx context.Context, line string, ask claiming, limit int) (claims []wire.Claim, met bool, err error) {
	start := randomKey()
	after, wrapped, batch := start, false, fewShards
	for {
		entities, err := s.client.query(ctx, question{
			kind: shardKind, equal: [2]string{"claimable", line}, afterKey: after, limit: batch,
		})
		if err != nil {
			return claims, false, err
		}
		for _, each := range entities {
			after = each.name
			if wrapped && after > start {
				return claims, false, nil
			}
			found, err := storedOf(each)
			if err != nil {
				return claims, false, err
			}
			got, goOn, err := s.claimIn(ctx, &found, ask, limit-len(claims))
			claims = append(claims, got...)
			if err != nil || goOn == stop || len(claims) == limit {
				return claims, false, err
			}
			if goOn == meet {
				return claims, true, nil
			}
		}
		if len(entities) < batch {
			if wrapped {
				return claims, false, nil
			}
			after, wrapped = "", true
		}
		batch = min(4*batch, manyShards)
	}
}

// step is how to go on after a shard.
type step int

const (
	next step = iota // to the next shard
	stop             // with the next job
	meet             // elsewhere, after a pause
)

// claimIn claims in one shard. The definitions are read first: what cannot be told to the worker is not claimed.
func (s *Store) claimIn(ctx context.Context, found *stored, ask claiming, limit int) ([]wire.Claim, step, error) {
	job, err := s.jobOf(ctx, found.document)
	if errors.Is(err, jobstore.ErrNotFound) {
		return nil, next, nil
	}
	if err != nil {
		return nil, stop, err
	}
	if job.Job.Held {
		return nil, stop, nil
	}
	parallelism := job.Job.Spec.Parallelism
	if parallelism != nil {
		claimed, err := s.countClaimed(ctx, job)
		if err != nil {
			return nil, stop, err
		}
		if limit = min(limit, *parallelism-claimed); limit < 1 {
			return nil, stop, nil
		}
	}
	after, taken := shard.Claim(found.document, ask.worker, tokens(min(limit, len(found.document.Tasks))), ask.nowMS+s.client.aheadMS())
	if len(taken) == 0 {
		return nil, next, nil
	}
	claims := make([]wire.Claim, len(taken))
	for place, index := range taken {
		spec, err := s.definitions.Spec(ctx, job, index)
		if err != nil {
			return nil, stop, err
		}
		claims[place] = jobstore.ClaimOf(after, index, spec)
	}
	if claims, err = s.commitClaims(ctx, found, after, claims); err != nil || len(claims) == 0 {
		return nil, meet, err
	}
	if parallelism == nil {
		return claims, next, nil
	}
	return s.withinParallelism(ctx, job, *parallelism, claims)
}

// commitClaims writes the claims; those that hold are returned, none where somebody else wrote first.
func (s *Store) commitClaims(ctx context.Context, found *stored, after wire.ShardDocument, claims []wire.Claim) ([]wire.Claim, error) {
	result, err := s.write(ctx, found, after)
	if result == applied {
		return claims, nil
	}
	if result == refused {
		return nil, err
	}
	// The answer was lost: what is there now tells. A worker that is leaving is not told of claims, but gives them back.
	lookup, cancel := settling(ctx)
	defer cancel()
	current, lookupErr := s.client.get(lookup, shardKind, found.entity.name)
	if lookupErr != nil || current == nil {
		return nil, errors.Join(err, lookupErr)
	}
	now, decodeErr := storedOf(current)
	if decodeErr != nil {
		return nil, errors.Join(err, decodeErr)
	}
	claims = slices.DeleteFunc(claims, func(claim wire.Claim) bool {
		return !shard.IsHeld(now.document, shard.Held{Ref: claim.Ref, Token: claim.Token})
	})
	if err != nil && len(claims) > 0 {
		_, releaseErr := s.Release(lookup, claims)
		return nil, errors.Join(err, releaseErr)
	}
	if len(claims) > 0 {
		s.tell(found.document, after)
	}
	*found = now
	return claims, err
}

// withinParallelism counts once more: the last of any group of claimers sees all others, so what is too many is given back here.
func (s *Store) withinParallelism(ctx context.Context, job wire.JobDocument, parallelism int, claims []wire.Claim) ([]wire.Claim, step, error) {
	claimed, err := s.countClaimed(ctx, job)
	over := claimed - parallelism
	if err != nil {
		over = len(claims)
	}
	if over <= 0 {
		return claims, next, nil
	}
	keep := max(0, len(claims)-over)
	giving := ctx
	if err != nil {
		settled, cancel := settling(ctx)
		defer cancel()
		giving = settled
	}
	if _, releaseErr := s.Release(giving, claims[keep:]); releaseErr != nil {
		return claims[:keep], stop, errors.Join(err, releaseErr)
	}
	return claims[:keep], meet, err
}

func (s *Store) countClaimed(ctx context.Context, job wire.JobDocument) (int, error) {
	return s.countTasks(ctx, job, wire.Claimed)
}

func (s *Store) countTasks(ctx context.Context, job wire.JobDocument, state wire.TaskState) (int, error) {
	shards, err := s.ofJob(ctx, job)
	count := 0
	for _, each := range shards {
		for _, task := range each.document.Tasks {
			if task.State == state {
				count++
			}
		}
	}
	return count, err
}

// NextDue: see jobstore.Queue.
func (s *Store) NextDue(ctx context.Context, pool string) (int64, bool, error) {
	var due int64
	found := false
	line := ""
	for {
		var err error
		if line, err = s.nextLine(ctx, pool, line); err != nil {
			return 0, false, fmt.Errorf("look for the next task: %w", err)
		}
		if line == "" {
			return max(0, due-s.client.aheadMS()), found, nil
		}
		entities, err := s.client.query(ctx, question{kind: shardKind, equal: [2]string{"claimable", line}})
		if err != nil {
			return 0, false, fmt.Errorf("look for the next task: %w", err)
		}
		for _, each := range entities {
			held, err := storedOf(each)
			if err != nil {
				return 0, false, err
			}
			job, err := s.jobOf(ctx, held.document)
			if errors.Is(err, jobstore.ErrNotFound) {
				continue
			}
			if err != nil {
				return 0, false, err
			}
			if job.Job.Held {
				break
			}
			for _, task := range held.document.Tasks {
				if task.State == wire.Pending && (!found || task.NotBeforeMS < due) {
					due, found = task.NotBeforeMS, true
				}
			}
			if found && due == 0 {
				return 0, true, nil
			}
		}
	}
}

// randomKey is a key name somewhere among those of shards.
func randomKey() string { return randomHex(4) }

func tokens(count int) []string {
	made := make([]string, count)
	for place := range made {
		made[place] = randomHex(12)
	}
	return made
}

func randomHex(size int) string {
	random := make([]byte, size)
	_, _ = rand.Read(random) // never fails: it ends the process instead
	return hex.EncodeToString(random)
}

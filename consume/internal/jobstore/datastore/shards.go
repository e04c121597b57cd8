package datastore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sparkles.dev/consume/internal/jobstore"
	"sparkles.dev/consume/internal/shard"
	"sparkles.dev/consume/internal/wire"
)

const (
	jobKind    = "SparklesJob"
	shardKind  = "SparklesShard"
	workerKind = "SparklesWorker"

	// entityBytes: Datastore takes 1,048,572 bytes an entity (documented limit); the rest is for keys and indexed properties.
	entityBytes = 1_000_000
	// jobKept is how long a job's document is used again: so long may a worker not notice that a job is held.
	jobKept = 3 * time.Second
)

// stored is a shard as it is in Datastore.
type stored struct {
	entity   *entity
	document wire.ShardDocument
}

func storedOf(each *entity) (stored, error) {
	document, err := wire.Decode[wire.ShardDocument](each.document, shardKind+" "+each.name)
	return stored{each, document}, err
}

func entityOf(document wire.ShardDocument) (*entity, error) {
	data := wire.Encode(document)
	if len(data) > entityBytes {
		return nil, fmt.Errorf("tasks %d to %d of job %s: their records have %d bytes; Datastore takes %d in one entity",
			document.First, document.First+len(document.Tasks)-1, document.Job, len(data), entityBytes)
	}
	return &entity{
		kind: shardKind, name: shard.KeyName(document.Job, document.Number), document: data,
		texts: map[string]string{
			"job": document.Job, "claimable": shard.Claimable(document), "open": shard.Unfinished(document),
		},
		lists: map[string][]string{"reuses": shard.Reuses(document)},
	}, nil
}

// write is one compare-and-set of a shard; on applied it becomes what is stored, and the event is published.
func (s *Store) write(ctx context.Context, each *stored, after wire.ShardDocument) (outcome, error) {
	next, err := entityOf(after)
	if err != nil {
		return refused, err
	}
	next.version = each.entity.version
	result, err := s.client.replace(ctx, next)
	if result == applied {
		s.tell(each.document, after)
		*each = stored{next, after}
	}
	return result, err
}

// alter applies act until it is written or leaves the shard as it is. settled is called with the shard as it is after a lost answer,
// before act is tried on it again. False: the shard is gone.
func (s *Store) alter(ctx context.Context, each stored, act func(wire.ShardDocument) (wire.ShardDocument, bool, error), settled func(wire.ShardDocument)) (bool, error) {
	pause := leastPause
	for {
		after, changed, err := act(each.document)
		if err != nil || !changed {
			return true, err
		}
		result, err := s.write(ctx, &each, after)
		if err != nil {
			return true, err
		}
		if result == applied {
			return true, nil
		}
		if err := rest(ctx, pause); err != nil {
			return true, err
		}
		pause = min(2*pause, mostPause)
		current, err := s.client.get(ctx, shardKind, each.entity.name)
		if err != nil || current == nil {
			return false, err
		}
		if each, err = storedOf(current); err != nil {
			return true, err
		}
		if result == unsure {
			settled(each.document)
		}
	}
}

func (s *Store) tell(before, after wire.ShardDocument) {
	if s.publish == nil {
		return
	}
	event := wire.Event{Schema: wire.Schema, Job: after.Job, Shard: after.Number, Seq: after.Seq}
	for place, task := range after.Tasks {
		if old := before.Tasks[place]; old.State != task.State || old.Attempt != task.Attempt {
			event.Changes = append(event.Changes, wire.Change{Index: after.First + place, State: task.State, Attempt: task.Attempt})
		}
	}
	s.publish(event)
}

// shardID is a shard by job and number.
type shardID struct {
	job    string
	number int
}

// getMany is those of the shards that exist.
func (s *Store) getMany(ctx context.Context, wanted []shardID) (map[shardID]stored, error) {
	keys := make([]string, len(wanted))
	for number, each := range wanted {
		keys[number] = shard.KeyName(each.job, each.number)
	}
	entities, err := s.client.lookup(ctx, shardKind, keys)
	if err != nil {
		return nil, err
	}
	found := make(map[shardID]stored, len(entities))
	for number, each := range wanted {
		if held, ok := entities[keys[number]]; ok {
			if found[each], err = storedOf(held); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// ofJob is every shard of a job.
func (s *Store) ofJob(ctx context.Context, job wire.JobDocument) (map[shardID]stored, error) {
	var wanted []shardID
	for number := range (job.Job.Count + job.ShardSize - 1) / job.ShardSize {
		wanted = append(wanted, shardID{job.Job.ID, number})
	}
	return s.getMany(ctx, wanted)
}

// openShards is every shard with tasks pending or claimed, of all jobs.
func (s *Store) openShards(ctx context.Context) ([]stored, error) {
	entities, err := s.client.query(ctx, question{kind: shardKind, above: [2]string{"open", ""}, order: "open"})
	if err != nil {
		return nil, err
	}
	found := make([]stored, len(entities))
	for number, each := range entities {
		if found[number], err = storedOf(each); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// Jobs

type knownJob struct {
	document wire.JobDocument
	err      error
	read     time.Time
}

// Job: see jobstore.Watch.
func (s *Store) Job(ctx context.Context, id string) (wire.JobDocument, error) {
	s.mutex.Lock()
	known, ok := s.jobs[id]
	s.mutex.Unlock()
	if ok && time.Since(known.read) < jobKept {
		return known.document, known.err
	}
	return s.freshJob(ctx, id)
}

func (s *Store) freshJob(ctx context.Context, id string) (wire.JobDocument, error) {
	read := time.Now()
	found, err := s.client.get(ctx, jobKind, id)
	if err != nil {
		return wire.JobDocument{}, err
	}
	var job wire.JobDocument
	if found == nil {
		err = fmt.Errorf("job %s: %w", id, jobstore.ErrNotFound)
	} else if job, err = wire.Decode[wire.JobDocument](found.document, jobKind+" "+id); err == nil && job.ShardSize < 1 {
		err = &wire.Damaged{Where: jobKind + " " + id, Path: "$.shard_size", What: fmt.Sprintf("expected 1 or more, found %d", job.ShardSize)}
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for other, known := range s.jobs {
		if time.Since(known.read) > jobKept {
			delete(s.jobs, other)
		}
	}
	s.jobs[id] = knownJob{job, err, read}
	return job, err
}

// jobOf is the job that a shard belongs to. ErrNotFound where there is none, or the shard was left by another job of that name.
func (s *Store) jobOf(ctx context.Context, document wire.ShardDocument) (wire.JobDocument, error) {
	job, err := s.Job(ctx, document.Job)
	if errors.Is(err, jobstore.ErrNotFound) || err == nil && job.Job.Sequence != document.Sequence {
		job, err = s.freshJob(ctx, document.Job)
	}
	if err == nil && job.Job.Sequence != document.Sequence {
		err = fmt.Errorf("job %s of sequence %d: %w", document.Job, document.Sequence, jobstore.ErrNotFound)
	}
	return job, err
}

// placeOf is where a task is; ErrNotFound where there is none.
func (s *Store) placeOf(ctx context.Context, ref wire.AttemptRef) (shardID, error) {
	job, err := s.Job(ctx, ref.Job)
	if err != nil {
		return shardID{}, err
	}
	if ref.Index < 1 || ref.Index > job.Job.Count {
		return shardID{}, fmt.Errorf("task %s/%d: %w", ref.Job, ref.Index, jobstore.ErrNotFound)
	}
	return shardID{ref.Job, (ref.Index - 1) / job.ShardSize}, nil
}

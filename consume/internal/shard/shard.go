// Package shard is what may happen to the tasks of one shard, as pure functions from a document to the next. It imports wire only.
//
// Each returns the document as it was where nothing happened. The store's compare-and-set around them makes them atomic;
// sparkles/backends/google/shard.py is the twin, and tests/golden/shard.json is played by both. Surprise: a shard does not know whether
// its job is held or how many tasks its job may run at once: who claims looks at that.
package shard

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"sparkles.dev/consume/internal/wire"
)

// RecordBytes: a record whose JSON is longer is kept whole in its result.json alone.
const RecordBytes = 4096

// RecordsKept: of one task's ended attempts, this many newest are kept whole in the shard; the older are summaries.
const RecordsKept = 4

// RecordsBytes is all of one task's records in the shard: where they are more, the oldest are summarised, then left out (each is in its
// result.json), so that 64 tasks fit in an entity however often each is tried.
const RecordsBytes = 12_000

// ReasonLetters: of a reason, in the task and in a summary; the whole is in result.json.
const ReasonLetters = 500

const most = 5_000_000_000

// KeyName is the shard's key: it begins with a digest, so that neither jobs nor numbers make a hot range of keys.
func KeyName(job string, number int) string {
	spread := sha256.Sum256(fmt.Appendf(nil, "%s/%d", job, number))
	return fmt.Sprintf("%s:%s:%d", hex.EncodeToString(spread[:4]), job, number)
}

// LinePrefix is what the claimable property of every shard of this pool begins with.
func LinePrefix(pool string) string {
	sum := sha256.Sum256([]byte(pool))
	return hex.EncodeToString(sum[:8]) + "/"
}

// Line is where a job stands in its pool's line.
func Line(pool string, priority, sequence int64) string {
	rank := int64(most)
	// Priorities of any 64-bit size: the difference would overflow.
	switch {
	case priority > most:
		rank = 0
	case priority <= -most:
		rank = 2*most - 1
	default:
		rank -= priority
	}
	return fmt.Sprintf("%s%010d/%012d", LinePrefix(pool), min(rank, 2*most-1), sequence)
}

// Claimable is the indexed property that lines up what can be claimed: less is earlier. Empty: nothing is pending.
func Claimable(shard wire.ShardDocument) string {
	if !slices.ContainsFunc(shard.Tasks, func(task wire.TaskRow) bool { return task.State == wire.Pending }) {
		return ""
	}
	return Line(shard.Pool, shard.Priority, shard.Sequence)
}

// Unfinished is the indexed property open: the job's owner ("-" for none) while tasks are pending or claimed, else empty.
func Unfinished(shard wire.ShardDocument) string {
	for _, task := range shard.Tasks {
		if task.State == wire.Pending || task.State == wire.Claimed {
			if shard.Owner == "" {
				return "-"
			}
			return shard.Owner
		}
	}
	return ""
}

// Reuses is the indexed property reuses: the other jobs whose attempts tasks of this shard take their outcome from.
func Reuses(shard wire.ShardDocument) []string {
	jobs := []string{}
	for _, task := range shard.Tasks {
		if task.Origin != nil && task.Origin.Job != shard.Job {
			jobs = append(jobs, task.Origin.Job)
		}
	}
	slices.Sort(jobs)
	return slices.Compact(jobs)
}

// Claim claims at most len(tokens) pending tasks that are due, the lowest indexes first. It returns their indexes, in order of tokens.
func Claim(shard wire.ShardDocument, worker string, tokens []string, nowMS int64) (wire.ShardDocument, []int) {
	taken := []int{}
	next := following(shard)
	for place, task := range next.Tasks {
		if len(taken) == len(tokens) {
			break
		}
		if task.State == wire.Pending && task.NotBeforeMS <= nowMS {
			task.State, task.Attempt = wire.Claimed, task.Attempt+1
			task.Worker, task.Token = worker, tokens[len(taken)]
			next.Tasks[place] = task
			taken = append(taken, shard.First+place)
		}
	}
	if len(taken) == 0 {
		return shard, taken
	}
	return next, taken
}

// Finish ends claims; false for each whose (attempt, token) is not the task's current one. Claims that started are marked so. The error
// is a bug of the caller: no claim can end in that state.
func Finish(shard wire.ShardDocument, finishes []wire.Finish, started []Held) (wire.ShardDocument, []bool, error) {
	recorded := make([]bool, len(finishes))
	changed := false
	next := following(shard)
	for number, each := range finishes {
		if err := CheckEnd(each.State); err != nil {
			return shard, nil, err
		}
		attempt := each.Attempt
		place, held := held(next, attempt.Ref, attempt.Token)
		if !held {
			continue
		}
		recorded[number], changed = true, true
		task := &next.Tasks[place]
		task.Records, task.Stored = withRecord(*task, attempt)
		task.State, task.Tries, task.Losses = each.State, each.Tries, each.Losses
		task.Failure, task.ExitCode, task.Reason = attempt.Failure, attempt.ExitCode, cutReason(attempt.Reason)
		task.Token, task.Started = "", false
		if each.MemoryBytes != nil {
			task.MemoryBytes = each.MemoryBytes
		}
		if each.State == wire.Pending {
			task.Origin, task.Worker, task.NotBeforeMS = nil, "", max(0, each.NotBeforeMS)
		} else {
			ref := attempt.Ref
			task.Origin, task.Worker, task.NotBeforeMS = &ref, attempt.Worker, 0
		}
	}
	for _, each := range started {
		if place, held := held(next, each.Ref, each.Token); held && !next.Tasks[place].Started {
			next.Tasks[place].Started = true
			changed = true
		}
	}
	if !changed {
		return shard, recorded, nil
	}
	return next, recorded, nil
}

// CheckEnd refuses a state that no claim can end in.
func CheckEnd(state wire.TaskState) error {
	switch state {
	case wire.Pending, wire.Succeeded, wire.Failed, wire.Cancelled:
		return nil
	}
	return fmt.Errorf("a task cannot go from claimed to %s", state)
}

// Held is a claim by its name: what a release needs of it.
type Held struct {
	Ref   wire.AttemptRef
	Token string
}

// IsHeld tells whether the claim is current.
func IsHeld(shard wire.ShardDocument, claim Held) bool {
	_, current := held(shard, claim.Ref, claim.Token)
	return current
}

// Release gives back claims whose program was never started: the attempt's number is free again. It returns how many were current.
func Release(shard wire.ShardDocument, claims []Held) (wire.ShardDocument, int) {
	count := 0
	next := following(shard)
	for _, each := range claims {
		if place, held := held(next, each.Ref, each.Token); held {
			task := &next.Tasks[place]
			task.State, task.Attempt, task.Worker, task.Token = wire.Pending, task.Attempt-1, "", ""
			task.Started = false
			count++
		}
	}
	if count == 0 {
		return shard, 0
	}
	return next, count
}

// Cancel cancels tasks that are in one of states (pending, claimed); a claim's token is void from then on. Nil indexes: all. It returns
// how many.
func Cancel(shard wire.ShardDocument, states []wire.TaskState, reason string, indexes []int) (wire.ShardDocument, int) {
	count := 0
	next := following(shard)
	for place := range next.Tasks {
		task := &next.Tasks[place]
		if slices.Contains(states, task.State) && (indexes == nil || slices.Contains(indexes, shard.First+place)) {
			task.State, task.Failure, task.ExitCode, task.Reason = wire.Cancelled, wire.FailureCancelled, nil, reason
			task.Token, task.Started, task.NotBeforeMS = "", false, 0
			count++
		}
	}
	if count == 0 {
		return shard, 0
	}
	return next, count
}

// Reset puts ended tasks in one of states back to pending with a fresh budget. Nil indexes: all. It returns how many.
func Reset(shard wire.ShardDocument, states []wire.TaskState, indexes []int) (wire.ShardDocument, int) {
	count := 0
	next := following(shard)
	for place, task := range next.Tasks {
		ended := task.State != wire.Pending && task.State != wire.Claimed
		if ended && slices.Contains(states, task.State) && (indexes == nil || slices.Contains(indexes, shard.First+place)) {
			// 0 stands for the record of another task, which goes with the outcome.
			own := slices.DeleteFunc(slices.Clone(task.Stored), func(number int) bool { return number == 0 })
			next.Tasks[place] = wire.TaskRow{State: wire.Pending, Attempt: task.Attempt, Records: task.Records, Stored: own}
			count++
		}
	}
	if count == 0 {
		return shard, 0
	}
	return next, count
}

// IsLarge tells whether only a summary of the record is kept in the shard.
func IsLarge(attempt wire.Attempt) bool { return len(wire.Encode(attempt)) > RecordBytes }

// Summary is a record without what can be long: results, outputs and tail are in its result.json.
func Summary(attempt wire.Attempt) wire.Attempt {
	attempt.Results, attempt.Outputs, attempt.Tail, attempt.Reason = nil, nil, "", cutReason(attempt.Reason)
	return attempt
}

func cutReason(reason string) string {
	if letters := []rune(reason); len(letters) > ReasonLetters {
		return string(letters[:ReasonLetters])
	}
	return reason
}

func withRecord(task wire.TaskRow, attempt wire.Attempt) ([]wire.Attempt, []int) {
	records := append(slices.Clone(task.Records), attempt)
	stored := slices.Clone(task.Stored)
	shorten := func(place int) {
		short := Summary(records[place])
		if !bytes.Equal(wire.Encode(short), wire.Encode(records[place])) {
			records[place] = short
			stored = append(stored, short.Ref.Attempt)
		}
	}
	if IsLarge(attempt) {
		shorten(len(records) - 1)
	}
	if place := len(records) - RecordsKept - 1; place >= 0 {
		shorten(place)
	}
	for place := 0; place < len(records)-1 && size(records) > RecordsBytes; place++ {
		shorten(place)
	}
	for len(records) > 1 && size(records) > RecordsBytes {
		dropped := records[0].Ref.Attempt
		records = records[1:]
		stored = slices.DeleteFunc(stored, func(number int) bool { return number == dropped })
	}
	slices.Sort(stored)
	return records, slices.Compact(stored)
}

func size(records []wire.Attempt) int {
	total := 0
	for _, record := range records {
		total += len(wire.Encode(record))
	}
	return total
}

// held is the place of the task that (ref, token) holds now.
func held(shard wire.ShardDocument, ref wire.AttemptRef, token string) (int, bool) {
	place := ref.Index - shard.First
	if ref.Job != shard.Job || place < 0 || place >= len(shard.Tasks) || token == "" {
		return 0, false
	}
	task := shard.Tasks[place]
	return place, task.State == wire.Claimed && task.Attempt == ref.Attempt && task.Token == token
}

// following is the next version of the document, with tasks of its own.
func following(shard wire.ShardDocument) wire.ShardDocument {
	shard.Tasks = slices.Clone(shard.Tasks)
	shard.Seq++
	return shard
}

package jobstore

import (
	"context"
	"errors"
	"fmt"

	"sparkles.dev/consume/internal/retry"
	"sparkles.dev/consume/internal/wire"
)

// How a worker was found dead, for reasons.
const (
	StoodStill = "stood still"
	Died       = "died"
)

// FinishOfDead is how the claim of a dead worker ends: as the complete record says that its holder left, else as lost. spec is nil where
// the job is gone.
func FinishOfDead(ctx context.Context, objects Objects, claim wire.Claim, how string, spec *wire.JobSpec, nowMS int64) (wire.Finish, error) {
	record, err := recordOf(ctx, objects, claim)
	if err != nil {
		return wire.Finish{}, err
	}
	if record == nil {
		record = &wire.Attempt{
			Ref: claim.Ref, Token: claim.Token, Worker: claim.Worker, Failure: wire.FailureLost,
			Reason: fmt.Sprintf("worker %s %s before the task's end was recorded", claim.Worker, how), EndedAtMS: nowMS,
		}
	}
	// The record's end is by another machine's clock.
	return retry.Conclude(*record, claim, spec, nowMS), nil
}

// recordOf is the complete record that the claim's holder left, or nil. A record that cannot be read as one counts as none: its holder
// writes it whole or not at all.
func recordOf(ctx context.Context, objects Objects, claim wire.Claim) (*wire.Attempt, error) {
	name := ResultName(claim.Ref)
	data, err := objects.ReadAll(ctx, name)
	if errors.Is(err, ErrNoObject) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	record, err := wire.DecodePlain[wire.Attempt](data, name)
	if err != nil || record.Token != claim.Token || record.Ref != claim.Ref {
		return nil, nil
	}
	return &record, nil
}

// CountHealed sums up what became of a dead worker's claims.
func CountHealed(worker, how string, finishes []wire.Finish, accepted []bool) Healed {
	healed := Healed{Worker: worker, How: how}
	for place, finish := range finishes {
		switch {
		case !accepted[place]:
		case finish.Attempt.Failure == wire.FailureLost:
			healed.Lost++
		default:
			healed.Recorded++
		}
	}
	return healed
}

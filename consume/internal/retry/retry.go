// Package retry is what becomes of a task after an attempt: done, tried again (when, with how much memory), or failed for good. It imports
// wire only; sparkles/engine/retry.py is the twin.
//
// Two budgets. The program's own (RetryPolicy.Attempts) is used up by what a program does and by what is wrong around it. What nobody did
// wrong (the worker died, the machine was taken away) counts against LossBudget instead, so that a week of bad luck never uses up the
// three tries of a program; it is a budget all the same, because a task that kills its worker each time would otherwise be tried for ever.
package retry

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"sparkles.dev/consume/internal/wire"
)

// LossBudget: the loss with this number ends the task. HyperQueue's crash limit, found to tell bad luck from a task that takes its worker
// down.
const LossBudget = 5

// Used is what a task had used up before an attempt: Tries of the program's budget, Losses of the other.
type Used struct {
	Tries, Losses int
}

// Decide decides from an ended attempt. memory is what this attempt was given, nil: no limit; nowMS is when it ended: a back-off counts from
// here. The Finish has the attempt as given, except that a final failure says in its reason why it is not tried again.
func Decide(attempt wire.Attempt, policy wire.RetryPolicy, used Used, memory *int64, nowMS int64) wire.Finish {
	switch {
	case attempt.Failure == wire.NoFailure:
		return wire.Finish{Attempt: attempt, State: wire.Succeeded, Tries: used.Tries + 1, Losses: used.Losses}
	case attempt.Failure == wire.FailureCancelled:
		return wire.Finish{Attempt: attempt, State: wire.Cancelled, Tries: used.Tries, Losses: used.Losses}
	case attempt.Failure.Infrastructure():
		used.Losses++
		return lost(attempt, used, memory)
	}
	used.Tries++
	if attempt.Failure == wire.FailureExit && len(policy.ExitCodes) > 0 && !slices.Contains(policy.ExitCodes, code(attempt)) {
		note := ""
		if used.Tries < policy.Attempts {
			note = fmt.Sprintf("not tried again: only exit codes %s are", list(policy.ExitCodes))
		}
		return failed(attempt, used, note)
	}
	if used.Tries >= policy.Attempts {
		note := ""
		if used.Tries > 1 {
			note = fmt.Sprintf("tried %d times", used.Tries)
		}
		return failed(attempt, used, note)
	}
	if attempt.Failure == wire.FailureOOM && policy.OOM != nil && memory != nil {
		raised := int64(float64(*memory) * policy.OOM.Factor)
		if policy.OOM.MaxBytes != nil {
			raised = min(raised, *policy.OOM.MaxBytes)
		}
		if raised <= *memory {
			return failed(attempt, used, "not tried again: the memory of its oom retry is at its maximum")
		}
		memory = &raised
	}
	return wire.Finish{
		Attempt: attempt, State: wire.Pending, Tries: used.Tries, Losses: used.Losses,
		NotBeforeMS: nowMS + BackoffMS(policy, used.Tries), MemoryBytes: memory,
	}
}

// Conclude is the Finish of a claim's attempt: Requeue where its worker was asked to stop, else as Decide says. spec is nil where the job is
// gone; the store will refuse what is decided then.
func Conclude(attempt wire.Attempt, claim wire.Claim, spec *wire.JobSpec, nowMS int64) wire.Finish {
	used, memory := Used{claim.Tries, claim.Losses}, claim.MemoryBytes
	if attempt.Failure == wire.FailurePreempted {
		return Requeue(attempt, used, memory)
	}
	policy := wire.NewRetryPolicy()
	if spec != nil {
		policy = spec.Retry
		if memory == nil {
			memory = spec.Resources.MemoryBytes
			if claim.Spec.Resources != nil {
				memory = claim.Spec.Resources.MemoryBytes
			}
		}
	}
	return Decide(attempt, policy, used, memory, nowMS)
}

// Requeue puts a task back to pending at no cost: its worker was asked to stop and ended the program itself.
func Requeue(attempt wire.Attempt, used Used, memory *int64) wire.Finish {
	return wire.Finish{Attempt: attempt, State: wire.Pending, Tries: used.Tries, Losses: used.Losses, MemoryBytes: memory}
}

// BackoffMS is the pause after the tries-th counted attempt, in milliseconds.
func BackoffMS(policy wire.RetryPolicy, tries int) int64 {
	if policy.BackoffS == 0 {
		return 0 // also where the factor's power is beyond every number
	}
	pause := policy.BackoffS * math.Pow(policy.BackoffFactor, float64(tries-1))
	return int64(1000 * min(pause, policy.MaxBackoffS))
}

func lost(attempt wire.Attempt, used Used, memory *int64) wire.Finish {
	if used.Losses < LossBudget {
		return Requeue(attempt, used, memory)
	}
	attempt.Failure = wire.FailureLost
	return failed(attempt, used,
		fmt.Sprintf("given up after %d attempts that were lost with their worker: the task may be what ends it", used.Losses))
}

func failed(attempt wire.Attempt, used Used, note string) wire.Finish {
	switch {
	case note == "":
	case attempt.Reason == "":
		attempt.Reason = note
	default:
		attempt.Reason += "; " + note
	}
	return wire.Finish{Attempt: attempt, State: wire.Failed, Tries: used.Tries, Losses: used.Losses}
}

// code is the exit code as a shell would report it: 128 + signal where a signal ended the program.
func code(attempt wire.Attempt) int {
	if attempt.ExitCode != nil {
		return *attempt.ExitCode
	}
	return 128 + attempt.Signal
}

func list(codes []int) string {
	texts := make([]string, len(codes))
	for place, each := range codes {
		texts[place] = strconv.Itoa(each)
	}
	return strings.Join(texts, ", ")
}

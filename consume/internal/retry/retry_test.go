package retry

import (
	"reflect"
	"testing"

	"sparkles.dev/consume/internal/wire"
)

func policy(change func(*wire.RetryPolicy)) wire.RetryPolicy {
	made := wire.NewRetryPolicy()
	change(&made)
	return made
}

// TestDecide: the state, the budgets, the wait, the memory and the reason of each way to end.
func TestDecide(t *testing.T) {
	three := policy(func(p *wire.RetryPolicy) { p.Attempts = 3 })
	codes := policy(func(p *wire.RetryPolicy) { p.Attempts, p.ExitCodes = 3, []int{75, 137} })
	more := policy(func(p *wire.RetryPolicy) {
		p.Attempts, p.OOM = 3, &wire.OomRetry{Factor: 2, MaxBytes: new(int64(1500))}
	})
	exit := func(code int) wire.Attempt {
		return wire.Attempt{Failure: wire.FailureExit, ExitCode: &code, Reason: "exited"}
	}
	because := func(reason string) wire.Attempt { return wire.Attempt{Reason: reason} }
	for _, each := range []struct {
		name    string
		attempt wire.Attempt
		policy  wire.RetryPolicy
		used    Used
		memory  *int64
		want    wire.Finish // its attempt has the reason only
	}{
		{"success", wire.Attempt{}, three, Used{1, 2}, nil, wire.Finish{State: wire.Succeeded, Tries: 2, Losses: 2}},
		{"cancelled", wire.Attempt{Failure: wire.FailureCancelled}, three, Used{1, 0}, nil, wire.Finish{State: wire.Cancelled, Tries: 1}},
		{"no retry", exit(1), wire.NewRetryPolicy(), Used{}, nil,
			wire.Finish{State: wire.Failed, Tries: 1, Attempt: because("exited")}},
		{"first of three", exit(1), three, Used{}, nil,
			wire.Finish{State: wire.Pending, Tries: 1, NotBeforeMS: 6000, Attempt: because("exited")}},
		{"second of three", exit(1), three, Used{1, 1}, nil,
			wire.Finish{State: wire.Pending, Tries: 2, Losses: 1, NotBeforeMS: 7000, Attempt: because("exited")}},
		{"third of three", exit(1), three, Used{2, 0}, nil,
			wire.Finish{State: wire.Failed, Tries: 3, Attempt: because("exited; tried 3 times")}},
		{"listed code", exit(75), codes, Used{}, nil,
			wire.Finish{State: wire.Pending, Tries: 1, NotBeforeMS: 6000, Attempt: because("exited")}},
		{"other code", exit(3), codes, Used{}, nil,
			wire.Finish{State: wire.Failed, Tries: 1, Attempt: because("exited; not tried again: only exit codes 75, 137 are")}},
		{"other code at the last try", exit(3), codes, Used{2, 0}, nil,
			wire.Finish{State: wire.Failed, Tries: 3, Attempt: because("exited")}},
		{"signal as a shell counts it", wire.Attempt{Failure: wire.FailureExit, Signal: 9}, codes, Used{}, nil,
			wire.Finish{State: wire.Pending, Tries: 1, NotBeforeMS: 6000}},
		{"codes are about exits only", wire.Attempt{Failure: wire.FailureTimeout}, codes, Used{}, nil,
			wire.Finish{State: wire.Pending, Tries: 1, NotBeforeMS: 6000}},
		{"more memory", wire.Attempt{Failure: wire.FailureOOM}, more, Used{}, new(int64(600)),
			wire.Finish{State: wire.Pending, Tries: 1, NotBeforeMS: 6000, MemoryBytes: new(int64(1200))}},
		{"up to the most", wire.Attempt{Failure: wire.FailureOOM}, more, Used{1, 0}, new(int64(1200)),
			wire.Finish{State: wire.Pending, Tries: 2, NotBeforeMS: 7000, MemoryBytes: new(int64(1500))}},
		{"not beyond it", wire.Attempt{Failure: wire.FailureOOM}, more, Used{}, new(int64(1500)),
			wire.Finish{State: wire.Failed, Tries: 1, Attempt: because("not tried again: the memory of its oom retry is at its maximum")}},
		{"no limit to raise", wire.Attempt{Failure: wire.FailureOOM}, more, Used{}, nil,
			wire.Finish{State: wire.Pending, Tries: 1, NotBeforeMS: 6000}},
		{"memory stays raised", exit(1), three, Used{}, new(int64(600)),
			wire.Finish{State: wire.Pending, Tries: 1, NotBeforeMS: 6000, MemoryBytes: new(int64(600)), Attempt: because("exited")}},
		{"lost", wire.Attempt{Failure: wire.FailureLost}, wire.NewRetryPolicy(), Used{0, 3}, new(int64(7)),
			wire.Finish{State: wire.Pending, Losses: 4, MemoryBytes: new(int64(7))}},
		{"evicted once too often", wire.Attempt{Failure: wire.FailureEvicted, Reason: "evicted"}, three, Used{1, 4}, nil,
			wire.Finish{State: wire.Failed, Tries: 1, Losses: 5, Attempt: because(
				"evicted; given up after 5 attempts that were lost with their worker: the task may be what ends it")}},
	} {
		t.Run(each.name, func(t *testing.T) {
			got := Decide(each.attempt, each.policy, each.used, each.memory, 5000)
			got.Attempt = because(got.Attempt.Reason)
			if !reflect.DeepEqual(got, each.want) {
				t.Errorf("got %s, want %s", wire.Encode(got), wire.Encode(each.want))
			}
		})
	}
	if got := Decide(wire.Attempt{Failure: wire.FailureEvicted}, three, Used{0, 4}, nil, 0); got.Attempt.Failure != wire.FailureLost {
		t.Errorf("given up as %s", got.Attempt.Failure)
	}
}

// TestConclude: a stop costs nothing; memory is the claim's, else the task's own, else the job's.
func TestConclude(t *testing.T) {
	spec := wire.NewJobSpec("j")
	spec.Retry.Attempts, spec.Resources.MemoryBytes = 2, new(int64(100))
	claim := wire.Claim{Losses: 3}
	stop := Conclude(wire.Attempt{Failure: wire.FailurePreempted}, claim, &spec, 9)
	if stop.State != wire.Pending || stop.Losses != 3 || stop.NotBeforeMS != 0 {
		t.Errorf("a stop: %+v", stop)
	}
	exit := wire.Attempt{Failure: wire.FailureExit}
	if got := Conclude(exit, claim, &spec, 9); *got.MemoryBytes != 100 {
		t.Errorf("the job's memory: %+v", got)
	}
	own := wire.NewResources()
	claim.Spec.Resources = &own
	if got := Conclude(exit, claim, &spec, 9); got.MemoryBytes != nil {
		t.Errorf("the task's own memory, which is none: %+v", got)
	}
	claim.MemoryBytes = new(int64(300))
	if got := Conclude(exit, claim, &spec, 9); *got.MemoryBytes != 300 {
		t.Errorf("the raised memory: %+v", got)
	}
	if got := Conclude(exit, claim, nil, 9); got.State != wire.Failed {
		t.Errorf("no job: %+v", got)
	}
}

// TestBackoffMS grows, and stays within its maximum however often a task is tried.
func TestBackoffMS(t *testing.T) {
	usual := wire.NewRetryPolicy()
	none := policy(func(p *wire.RetryPolicy) { p.BackoffS = 0 })
	short := policy(func(p *wire.RetryPolicy) { p.BackoffS = 0.0515 })
	for _, each := range []struct {
		policy wire.RetryPolicy
		tries  int
		want   int64
	}{{usual, 1, 1000}, {usual, 4, 8000}, {usual, 10, 300_000}, {usual, 5000, 300_000}, {none, 5000, 0}, {short, 1, 51}} {
		if got := BackoffMS(each.policy, each.tries); got != each.want {
			t.Errorf("after %d tries: %d ms, want %d", each.tries, got, each.want)
		}
	}
}

package jobstoretest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"sparkles.dev/consume/internal/jobstore"
	"sparkles.dev/consume/internal/jobstore/memory"
	"sparkles.dev/consume/internal/shard"
	"sparkles.dev/consume/internal/wire"
)

// Backend is a store under test, empty, and the driver's part of it.
type Backend struct {
	// Open gives a store that nobody has used before, on the same documents: another process.
	Open    func() jobstore.Store
	Objects *memory.Objects
	Put     func(Made)
	Delete  func(job string)
	Shards  func(job string) []wire.ShardDocument // in order of number
	// Change writes what a driver would to every shard of a job (kill, reset).
	Change func(job string, act func(wire.ShardDocument) wire.ShardDocument)
}

type suite struct {
	*testing.T
	Backend
	store    jobstore.Store
	sequence int64
}

// Run plays the list; open makes an empty backend.
func Run(t *testing.T, open func(t *testing.T) Backend) {
	for _, each := range []struct {
		name string
		test func(s *suite)
	}{
		{"a claim is exclusive", exclusive},
		{"no more than the limit", limits},
		{"the order of service", order},
		{"only the own pool", pools},
		{"held jobs are passed over", held},
		{"a back-off is waited for", backOff},
		{"no more at once than the job allows", parallelism},
		{"every way out of a claim makes room", room},
		{"a job that had nothing pending is served again", again},
		{"a worker without a row gets nothing", ghost},
		{"when the next task is due", due},
		{"a finish counts once", once},
		{"a stale claim changes nothing", stale},
		{"the first of two owners is refused", owners},
		{"finishes are independent", independent},
		{"a finish is whole or not at all", whole},
		{"an end is the task's outcome", outcomes},
		{"a retry keeps what the next attempt needs", retries},
		{"a release leaves no trace", released},
		{"a worker finds its claims", finds},
		{"programs are counted as running", started},
		{"too many failures cancel what is pending", tooMany},
		{"a record is in the bucket before its shard names it", recorded},
		{"a tampered manifest is refused by name", tampered},
		{"definitions come from the right part", parts},
		{"a job without its entity does not exist", orphans},
		{"workers enter, beat and leave", roster},
		{"a dead worker's claims are ended", heal},
		{"a living worker is left alone", alive},
		{"a claim without a worker's row is ended with the dead", rowless},
	} {
		t.Run(each.name, func(t *testing.T) {
			backend := open(t)
			s := &suite{T: t, Backend: backend, store: backend.Open()}
			s.enter("w")
			each.test(s)
		})
	}
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) equal(what string, got, want any) {
	s.Helper()
	if !reflect.DeepEqual(got, want) {
		s.Fatalf("%s: got %+v, want %+v", what, got, want)
	}
}

func (s *suite) enter(id string) {
	s.Helper()
	s.must(s.store.EnterWorker(context.Background(), worker(id)))
}

func worker(id string) wire.Worker {
	return wire.Worker{ID: id, Pool: "p", Process: wire.ProcessID{Host: "h", PID: 1, Started: 1.5, BootID: "b"}, StartedAtMS: 1}
}

// create makes a job with a task for each command, in pool p unless the draft says otherwise, without a limit of failures.
func (s *suite) create(id string, commands string, change ...func(*Draft)) {
	s.Helper()
	s.sequence++
	draft := Draft{ID: id, Pool: "p", Commands: strings.Fields(commands), Sequence: s.sequence, MaxFailures: -1, ShardSize: 2}
	for _, each := range change {
		each(&draft)
	}
	made := draft.Make()
	s.Objects.Put(made.ManifestName, made.Manifest)
	s.Put(made)
}

func (s *suite) claimAs(store jobstore.Store, worker, pool string, limit int, nowMS int64) []wire.Claim {
	s.Helper()
	claims, err := store.Claim(context.Background(), worker, pool, limit, nowMS)
	s.must(err)
	return claims
}

func (s *suite) claim(limit int) []wire.Claim {
	s.Helper()
	return s.claimAs(s.store, "w", "p", limit, 0)
}

// refs is job/index of claims, sorted: which shard of a job comes first is chance.
func refs(claims []wire.Claim) string {
	found := make([]string, len(claims))
	for place, claim := range claims {
		found[place] = fmt.Sprintf("%s/%d", claim.Ref.Job, claim.Ref.Index)
	}
	slices.Sort(found)
	return strings.Join(found, " ")
}

func sorted(claims []wire.Claim) []wire.Claim {
	slices.SortFunc(claims, func(a, b wire.Claim) int { return strings.Compare(refs([]wire.Claim{a}), refs([]wire.Claim{b})) })
	return claims
}

func ended(claim wire.Claim, state wire.TaskState, failure wire.FailureClass) wire.Finish {
	return wire.Finish{
		Attempt: wire.Attempt{Ref: claim.Ref, Token: claim.Token, Worker: claim.Worker, Failure: failure},
		State:   state, Tries: claim.Tries + 1, Losses: claim.Losses,
	}
}

func succeed(claim wire.Claim) wire.Finish { return ended(claim, wire.Succeeded, wire.NoFailure) }

func (s *suite) finish(finishes ...wire.Finish) []bool {
	s.Helper()
	accepted, err := s.store.Finish(context.Background(), finishes, nil)
	s.must(err)
	return accepted
}

func (s *suite) release(claims ...wire.Claim) int {
	s.Helper()
	count, err := s.store.Release(context.Background(), claims)
	s.must(err)
	return count
}

func (s *suite) task(job string, index int) wire.TaskRow {
	s.Helper()
	for _, document := range s.Shards(job) {
		if place := index - document.First; place >= 0 && place < len(document.Tasks) {
			return document.Tasks[place]
		}
	}
	s.Fatalf("there is no task %s/%d", job, index)
	return wire.TaskRow{}
}

// count is "state:n" of a job's tasks, sorted.
func (s *suite) count(job string) string {
	s.Helper()
	counts := map[wire.TaskState]int{}
	for _, document := range s.Shards(job) {
		for _, task := range document.Tasks {
			counts[task.State]++
		}
	}
	var found []string
	for state, count := range counts {
		found = append(found, fmt.Sprintf("%s:%d", state, count))
	}
	slices.Sort(found)
	return strings.Join(found, " ")
}

func (s *suite) kill(job string, indexes ...int) {
	s.Helper()
	s.Change(job, func(document wire.ShardDocument) wire.ShardDocument {
		after, _ := shard.Cancel(document, []wire.TaskState{wire.Pending, wire.Claimed}, "cancelled by kill", indexes)
		return after
	})
}

// Claiming

func exclusive(s *suite) {
	s.create("j", "a b")
	s.enter("w2")
	first := s.claim(1)
	second := s.claimAs(s.Open(), "w2", "p", 9, 0)
	s.equal("both", refs(slices.Concat(first, second)), "j/1 j/2")
	s.equal("workers", first[0].Worker+" "+second[0].Worker, "w w2")
	if first[0].Token == second[0].Token || first[0].Token == "" {
		s.Errorf("tokens %q and %q", first[0].Token, second[0].Token)
	}
	s.equal("nothing left", len(s.claim(9)), 0)
	s.equal("the row", s.task("j", second[0].Ref.Index).Worker, "w2")
}

func limits(s *suite) {
	for _, each := range [][2]int{{0, 0}, {1, 1}, {3, 3}, {4, 4}, {9, 4}} {
		for _, job := range []string{"a", "b", "c"} {
			s.Delete(job)
		}
		store := s.Open()
		s.create("a", "x")
		s.create("b", "y z")
		s.create("c", "y")
		s.equal(fmt.Sprintf("at most %d", each[0]), len(s.claimAs(store, "w", "p", each[0], 0)), each[1])
	}
}

func order(s *suite) {
	s.create("old", "x x")
	s.create("low", "x", func(d *Draft) { d.Priority = -1 })
	s.create("high", "x x", func(d *Draft) { d.Priority = 5 })
	s.create("new", "x")
	s.create("high2", "x", func(d *Draft) { d.Priority = 5 })
	var got []string
	for range 7 {
		got = append(got, refs(s.claim(1)))
	}
	s.equal("order", strings.Join(got, " "), "high/1 high/2 high2/1 old/1 old/2 new/1 low/1")
	s.equal("nothing left", len(s.claim(1)), 0)
}

func pools(s *suite) {
	s.create("a", "x")
	s.create("b", "x", func(d *Draft) { d.Pool = "q" })
	s.equal("another pool", len(s.claimAs(s.store, "w", "", 9, 0)), 0)
	s.equal("q", refs(s.claimAs(s.store, "w", "q", 9, 0)), "b/1")
	s.equal("p", refs(s.claim(9)), "a/1")
}

func held(s *suite) {
	s.create("a", "x x", func(d *Draft) { d.Held = true })
	s.create("b", "x x")
	s.equal("unheld", refs(s.claim(9)), "b/1 b/2")
	s.equal("held", len(s.claim(9)), 0)
	_, found, err := s.store.NextDue(context.Background(), "p")
	s.must(err)
	s.equal("due", found, false)
}

func backOff(s *suite) {
	s.create("j", "a b c", func(d *Draft) { d.ShardSize = 3 })
	claims := s.claim(2)
	for place := range claims {
		finish := ended(claims[place], wire.Pending, wire.FailureExit)
		finish.NotBeforeMS = 1000
		s.equal("retry", s.finish(finish), []bool{true})
	}
	s.equal("due now", s.due("p"), "0")
	s.equal("the other", refs(s.claimAs(s.store, "w", "p", 1, 999)), "j/3")
	s.equal("too early", len(s.claimAs(s.store, "w", "p", 9, 999)), 0)
	s.equal("due", s.due("p"), "1000")
	again := s.claimAs(s.Open(), "w", "p", 1, 1000)
	s.equal("at its moment", refs(again), "j/1")
	s.equal("second attempt", []int{again[0].Ref.Attempt, again[0].Tries}, []int{2, 1})
	s.equal("counts", s.count("j"), "claimed:2 pending:1")
}

func (s *suite) due(pool string) string {
	s.Helper()
	due, found, err := s.store.NextDue(context.Background(), pool)
	s.must(err)
	if !found {
		return "never"
	}
	return fmt.Sprint(due)
}

func parallelism(s *suite) {
	for limit := 1; limit <= 3; limit++ {
		s.Delete("j")
		s.Delete("k")
		s.store = s.Open()
		s.create("j", "a b c d", func(d *Draft) { d.Parallelism, d.Priority = limit, 1 })
		s.create("k", "x")
		s.enter("w2")
		claims := s.claim(9)
		s.equal("in all", len(claims), limit+1)
		s.equal("of another job", refs(claims[limit:]), "k/1")
		s.equal("full", len(s.claimAs(s.Open(), "w2", "p", 9, 0)), 0)
		s.equal("end", s.finish(succeed(claims[0])), []bool{true})
		s.equal("room for one", len(s.claimAs(s.Open(), "w2", "p", 9, 0)), 1)
	}
}

func room(s *suite) {
	for _, way := range []string{"kill", "release", "retry"} {
		s.Delete("j")
		s.store = s.Open()
		s.create("j", "a b", func(d *Draft) { d.Parallelism = 1 })
		only := s.claim(9)[0]
		switch way {
		case "kill":
			s.kill("j", only.Ref.Index)
		case "release":
			s.equal(way, s.release(only), 1)
		default:
			s.equal(way, s.finish(ended(only, wire.Pending, wire.FailureLost)), []bool{true})
		}
		s.equal("room after "+way, len(s.claim(9)), 1)
	}
}

func again(s *suite) {
	s.create("j", "a")
	only := s.claim(9)[0]
	s.equal("empty", len(s.claim(9)), 0)
	s.release(only)
	only = s.claim(9)[0]
	s.finish(ended(only, wire.Pending, wire.FailureExit))
	only = s.claim(9)[0]
	s.finish(succeed(only))
	s.equal("empty", len(s.claim(9)), 0)
	s.Change("j", func(document wire.ShardDocument) wire.ShardDocument {
		after, _ := shard.Reset(document, []wire.TaskState{wire.Succeeded}, nil)
		return after
	})
	s.equal("reset", refs(s.claim(9)), "j/1")
}

func ghost(s *suite) {
	s.create("j", "a")
	s.equal("never entered", len(s.claimAs(s.store, "ghost", "p", 9, 0)), 0)
	s.must(s.store.Leave(context.Background(), "w"))
	s.equal("left", len(s.claim(9)), 0)
	s.enter("w")
	s.equal("entered", refs(s.claim(9)), "j/1")
}

func due(s *suite) {
	s.equal("no job", s.due("p"), "never")
	s.create("j", "a b")
	s.create("k", "c")
	s.create("other", "d", func(d *Draft) { d.Pool = "q" })
	s.equal("new", s.due("p"), "0")
	claims := sorted(s.claim(9))
	s.equal("all claimed", s.due("p"), "never")
	for place, at := range []int64{3000, 1000, 4000} {
		finish := ended(claims[place], wire.Pending, wire.NoFailure)
		finish.NotBeforeMS = at
		s.finish(finish)
	}
	s.equal("least", s.due("p"), "1000")
	s.kill("j")
	s.equal("of the rest", s.due("p"), "4000")
	s.kill("k")
	s.equal("none", s.due("p"), "never")
}

// Ending claims

func once(s *suite) {
	s.create("j", "a")
	only := s.claim(9)[0]
	good := succeed(only)
	results := "1"
	good.Attempt.Results = &results
	s.equal("first", s.finish(good), []bool{true})
	s.store = s.Open()
	s.equal("second", s.finish(ended(only, wire.Failed, wire.FailureExit)), []bool{false})
	task := s.task("j", 1)
	s.equal("state", task.State, wire.Succeeded)
	s.equal("records", len(task.Records), 1)
	s.equal("results", *task.Records[0].Results, "1")
}

func stale(s *suite) {
	s.create("j", "a b")
	only := s.claim(1)[0]
	other := 3 - only.Ref.Index
	for name, wrong := range map[string]func(*wire.Claim){
		"token":       func(c *wire.Claim) { c.Token = strings.Repeat("0", 24) },
		"empty token": func(c *wire.Claim) { c.Token = "" },
		"attempt":     func(c *wire.Claim) { c.Ref.Attempt = 2 },
		"task":        func(c *wire.Claim) { c.Ref.Index = other },
		"job":         func(c *wire.Claim) { c.Ref.Job = "nix" },
		"index":       func(c *wire.Claim) { c.Ref.Index = 99 },
		"zero":        func(c *wire.Claim) { c.Ref.Index = 0 },
	} {
		changed := only
		wrong(&changed)
		s.equal(name, s.finish(succeed(changed)), []bool{false})
		s.equal(name, s.release(changed), 0)
		tokens, err := s.store.HeldTokens(context.Background(), []wire.Claim{changed})
		s.must(err)
		s.equal(name, len(tokens), 0)
	}
	s.equal("counts", s.count("j"), "claimed:1 pending:1")
	s.equal("records", len(s.task("j", only.Ref.Index).Records), 0)
}

func owners(s *suite) {
	s.create("j", "a")
	s.enter("w2")
	first := s.claim(9)[0]
	s.finish(ended(first, wire.Pending, wire.FailureLost))
	second := s.claimAs(s.Open(), "w2", "p", 9, 0)[0]
	s.equal("both", s.finish(succeed(first), succeed(second)), []bool{false, true})
	s.equal("whose", s.task("j", 1).Token+s.task("j", 1).Worker, "w2")
}

func independent(s *suite) {
	s.create("j", "a b c")
	claims := sorted(s.claim(9))
	s.kill("j", 2)
	got := s.finish(succeed(claims[0]), succeed(claims[1]), ended(claims[2], wire.Failed, wire.FailureTimeout), succeed(claims[0]))
	s.equal("answers", got, []bool{true, false, true, false})
	s.equal("counts", s.count("j"), "cancelled:1 failed:1 succeeded:1")
	s.equal("none", len(s.finish()), 0)
}

func whole(s *suite) {
	s.create("j", "a")
	only := s.claim(9)[0]
	_, err := s.store.Finish(context.Background(), []wire.Finish{succeed(only), ended(only, wire.Claimed, wire.NoFailure)}, nil)
	if err == nil || !strings.Contains(err.Error(), "a task cannot go from claimed to claimed") {
		s.Fatalf("got %v", err)
	}
	s.equal("counts", s.count("j"), "claimed:1")
}

func outcomes(s *suite) {
	s.create("j", "a b c")
	claims := sorted(s.claim(9))
	for place, state := range []wire.TaskState{wire.Succeeded, wire.Failed, wire.Cancelled} {
		finish := ended(claims[place], state, wire.FailureExit)
		code := 4
		finish.Attempt.ExitCode, finish.Attempt.Reason, finish.Tries, finish.Losses, finish.NotBeforeMS = &code, "why", 3, 2, 9
		s.equal("accepted", s.finish(finish), []bool{true})
		task := s.task("j", place+1)
		s.equal("state", task.State, state)
		s.equal("why", []any{task.Failure, *task.ExitCode, task.Reason}, []any{wire.FailureExit, 4, "why"})
		s.equal("budget", []any{task.Tries, task.Losses, task.NotBeforeMS, *task.Origin}, []any{3, 2, int64(0), claims[place].Ref})
	}
}

func retries(s *suite) {
	s.create("j", "a")
	only := s.claim(9)[0]
	finish := ended(only, wire.Pending, wire.FailureOOM)
	finish.Attempt.Reason, finish.Tries, finish.Losses, finish.NotBeforeMS = "out of memory", 2, 1, 7
	memory := int64(1 << 33)
	finish.MemoryBytes = &memory
	s.finish(finish)
	task := s.task("j", 1)
	s.equal("row", []any{task.State, task.Origin == nil, task.Worker, task.Attempt, task.Reason}, []any{wire.Pending, true, "", 1, "out of memory"})
	only = s.claimAs(s.store, "w", "p", 9, 7)[0]
	s.equal("claim", []any{only.Ref.Attempt, only.Tries, only.Losses, *only.MemoryBytes}, []any{2, 2, 1, memory})
	// Memory that was raised once stays so: a finish that says nothing of it does not lower it.
	s.finish(ended(only, wire.Pending, wire.FailureLost))
	s.equal("memory", *s.claim(9)[0].MemoryBytes, memory)
}

func released(s *suite) {
	s.create("j", "a b c")
	claims := sorted(s.claim(9))
	s.store = s.Open()
	s.equal("two", s.release(claims[2], claims[0]), 2)
	s.equal("the rest", s.release(claims...), 1)
	s.equal("none", s.release(), 0)
	s.equal("row", s.task("j", 1), wire.NewTaskRow())
	again := sorted(s.claim(9))
	for place := range again {
		s.equal("ref", again[place].Ref, claims[place].Ref)
		if again[place].Token == claims[place].Token {
			s.Errorf("token %s was given twice", again[place].Token)
		}
	}
}

func finds(s *suite) {
	ctx := context.Background()
	s.create("j", "a b c d")
	s.create("k", "e")
	s.enter("w2")
	mine := sorted(s.claim(3))
	theirs := sorted(s.claimAs(s.store, "w2", "p", 9, 0))
	s.finish(succeed(mine[0]))
	s.kill("j", mine[1].Ref.Index)
	other := s.Open()
	found, err := other.ListClaims(ctx, "w")
	s.must(err)
	s.equal("mine", found, mine[2:])
	found, err = other.ListClaims(ctx, "w2")
	s.must(err)
	s.equal("theirs", found, theirs)
	tokens, err := other.HeldTokens(ctx, slices.Concat(mine, theirs[:1]))
	s.must(err)
	s.equal("tokens", tokens, map[string]bool{mine[2].Token: true, theirs[0].Token: true})
	found, err = other.ListClaims(ctx, "nix")
	s.must(err)
	s.equal("nobody's", len(found), 0)
}

func started(s *suite) {
	s.create("j", "a b")
	claims := sorted(s.claim(9))
	accepted, err := s.store.Finish(context.Background(), nil, claims[:1])
	s.must(err)
	s.equal("no finishes", len(accepted), 0)
	s.equal("running", []bool{s.task("j", 1).Started, s.task("j", 2).Started}, []bool{true, false})
	accepted, err = s.store.Finish(context.Background(), []wire.Finish{succeed(claims[0])}, claims[1:])
	s.must(err)
	s.equal("finish", accepted, []bool{true})
	s.equal("running", []bool{s.task("j", 1).Started, s.task("j", 2).Started}, []bool{false, true})
}

func tooMany(s *suite) {
	s.create("j", "a b c d e f", func(d *Draft) { d.MaxFailures = 1 })
	claims := sorted(s.claim(4))
	s.finish(ended(claims[0], wire.Failed, wire.FailureExit))
	s.equal("one may", s.count("j"), "claimed:3 failed:1 pending:2")
	s.finish(ended(claims[1], wire.Failed, wire.FailureExit))
	s.equal("two are too many", s.count("j"), "cancelled:2 claimed:2 failed:2")
	// What goes back to pending later is cancelled as well.
	s.finish(ended(claims[2], wire.Pending, wire.FailureLost))
	s.equal("a retry", s.count("j"), "cancelled:3 claimed:1 failed:2")
	s.release(claims[3])
	s.equal("a release", s.count("j"), "cancelled:4 failed:2")
	s.equal("why", s.task("j", claims[3].Ref.Index).Reason, "2 tasks of the job failed and at most 1 may")
}

func recorded(s *suite) {
	ctx := context.Background()
	s.create("j", "a b")
	claims := sorted(s.claim(9))
	finish := succeed(claims[0])
	s.finish(finish)
	data, err := s.Objects.ReadAll(ctx, "jobs/j/1/a1/result.json")
	s.must(err)
	s.equal("record", string(data), string(wire.Encode(finish.Attempt)))
	stale := succeed(claims[1])
	stale.Attempt.Token = "no"
	s.finish(stale)
	if _, err := s.Objects.ReadAll(ctx, "jobs/j/2/a1/result.json"); !errors.Is(err, jobstore.ErrNoObject) {
		s.Errorf("a stale finish wrote its record: %v", err)
	}
}

// Definitions

func tampered(s *suite) {
	s.create("j", "a b")
	s.create("k", "c")
	found, err := s.store.Job(context.Background(), "j")
	s.must(err)
	name := jobstore.ManifestName("j", found.Manifest)
	data, err := s.Objects.ReadAll(context.Background(), name)
	s.must(err)
	data[len(data)/2] ^= 1
	s.Objects.Put(name, data)
	s.equal("the other job is served", refs(s.claim(9)), "k/1")
	_, err = s.store.Claim(context.Background(), "w", "p", 9, 0)
	var damaged *wire.Damaged
	if !errors.As(err, &damaged) || !strings.Contains(err.Error(), name+" part 1: is not what was submitted (its digest differs)") {
		s.Fatalf("got %v", err)
	}
	s.equal("nothing is claimed", s.count("j"), "pending:2")
	_, err = s.store.Job(context.Background(), "nix")
	if !errors.Is(err, jobstore.ErrNotFound) {
		s.Errorf("got %v", err)
	}
}

func parts(s *suite) {
	s.create("j", "c1 c2 c3 c4 c5 c6 c7", func(d *Draft) { d.PartTasks = 3 })
	for _, claim := range s.claim(9) {
		s.equal("command", claim.Spec.Command.Shell, fmt.Sprintf("c%d", claim.Ref.Index))
		s.equal("params", string(claim.Spec.Params), fmt.Sprintf(`{"n":%d}`, claim.Ref.Index))
	}
}

func orphans(s *suite) {
	made := Draft{ID: "j", Pool: "p", Commands: []string{"a"}, Sequence: 77, MaxFailures: -1}.Make()
	s.create("k", "c")
	s.Put(made)
	s.Objects.Put(made.ManifestName, made.Manifest)
	s.equal("both are there", s.due("p"), "0")
	s.Delete("j")
	s.store = s.Open()
	s.equal("the other", refs(s.claim(9)), "k/1")
	s.equal("nothing else", len(s.claim(9)), 0)
}

// Workers

func roster(s *suite) {
	ctx := context.Background()
	later := worker("a")
	later.StartedAtMS = 9
	s.must(s.store.EnterWorker(ctx, later))
	ok, err := s.store.Beat(ctx, "w", true, "the store is away")
	s.must(err)
	s.equal("beat", ok, true)
	workers, err := s.Open().ListWorkers(ctx)
	s.must(err)
	beaten := worker("w")
	beaten.Beat, beaten.Waiting = 1, true
	s.equal("workers", workers, []wire.Worker{beaten, later})
	ok, err = s.store.Beat(ctx, "nix", false, "")
	s.must(err)
	s.equal("no row", ok, false)
	s.create("j", "a")
	only := s.claim(9)[0]
	err = s.store.Leave(ctx, "w")
	if err == nil || !strings.Contains(err.Error(), "worker w still holds 1 claim, which must be finished or released first") {
		s.Fatalf("got %v", err)
	}
	s.release(only)
	s.must(s.store.Leave(ctx, "w"))
	ok, err = s.store.Beat(ctx, "w", false, "")
	s.must(err)
	s.equal("left", ok, false)
}

const lease = 400 * time.Millisecond

// silence lets the lease of every worker but keep run out.
func (s *suite) silence(keep ...string) {
	s.Helper()
	// Where the server keeps no times, the first look is what the lease counts from.
	_, err := s.store.HealDead(context.Background(), time.Hour, 0)
	s.must(err)
	for until := time.Now().Add(lease + lease/2); time.Now().Before(until); time.Sleep(lease / 8) {
		for _, id := range keep {
			ok, err := s.store.Beat(context.Background(), id, false, "")
			s.must(err)
			s.equal("beat of "+id, ok, true)
		}
	}
}

func heal(s *suite) {
	ctx := context.Background()
	s.create("j", "a b c", func(d *Draft) { d.Change = func(spec *wire.JobSpec) { spec.Retry.Attempts = 2 } })
	s.enter("w2")
	claims := sorted(s.claimAs(s.store, "w2", "p", 9, 0))
	// The first finished and was not recorded; the second left the record of another try; the third left nothing.
	code := 0
	whole := wire.Attempt{Ref: claims[0].Ref, Token: claims[0].Token, Worker: "w2", ExitCode: &code, EndedAtMS: 5}
	s.Objects.Put(jobstore.ResultName(claims[0].Ref), wire.Encode(whole))
	foreign := wire.Attempt{Ref: claims[1].Ref, Token: "foreign", Worker: "w2"}
	s.Objects.Put(jobstore.ResultName(claims[1].Ref), wire.Encode(foreign))
	s.silence("w")
	healed, err := s.store.HealDead(ctx, lease, 1234)
	s.must(err)
	s.equal("healed", healed, []jobstore.Healed{{Worker: "w2", How: jobstore.StoodStill, Recorded: 1, Lost: 2}})
	s.equal("counts", s.count("j"), "pending:2 succeeded:1")
	for _, index := range []int{2, 3} {
		task := s.task("j", index)
		s.equal("budgets", []int{task.Tries, task.Losses, task.Attempt}, []int{0, 1, 1})
		s.equal("reason", task.Reason, "worker w2 stood still before the task's end was recorded")
		s.equal("end", task.Records[0].EndedAtMS, int64(1234))
	}
	workers, err := s.store.ListWorkers(ctx)
	s.must(err)
	s.equal("the row is gone", len(workers), 1)
	s.equal("its late result", s.finish(succeed(claims[2])), []bool{false})
	healed, err = s.store.HealDead(ctx, lease, 1234)
	s.must(err)
	s.equal("once", len(healed), 0)
	s.equal("served again", refs(s.claim(9)), "j/2 j/3")
}

func alive(s *suite) {
	s.create("j", "a")
	s.claim(9)
	s.silence("w")
	healed, err := s.store.HealDead(context.Background(), lease, 0)
	s.must(err)
	s.equal("healed", len(healed), 0)
	s.equal("counts", s.count("j"), "claimed:1")
}

func rowless(s *suite) {
	s.create("j", "a")
	s.create("k", "b")
	s.enter("w2")
	s.claimAs(s.store, "w2", "p", 1, 0)
	s.silence("w")
	s.Change("k", func(document wire.ShardDocument) wire.ShardDocument {
		after, _ := shard.Claim(document, "ghost", []string{"t"}, 0)
		return after
	})
	healed, err := s.store.HealDead(context.Background(), lease, 0)
	s.must(err)
	slices.SortFunc(healed, func(a, b jobstore.Healed) int { return strings.Compare(a.Worker, b.Worker) })
	s.equal("healed", healed, []jobstore.Healed{
		{Worker: "ghost", How: jobstore.Died, Lost: 1}, {Worker: "w2", How: jobstore.StoodStill, Lost: 1},
	})
	s.equal("counts", s.count("j")+" "+s.count("k"), "pending:1 pending:1")
}

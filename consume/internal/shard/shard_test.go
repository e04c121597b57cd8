package shard

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"sparkles.dev/consume/internal/wire"
)

type goldenFile struct {
	Keys []struct {
		Job    string
		Number int
		Key    string
	}
	Lines []struct {
		Pool     string
		Priority int64
		Sequence int64
		Line     string
	}
	Cases []goldenCase
}

type goldenCase struct {
	Name       string
	Operation  string
	Before     json.RawMessage
	Arguments  json.RawMessage
	After      json.RawMessage
	Result     json.RawMessage
	Properties struct {
		Claimable *string
		Open      *string
		Reuses    []string
	}
}

type arguments struct {
	Worker   string            `json:"worker"`
	Tokens   []string          `json:"tokens"`
	NowMS    int64             `json:"now_ms"`
	Finishes []json.RawMessage `json:"finishes"`
	Claims   []named           `json:"claims"`
	Started  []named           `json:"started"`
	States   []wire.TaskState  `json:"states"`
	Reason   string            `json:"reason"`
	Indexes  []int             `json:"indexes"`
}

type named struct {
	Ref   wire.AttemptRef `json:"ref"`
	Token string          `json:"token"`
}

func heldOf(claims []named) []Held {
	found := make([]Held, len(claims))
	for place, claim := range claims {
		found[place] = Held(claim)
	}
	return found
}

func load(t *testing.T) goldenFile {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "..", "tests", "golden", "shard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var found goldenFile
	if err := json.Unmarshal(data, &found); err != nil {
		t.Fatal(err)
	}
	if len(found.Cases) < 20 || len(found.Keys) == 0 || len(found.Lines) == 0 {
		t.Fatalf("the golden file holds %d cases, %d keys, %d lines", len(found.Cases), len(found.Keys), len(found.Lines))
	}
	return found
}

func document(t *testing.T, data []byte) wire.ShardDocument {
	t.Helper()
	shard, err := wire.Decode[wire.ShardDocument](data, "golden")
	if err != nil {
		t.Fatal(err)
	}
	return shard
}

func play(t *testing.T, each goldenCase, shard wire.ShardDocument) (wire.ShardDocument, any) {
	t.Helper()
	var given arguments
	if err := json.Unmarshal(each.Arguments, &given); err != nil {
		t.Fatal(err)
	}
	switch each.Operation {
	case "claim":
		return toAny(Claim(shard, given.Worker, given.Tokens, given.NowMS))
	case "finish":
		finishes := make([]wire.Finish, len(given.Finishes))
		for place, data := range given.Finishes {
			finish, err := wire.DecodePlain[wire.Finish](data, "finish")
			if err != nil {
				t.Fatal(err)
			}
			finishes[place] = finish
		}
		after, recorded, err := Finish(shard, finishes, heldOf(given.Started))
		if err != nil {
			t.Fatal(err)
		}
		return after, recorded
	case "release":
		return toAny(Release(shard, heldOf(given.Claims)))
	case "cancel":
		return toAny(Cancel(shard, given.States, given.Reason, given.Indexes))
	case "reset":
		return toAny(Reset(shard, given.States, given.Indexes))
	}
	t.Fatalf("the golden file has an operation that is not played: %s", each.Operation)
	return shard, nil
}

func toAny[T any](shard wire.ShardDocument, result T) (wire.ShardDocument, any) { return shard, result }

func orNil(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

// TestTheGoldenCases: what happens to a shard is what happens in Python, to the last byte; the document given is not touched.
func TestTheGoldenCases(t *testing.T) {
	for _, each := range load(t).Cases {
		t.Run(each.Name, func(t *testing.T) {
			before := document(t, each.Before)
			after, result := play(t, each, before)
			if want := wire.Encode(document(t, each.After)); string(wire.Encode(after)) != string(want) {
				t.Errorf("after:\n got %s\nwant %s", wire.Encode(after), want)
			}
			if !reflect.DeepEqual(before, document(t, each.Before)) {
				t.Error("the document that was given changed")
			}
			got, _ := json.Marshal(result)
			var one, other any
			if json.Unmarshal(got, &one) != nil || json.Unmarshal(each.Result, &other) != nil || !reflect.DeepEqual(one, other) {
				t.Errorf("result: got %s, want %s", got, each.Result)
			}
			if got := Claimable(after); got != orNil(each.Properties.Claimable) {
				t.Errorf("claimable: %q", got)
			}
			if got := Unfinished(after); got != orNil(each.Properties.Open) {
				t.Errorf("open: %q", got)
			}
			if got := Reuses(after); !reflect.DeepEqual(got, each.Properties.Reuses) {
				t.Errorf("reuses: %q", got)
			}
		})
	}
}

// TestKeysAndLines: both languages find the same entity and the same order of service.
func TestKeysAndLines(t *testing.T) {
	found := load(t)
	for _, each := range found.Keys {
		if got := KeyName(each.Job, each.Number); got != each.Key {
			t.Errorf("%s/%d: got %s, want %s", each.Job, each.Number, got, each.Key)
		}
	}
	for _, each := range found.Lines {
		if got := Line(each.Pool, each.Priority, each.Sequence); got != each.Line {
			t.Errorf("%s %d %d: got %s, want %s", each.Pool, each.Priority, each.Sequence, got, each.Line)
		}
		if !strings.HasPrefix(each.Line, LinePrefix(each.Pool)) {
			t.Errorf("%s does not begin with the prefix of its pool", each.Line)
		}
	}
}

// TestAClaimCannotEndAsClaimed: that is a bug, and nothing of the batch is recorded.
func TestAClaimCannotEndAsClaimed(t *testing.T) {
	before := wire.ShardDocument{Schema: 1, Job: "j", First: 1, Tasks: []wire.TaskRow{{State: wire.Claimed, Attempt: 1, Token: "t"}}}
	good := wire.Finish{Attempt: wire.Attempt{Ref: wire.AttemptRef{Job: "j", Index: 1, Attempt: 1}, Token: "t"}, State: wire.Succeeded}
	bad := good
	bad.State = wire.Claimed
	after, _, err := Finish(before, []wire.Finish{good, bad}, nil)
	if err == nil || err.Error() != "a task cannot go from claimed to claimed" || !reflect.DeepEqual(after, before) {
		t.Errorf("got %v, %+v", err, after)
	}
}

// TestAFullShardStaysBelowTheLimitOfAnEntity: 64 tasks, each tried 12 times with the largest records that are kept.
func TestAFullShardStaysBelowTheLimitOfAnEntity(t *testing.T) {
	document := wire.ShardDocument{Schema: 1, Job: strings.Repeat("j", 60), First: 1, Pool: "p"}
	for range 64 {
		document.Tasks = append(document.Tasks, wire.NewTaskRow())
	}
	for attempt := 1; attempt <= 12; attempt++ {
		tokens := make([]string, 64)
		for place := range tokens {
			tokens[place] = strings.Repeat("t", 24)
		}
		var indexes []int
		document, indexes = Claim(document, strings.Repeat("w", 40), tokens, 0)
		var finishes []wire.Finish
		for place, index := range indexes {
			record := wire.Attempt{
				Ref: wire.AttemptRef{Job: document.Job, Index: index, Attempt: attempt}, Token: tokens[place],
				Worker: strings.Repeat("w", 40), Failure: wire.FailureExit, Reason: strings.Repeat("r", 400),
			}
			record.Tail = strings.Repeat("x", RecordBytes-len(wire.Encode(record))-len(`,"tail":""`))
			if IsLarge(record) {
				t.Fatal("the record was to be the largest that is kept")
			}
			finishes = append(finishes, wire.Finish{Attempt: record, State: wire.Pending, Tries: attempt})
		}
		var err error
		if document, _, err = Finish(document, finishes, nil); err != nil {
			t.Fatal(err)
		}
		if size := len(wire.Encode(document)); size > 1_000_000 {
			t.Fatalf("after %d attempts: %d bytes do not fit in an entity", attempt, size)
		}
	}
}

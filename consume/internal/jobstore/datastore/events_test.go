package datastore

import (
	"context"
	"slices"
	"testing"

	"sparkles.dev/consume/internal/jobstore/jobstoretest"
	"sparkles.dev/consume/internal/jobstore/memory"
	"sparkles.dev/consume/internal/wire"
)

// TestEventsFollowTheCommit: when an event is published its write can be read by everyone; events name what changed, and a write that was
// refused publishes none.
func TestEventsFollowTheCommit(t *testing.T) {
	ctx, options, objects := context.Background(), emulated(t), memory.NewObjects()
	reader := driver{t, open(t, options, objects)}
	made := jobstoretest.Draft{ID: "job", Pool: "p", Commands: []string{"a", "b", "c", "d"}, MaxFailures: -1}.Make()
	objects.Put(made.ManifestName, made.Manifest)
	reader.put(made)
	var published []wire.Event
	publish := func(event wire.Event) {
		if seq := reader.shards("job")[0].document.Seq; seq < event.Seq {
			t.Errorf("the event of write %d was published when Datastore had write %d", event.Seq, seq)
		}
		published = append(published, event)
	}
	store, err := Open(ctx, options, objects, publish, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := store.EnterWorker(ctx, wire.Worker{ID: "w", Pool: "p"}); err != nil {
		t.Fatal(err)
	}
	claims, err := store.Claim(ctx, "w", "p", 4, 1)
	if err != nil || len(claims) != 4 {
		t.Fatalf("claimed %d, %v, expected 4", len(claims), err)
	}
	finish := wire.Finish{Attempt: wire.Attempt{Ref: claims[0].Ref, Token: claims[0].Token, Worker: "w"}, State: wire.Succeeded, Tries: 1}
	for _, expected := range []bool{true, false} {
		taken, err := store.Finish(ctx, []wire.Finish{finish}, nil)
		if err != nil || !slices.Equal(taken, []bool{expected}) {
			t.Fatalf("finish: %v, %v, expected %t", taken, err, expected)
		}
	}
	if len(published) != 2 {
		t.Fatalf("published %d events, expected one for the claims and one for the finish: %+v", len(published), published)
	}
	for place, changes := range [][]wire.Change{
		{{Index: 1, State: wire.Claimed, Attempt: 1}, {Index: 2, State: wire.Claimed, Attempt: 1}, {Index: 3, State: wire.Claimed, Attempt: 1}, {Index: 4, State: wire.Claimed, Attempt: 1}},
		{{Index: claims[0].Ref.Index, State: wire.Succeeded, Attempt: 1}},
	} {
		if found := published[place]; found.Job != "job" || !slices.Equal(found.Changes, changes) {
			t.Errorf("event %d is %+v, expected the changes %+v", place, found, changes)
		}
	}
	if published[0].Seq >= published[1].Seq {
		t.Errorf("found seq %d, then %d, expected them to grow", published[0].Seq, published[1].Seq)
	}
}

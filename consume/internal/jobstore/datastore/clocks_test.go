package datastore

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"sparkles.dev/consume/internal/wire"
)

const apart = 10 * time.Minute

// TestCompareClocks: the difference is what no delay between question and answer explains.
func TestCompareClocks(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, each := range map[string]struct {
		asked, read time.Time
		ahead       time.Duration
	}{
		"the same":             {now, now, 0},
		"a slow answer":        {now.Add(-15 * time.Second), now.Add(-14 * time.Second), 0},
		"this one is ahead":    {now, now.Add(-apart), -apart + clocks},
		"this one is behind":   {now, now.Add(apart), apart - clocks},
		"ahead, and it lasted": {now.Add(-15 * time.Second), now.Add(-apart), -apart + 15*time.Second + clocks},
	} {
		client := &client{options: Options{Now: func() time.Time { return now }}}
		client.compareClocks(each.asked, timestamppb.New(each.read))
		if ahead := time.Duration(client.aheadMS()) * time.Millisecond; ahead != each.ahead {
			t.Errorf("%s: ahead %v, expected %v", name, ahead, each.ahead)
		}
		client.compareClocks(now, nil)
		if ahead := time.Duration(client.aheadMS()) * time.Millisecond; ahead != each.ahead {
			t.Errorf("%s: an answer without a time changed it to %v", name, ahead)
		}
	}
}

// TestSoonIsSoonForAll: a task that is to be tried again in a second is due in a second for a worker whose clock is ten minutes off.
func TestSoonIsSoonForAll(t *testing.T) {
	for name, shift := range map[string]time.Duration{"the first is ahead": apart / 2, "the first is behind": -apart / 2} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, 1, 1)
			first, second := s.shifted(shift), s.shifted(-shift)
			now := func(store *Store) int64 { return store.client.options.Now().UnixMilli() }
			claims, err := first.Claim(t.Context(), "w", "p", 1, now(first))
			if err != nil || len(claims) != 1 {
				t.Fatalf("claim: %v, %v", claims, err)
			}
			again := wire.Finish{
				Attempt: wire.Attempt{Ref: claims[0].Ref, Token: claims[0].Token, Worker: "w", Failure: wire.FailureExit},
				State:   wire.Pending, Tries: 1, NotBeforeMS: now(first) + 1_000,
			}
			if accepted, err := first.Finish(t.Context(), []wire.Finish{again}, nil); err != nil || !accepted[0] {
				t.Fatalf("finish: %v, %v", accepted, err)
			}
			due, found, err := second.NextDue(t.Context(), "p")
			if wait := due - now(second); err != nil || !found || wait > 1_000+2*clocks.Milliseconds() {
				t.Fatalf("due in %d ms, %v, %v", wait, found, err)
			}
			time.Sleep(time.Duration(due-now(second)) * time.Millisecond)
			if claims, err = second.Claim(t.Context(), "w2", "p", 1, now(second)); err != nil || len(claims) != 1 {
				t.Fatalf("claim by the second: %v, %v", claims, err)
			}
		})
	}
}

// shifted is the store as a machine has it whose clock is ahead by shift. Where the emulator does not say its time, the machine knows it.
func (s *scene) shifted(shift time.Duration) *Store {
	options := s.options
	options.Now = func() time.Time { return time.Now().Add(shift) }
	store := open(s, options, s.objects)
	store.client.ahead.Store(-shift.Milliseconds())
	return store
}

package worker

import (
	"testing"
	"time"

	"sparkles.dev/consume/internal/wire"
)

// TestHowManyTasksAreClaimed: what could start, and two seconds of work ahead: long tasks stay for others, short ones do not cost a
// commit each.
func TestHowManyTasksAreClaimed(t *testing.T) {
	for _, each := range []struct {
		name            string
		cpu, typical    float64
		mean            time.Duration
		running, queued int
		want            int
	}{
		{"nothing known of the tasks", 2, 0, 0, 0, 0, batchTasks},
		{"durations unknown", 4, 1, 0, 0, 0, 4},
		{"durations unknown, all slots taken", 4, 1, 0, 4, 0, 0},
		{"hours", 4, 1, time.Hour, 0, 0, 4},
		{"hours, one slot free", 4, 1, time.Hour, 3, 0, 1},
		{"hours, all slots taken", 4, 1, time.Hour, 4, 0, 0},
		{"half a second", 4, 1, 500 * time.Millisecond, 4, 0, 16},
		{"a tenth of a second", 2, 1, 100 * time.Millisecond, 2, 0, 40},
		{"a tenth of a second, half of them in hand", 2, 1, 100 * time.Millisecond, 2, 20, 0},
		{"a tenth of a second, fewer in hand", 2, 1, 100 * time.Millisecond, 2, 19, 21},
		{"a millisecond", 2, 1, time.Millisecond, 2, 0, batchTasks},
		{"a millisecond, slots free", 8, 1, time.Millisecond, 0, 0, batchTasks},
		{"tasks larger than the worker", 1, 4, time.Hour, 0, 0, 1},
	} {
		t.Run(each.name, func(t *testing.T) {
			w := &Worker{Config: Config{CPU: each.cpu}, typical: each.typical, mean: each.mean, running: map[string]*task{}}
			for range each.running {
				w.running[string(rune('a'+len(w.running)))] = &task{}
			}
			w.queue = make([]wire.Claim, each.queued)
			if got := w.wanted(); got != each.want {
				t.Errorf("wants %d, expected %d", got, each.want)
			}
		})
	}
}

package attempt

import (
	"context"
	"sync"
)

// transfers of one attempt at a time. The store bounds those of all attempts, and their memory.
const transfers = 16

// sideBySide does a task's transfers, several at a time and begun in order. The error is that of the first in order, as if they were done one
// after the other; those behind it are given up, and none is left under way.
func sideBySide(ctx context.Context, count int, act func(ctx context.Context, place int) error) error {
	if count == 1 {
		return act(ctx, 0)
	}
	problems := make([]error, count)
	cancels := make([]context.CancelFunc, count)
	slots := make(chan struct{}, transfers)
	var group sync.WaitGroup
	var lock sync.Mutex
	failed := count // the first that failed so far
	for place := range count {
		slots <- struct{}{}
		lock.Lock()
		if failed < count {
			lock.Unlock()
			break
		}
		inner, cancel := context.WithCancel(ctx)
		cancels[place] = cancel
		lock.Unlock()
		group.Go(func() {
			defer func() { <-slots }()
			defer cancel()
			problems[place] = act(inner, place)
			if problems[place] == nil {
				return
			}
			lock.Lock()
			defer lock.Unlock()
			failed = min(failed, place)
			for _, behind := range cancels[place+1:] {
				if behind != nil {
					behind()
				}
			}
		})
	}
	group.Wait()
	if failed < count {
		return problems[failed]
	}
	return nil
}

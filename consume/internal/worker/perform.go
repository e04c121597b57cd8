package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"sparkles.dev/consume/internal/attempt"
	"sparkles.dev/consume/internal/blobs"
	"sparkles.dev/consume/internal/runner"
	"sparkles.dev/consume/internal/wire"
)

const (
	pieceEvery = 5 * time.Second
	pieceBytes = 256 << 10
	lookEvery  = 500 * time.Millisecond
	// storing is how long the outcome of an attempt may take to be stored before it counts as not kept.
	storing = 30 * time.Minute
)

// perform is one task from its folder to its record; it ends with the task on w.ended.
func (w *Worker) perform(ctx context.Context, t *task, problem string) {
	began := time.Now()
	defer func() {
		if err := t.folder.Remove(); err != nil {
			t.log.Warn("remove a scratch directory", "folder", t.folder.Path, "error", err)
		}
		w.ended <- t
	}()
	// What an attempt left is stored even when its program was told to end.
	keep, done := context.WithTimeout(context.WithoutCancel(ctx), storing)
	defer done()
	store := &noting{Blobs: w.Blobs}
	ended, memory, err := w.run(ctx, t, store, problem, began)
	// A worker that leaves gives its claims back in time, with or without what was to be stored.
	context.AfterFunc(ctx, func() {
		if context.Cause(ctx) == errPreempted {
			time.AfterFunc(leaving, done)
		}
	})
	t.took = time.Since(began)
	why := wire.NoFailure
	switch context.Cause(ctx) {
	case errPreempted:
		why = wire.FailurePreempted
	case errCancelled:
		return
	}
	var failed *attempt.Failed
	var start *runner.StartError
	switch {
	case errors.As(err, &failed):
		if why == wire.FailurePreempted {
			failed = &attempt.Failed{Class: why, Reason: "ended because its worker was stopped"}
		}
		t.record = t.folder.NotStarted(failed.Class, failed.Reason, nil, began)
	case errors.As(err, &start):
		class, code := wire.FailureStaging, (*int)(nil)
		if start.Code != 0 {
			class, code = wire.FailureExit, &start.Code
		}
		t.record = t.folder.NotStarted(class, start.Reason, code, began)
	case err != nil:
		t.record = t.folder.NotStarted(wire.FailureStaging, err.Error(), nil, began)
	default:
		t.ran = true
		t.record = t.folder.Conclude(keep, store, ended, memory, why, began)
	}
	// What could not be stored for one of these reasons says nothing about the task.
	noted := store.first()
	if refused := noted != nil && w.stays(noted); refused || noted != nil && keep.Err() != nil && context.Cause(ctx) == errPreempted {
		reason := "ended because its worker was stopped"
		if refused {
			t.refused, reason = noted, fmt.Sprintf("given back: its worker was refused: %v", noted)
		}
		t.record = t.folder.NotStarted(wire.FailurePreempted, reason, nil, began)
	}
	w.storeLog(keep, t)
}

// noting keeps the first error of the inputs and outputs of a task.
type noting struct {
	blobs.Blobs
	mutex sync.Mutex
	err   error
}

func (n *noting) note(err error) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	if n.err == nil {
		n.err = err
	}
}

func (n *noting) first() error {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	return n.err
}

// Place is of blobs.Blobs.
func (n *noting) Place(ctx context.Context, digest, target string, executable, private bool) error {
	err := n.Blobs.Place(ctx, digest, target, executable, private)
	n.note(err)
	return err
}

// Collect is of blobs.Blobs.
func (n *noting) Collect(ctx context.Context, path, name string) (wire.Artifact, error) {
	artifact, err := n.Blobs.Collect(ctx, path, name)
	n.note(err)
	return artifact, err
}

// run makes the folder, puts the inputs in place and runs the program, uploading its log as it grows.
func (w *Worker) run(ctx context.Context, t *task, store blobs.Blobs, problem string, began time.Time) (runner.Ended, int64, error) {
	if problem != "" {
		return runner.Ended{}, 0, &attempt.Failed{Class: wire.FailureConfig, Reason: problem}
	}
	folder := t.folder
	if err := folder.Create(); err != nil {
		return runner.Ended{}, 0, err
	}
	if err := folder.PlaceInputs(ctx, store); err != nil {
		return runner.Ended{}, 0, err
	}
	log, err := os.OpenFile(folder.LogPath(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o666)
	if err != nil {
		return runner.Ended{}, 0, &attempt.Failed{Class: wire.FailureStaging, Reason: fmt.Sprintf("the log could not be made: %v", err)}
	}
	defer log.Close()
	launch, err := folder.Launch(log, t.memory)
	if err != nil {
		return runner.Ended{}, 0, err
	}
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		w.follow(following, t)
	}()
	ended, err := w.Runner.Run(ctx, launch)
	stop()
	<-followed
	var start *runner.StartError
	if errors.As(err, &start) {
		fmt.Fprintf(log, "sparkles: %s\n", start.Reason)
	}
	return ended, t.memory, err
}

// follow uploads what was added to the log, in pieces, so that it can be read while the program runs.
func (w *Worker) follow(ctx context.Context, t *task) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var offset int64
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		facts, err := os.Lstat(t.folder.LogPath())
		if err != nil || !facts.Mode().IsRegular() || facts.Size() <= offset || facts.Size()-offset < pieceBytes && time.Since(last) < pieceEvery {
			continue
		}
		piece, err := readPiece(t.folder.LogPath(), offset, min(facts.Size()-offset, 16*pieceBytes))
		if err != nil {
			continue
		}
		if err := w.Blobs.PutObject(ctx, blobs.LogPiece(t.claim.Ref, offset), piece); err != nil {
			t.log.Warn("upload a piece of a log", "error", err)
			continue
		}
		offset += int64(len(piece))
		last = time.Now()
		t.pieces.Store(true)
	}
}

func readPiece(path string, offset, size int64) ([]byte, error) {
	// The task may put a pipe or a link in its place at any moment.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.NewSectionReader(file, offset, size))
}

// storeLog stores the whole log and then the record, last of all. What cannot be stored is told in the worker's log: the outcome goes into the
// shard all the same.
func (w *Worker) storeLog(ctx context.Context, t *task) {
	ref := t.claim.Ref
	if facts, err := os.Lstat(t.folder.LogPath()); err == nil && facts.Mode().IsRegular() && facts.Size() > 0 {
		if err := w.Blobs.PutFile(ctx, blobs.Attempt(ref, "output.log"), t.folder.LogPath()); err != nil {
			t.log.Error("upload a log", "error", err)
		} else if t.pieces.Load() {
			if err := w.Blobs.DeleteLogPieces(ctx, ref); err != nil {
				t.log.Warn("remove the pieces of a log", "error", err)
			}
		}
	}
	if t.refused != nil {
		return // asked at once it would be refused as well
	}
	if err := w.Blobs.PutRecord(ctx, ref, t.record); err != nil {
		t.log.Error("store a record", "error", err)
		return
	}
	t.stored = true
}

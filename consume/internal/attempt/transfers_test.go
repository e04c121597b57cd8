package attempt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sparkles.dev/consume/internal/blobs"
	"sparkles.dev/consume/internal/blobs/dir"
	"sparkles.dev/consume/internal/wire"
)

// slow is a store each of whose transfers takes a while. Of those whose name begins with "bad" it makes errors, the earlier ones later.
type slow struct {
	*dir.Store
	delay    time.Duration
	underWay atomic.Int64
	most     atomic.Int64
	begun    atomic.Int64
}

func (s *slow) wait(ctx context.Context, name string) error {
	s.begun.Add(1)
	now := s.underWay.Add(1)
	defer s.underWay.Add(-1)
	for most := s.most.Load(); now > most && !s.most.CompareAndSwap(most, now); most = s.most.Load() {
	}
	delay := s.delay
	var number int
	if _, err := fmt.Sscanf(name, "bad%d", &number); err == nil {
		delay = time.Duration(10-number) * s.delay
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(delay):
	}
	if strings.HasPrefix(name, "bad") {
		return errors.New(name + " is bad")
	}
	return nil
}

func (s *slow) Place(ctx context.Context, digest, target string, executable, private bool) error {
	if err := s.wait(ctx, filepath.Base(target)); err != nil {
		return err
	}
	return s.Store.Place(ctx, digest, target, executable, private)
}

func (s *slow) Collect(ctx context.Context, path, name string) (wire.Artifact, error) {
	if err := s.wait(ctx, name); err != nil {
		return wire.Artifact{}, err
	}
	return s.Store.Collect(ctx, path, name)
}

// made is an attempt whose inputs have these names and hold them, and whose outputs are all files.
func made(t *testing.T, names ...string) (*Folder, *slow) {
	t.Helper()
	objects, err := dir.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var files []wire.InputFile
	for _, name := range names {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		artifact, err := objects.Collect(t.Context(), path, name)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, wire.InputFile{Dst: name, Digest: artifact.Digest, SizeBytes: artifact.SizeBytes})
	}
	spec := wire.JobSpec{Outputs: []wire.OutputGlob{{Pattern: "**"}}}
	folder := &Folder{Path: filepath.Join(t.TempDir(), "a1"), Plan: NewPlan(spec, "j", "w", nil)}
	folder.Claim.Spec.Files = files
	if err := folder.Create(); err != nil {
		t.Fatal(err)
	}
	return folder, &slow{Store: objects, delay: 20 * time.Millisecond}
}

func names(count int) []string {
	found := make([]string, count)
	for place := range found {
		found[place] = fmt.Sprintf("d%d/f%03d", place%7, place)
	}
	return found
}

func TestManyInputs(t *testing.T) {
	folder, store := made(t, names(100)...)
	began := time.Now()
	if err := folder.PlaceInputs(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("100 inputs of 20 ms each took %s", took)
	}
	if most := store.most.Load(); most > transfers {
		t.Errorf("%d were under way at a time", most)
	}
	for _, name := range names(100) {
		if found, err := os.ReadFile(filepath.Join(folder.work(), name)); err != nil || string(found) != name {
			t.Errorf("%s: found %q (%v)", name, found, err)
		}
	}
}

func TestManyOutputs(t *testing.T) {
	folder, store := made(t)
	for place := range 100 {
		if err := os.WriteFile(filepath.Join(folder.work(), fmt.Sprintf("f%03d", place)), []byte{byte(place)}, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	artifacts, err := folder.CollectOutputs(t.Context(), store)
	if err != nil || len(artifacts) != 100 {
		t.Fatal(len(artifacts), err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("100 outputs of 20 ms each took %s", took)
	}
	for place, artifact := range artifacts {
		found, err := store.ReadAll(t.Context(), blobs.Content(artifact.Digest))
		if artifact.Name != fmt.Sprintf("f%03d", place) || err != nil || string(found) != string([]byte{byte(place)}) {
			t.Errorf("%d is %s: found %q (%v)", place, artifact.Name, found, err)
		}
	}
}

// What is told is the first in the task's order, whichever failed first; nothing is begun after that, and nothing goes on.
func TestTheFirstThatFails(t *testing.T) {
	wanted := append([]string{"a", "bad1", "bad3", "bad5"}, names(200)...)
	folder, store := made(t, wanted...)
	var failed *Failed
	if err := folder.PlaceInputs(t.Context(), store); !errors.As(err, &failed) || failed.Reason != "input bad1: bad1 is bad" {
		t.Errorf("inputs: found %v", err)
	}
	if begun := store.begun.Load(); begun >= 204 || store.underWay.Load() != 0 {
		t.Errorf("inputs: %d were begun, %d are under way", begun, store.underWay.Load())
	}
	folder, store = made(t)
	for _, name := range wanted {
		if err := os.WriteFile(filepath.Join(folder.work(), filepath.Base(name)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err := folder.CollectOutputs(t.Context(), store)
	if !errors.As(err, &failed) || failed.Reason != "outputs were not stored: bad1 is bad" {
		t.Errorf("outputs: found %v", err)
	}
	// A place that cannot be is told only where all before it could be filled.
	folder, store = made(t, "a", "bad1", "bad3")
	folder.Claim.Spec.Files[2].Dst = "../out"
	if err := folder.PlaceInputs(t.Context(), store); !errors.As(err, &failed) || failed.Reason != "input bad1: bad1 is bad" {
		t.Errorf("a place outside: found %v", err)
	}
}

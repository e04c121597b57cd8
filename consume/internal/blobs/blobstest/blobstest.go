// Package blobstest is the list that every Blobs keeps; the same as tests/contract/test_blobs.py where a worker and a driver do the same.
package blobstest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sparkles.dev/consume/internal/blobs"
	"sparkles.dev/consume/internal/wire"
)

var ref = wire.AttemptRef{Job: "align-1a2b3c4d", Index: 17, Attempt: 2}

// Run plays the list; open gives a new, empty store.
func Run(t *testing.T, open func(t *testing.T) blobs.Blobs) {
	for name, test := range map[string]func(*testing.T, blobs.Blobs){
		"collect and place":           collectAndPlace,
		"permissions":                 permissions,
		"a placed file is its task's": ownCopy,
		"what is no file":             refusedFiles,
		"what cannot be stored":       refusedNames,
		"a file that grows":           growing,
		"nothing there":               notThere,
		"damaged content":             damaged,
		"objects":                     objects,
		"a log from its file":         logFile,
		"new objects":                 newObjects,
		"one writer of a record":      oneWriter,
		"records":                     records,
		"pieces of a log":             logPieces,
		"many at a time":              many,
		"a full disk":                 fullDisk,
		"an end that is asked for":    cancelled,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func random(size int) []byte {
	data := make([]byte, size)
	_, _ = rand.Read(data)
	return data
}

func write(t *testing.T, data []byte, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.bin")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func collect(t *testing.T, store blobs.Blobs, data []byte) wire.Artifact {
	t.Helper()
	artifact, err := store.Collect(t.Context(), write(t, data, 0o644), "out/file.bin")
	if err != nil {
		t.Fatal(err)
	}
	return artifact
}

func names(t *testing.T, folder string) []string {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, entry := range entries {
		found = append(found, entry.Name())
	}
	return found
}

// What was collected is placed byte for byte, whatever its size; collecting it again gives the same artifact.
func collectAndPlace(t *testing.T, store blobs.Blobs) {
	for _, size := range []int{0, 1, 1 << 20, 8 << 20, 8<<20 + 1, 16 << 20, 20<<20 + 7} {
		data := random(size)
		expected := wire.Artifact{Name: "out/file.bin", Digest: digestOf(data), SizeBytes: int64(size)}
		for range 2 {
			if found := collect(t, store, data); found != expected {
				t.Fatalf("%d bytes: found %+v, expected %+v", size, found, expected)
			}
		}
		folder := t.TempDir()
		target := filepath.Join(folder, "placed")
		if err := os.WriteFile(target, []byte("before"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := store.Place(t.Context(), expected.Digest, target, false, false); err != nil {
			t.Fatal(err)
		}
		if found, err := os.ReadFile(target); err != nil || !bytes.Equal(found, data) {
			t.Fatalf("%d bytes: %d came back (%v)", size, len(found), err)
		}
		if found := names(t, folder); len(found) != 1 {
			t.Errorf("more than the target was left: %q", found)
		}
	}
}

// executable and private follow the file's mode, and a copy's mode follows them.
func permissions(t *testing.T, store blobs.Blobs) {
	before := unix.Umask(0o022)
	defer unix.Umask(before)
	for _, each := range []struct {
		mode, placed        fs.FileMode
		executable, private bool
	}{
		{0o644, 0o644, false, false},
		{0o755, 0o755, true, false},
		{0o600, 0o600, false, true},
		{0o640, 0o600, false, true},
		{0o700, 0o700, true, true},
		{0o610, 0o700, true, true},
	} {
		artifact, err := store.Collect(t.Context(), write(t, []byte("data"), each.mode), "x")
		if err != nil {
			t.Fatal(err)
		}
		if artifact.Executable != each.executable || artifact.Private != each.private {
			t.Errorf("mode %o: found %+v", each.mode, artifact)
		}
		target := filepath.Join(t.TempDir(), "placed")
		if err := store.Place(t.Context(), artifact.Digest, target, artifact.Executable, artifact.Private); err != nil {
			t.Fatal(err)
		}
		facts, err := os.Stat(target)
		if err != nil || facts.Mode().Perm() != each.placed {
			t.Errorf("mode %o: placed with %v (%v), expected %o", each.mode, facts.Mode(), err, each.placed)
		}
	}
}

// A task may write to its input: the next one gets what was stored.
func ownCopy(t *testing.T, store blobs.Blobs) {
	digest := collect(t, store, []byte("original")).Digest
	folder := t.TempDir()
	for _, name := range []string{"one", "two", strings.Repeat("n", 255)} {
		target := filepath.Join(folder, name)
		if err := store.Place(t.Context(), digest, target, false, false); err != nil {
			t.Fatal(err)
		}
		if found, err := os.ReadFile(target); err != nil || string(found) != "original" {
			t.Fatalf("found %q (%v)", found, err)
		}
		if err := os.WriteFile(target, []byte("scribble"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// A pipe is not waited for, a link is not followed, a folder is no file: each is an error that names it.
func refusedFiles(t *testing.T, store blobs.Blobs) {
	folder := t.TempDir()
	pipe, link, secret := filepath.Join(folder, "pipe"), filepath.Join(folder, "link"), filepath.Join(folder, "nothing")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, link, secret, folder} {
		if _, err := store.Collect(t.Context(), path, "x"); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: found error %v", path, err)
		}
		if err := store.PutFile(t.Context(), "jobs/j/1/a1/output.log", path); err == nil || errors.Is(err, blobs.ErrNotFound) {
			t.Errorf("%s: found error %v", path, err)
		}
	}
}

// Names that could lead elsewhere are refused by every method.
func refusedNames(t *testing.T, store blobs.Blobs) {
	ctx := t.Context()
	target := filepath.Join(t.TempDir(), "target")
	bad := wire.AttemptRef{Job: "../x", Index: 1, Attempt: 1}
	_, all := store.ReadAll(ctx, "../x")
	_, part := store.ReadRange(ctx, "a//b", 0, 1)
	_, unique := store.WriteNew(ctx, "a/../../b", nil)
	for what, err := range map[string]error{
		"Place":           store.Place(ctx, "../../etc/passwd", target, false, false),
		"PutObject":       store.PutObject(ctx, "/x", nil),
		"PutFile":         store.PutFile(ctx, "", write(t, nil, 0o644)),
		"PutRecord":       store.PutRecord(ctx, bad, wire.Attempt{}),
		"DeleteLogPieces": store.DeleteLogPieces(ctx, bad),
		"ReadAll":         all,
		"ReadRange":       part,
		"WriteNew":        unique,
	} {
		if err == nil || errors.Is(err, blobs.ErrNotFound) {
			t.Errorf("%s took a name that leads elsewhere: %v", what, err)
		}
	}
}

// Nothing half-read is stored as content.
func growing(t *testing.T, store blobs.Blobs) {
	for _, size := range []int{4 << 20, 24 << 20} {
		path := write(t, random(size), 0o644)
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		var stop atomic.Bool
		var began, done sync.WaitGroup
		began.Add(1)
		done.Go(func() {
			for count := 0; !stop.Load(); count++ {
				_, _ = file.Write([]byte("more"))
				if count == 0 {
					began.Done()
				}
			}
		})
		began.Wait()
		artifact, err := store.Collect(t.Context(), path, "x")
		stop.Store(true)
		done.Wait()
		_ = file.Close()
		if err == nil || !strings.Contains(err.Error(), "changed while it was read") {
			t.Errorf("a growing file became %+v (%v)", artifact, err)
		}
	}
}

// What is not there is ErrNotFound, and leaves nothing behind; it is fs.ErrNotExist too.
func notThere(t *testing.T, store blobs.Blobs) {
	folder := t.TempDir()
	err := store.Place(t.Context(), digestOf([]byte("nobody stored this")), filepath.Join(folder, "x"), false, false)
	if !errors.Is(err, blobs.ErrNotFound) {
		t.Errorf("Place: found %v", err)
	}
	if found := names(t, folder); len(found) != 0 {
		t.Errorf("left behind: %q", found)
	}
	if _, err := store.ReadAll(t.Context(), "jobs/j/1/a1/result.json"); !errors.Is(err, blobs.ErrNotFound) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadAll: found %v", err)
	}
	if _, err := store.ReadRange(t.Context(), "jobs/j/manifest", 5, 10); !errors.Is(err, blobs.ErrNotFound) {
		t.Errorf("ReadRange: found %v", err)
	}
	digest := collect(t, store, []byte("data")).Digest
	if err := store.Place(t.Context(), digest, filepath.Join(folder, "no", "x"), false, false); err == nil || errors.Is(err, blobs.ErrNotFound) {
		t.Errorf("a target without a folder: found %v", err)
	}
}

// Content that is not what its name says is never placed; it is removed, so that it can be stored anew.
func damaged(t *testing.T, store blobs.Blobs) {
	data := []byte("what was stored")
	digest := digestOf(data)
	for _, wrong := range [][]byte{[]byte("something else!"), {}, append(bytes.Clone(data), '!')} {
		if err := store.PutObject(t.Context(), blobs.Content(digest), wrong); err != nil {
			t.Fatal(err)
		}
		folder := t.TempDir()
		err := store.Place(t.Context(), digest, filepath.Join(folder, "x"), false, false)
		var found *blobs.ErrDamaged
		if !errors.As(err, &found) || found.Digest != digest {
			t.Fatalf("found %v", err)
		}
		if left := names(t, folder); len(left) != 0 {
			t.Errorf("left behind: %q", left)
		}
		if _, err := store.ReadAll(t.Context(), blobs.Content(digest)); !errors.Is(err, blobs.ErrNotFound) {
			t.Errorf("the damaged object is still there (%v)", err)
		}
	}
	collect(t, store, data)
	if err := store.Place(t.Context(), digest, filepath.Join(t.TempDir(), "x"), false, false); err != nil {
		t.Error(err)
	}
}

// Objects are written over, read whole and in part.
func objects(t *testing.T, store blobs.Blobs) {
	ctx := t.Context()
	for _, data := range [][]byte{[]byte("0123456789"), {}, []byte("new"), random(9 << 20)} {
		if err := store.PutObject(ctx, "jobs/j/ä b#%?/x", data); err != nil {
			t.Fatal(err)
		}
		if found, err := store.ReadAll(ctx, "jobs/j/ä b#%?/x"); err != nil || !bytes.Equal(found, data) {
			t.Fatalf("%d bytes: found %d (%v)", len(data), len(found), err)
		}
	}
	if err := store.PutObject(ctx, "part", []byte("0123456789")); err != nil {
		t.Fatal(err)
	}
	for _, each := range []struct {
		offset, size int64
		expected     string
	}{{0, 10, "0123456789"}, {3, 4, "3456"}, {8, 10, "89"}, {9, 1, "9"}, {10, 5, ""}, {20, 5, ""}, {4, 0, ""}} {
		found, err := store.ReadRange(ctx, "part", each.offset, each.size)
		if err != nil || string(found) != each.expected {
			t.Errorf("%d bytes from %d: found %q (%v), expected %q", each.size, each.offset, found, err, each.expected)
		}
	}
}

// A log is stored as far as it goes when it is stored, also where something still writes to it, and again over what was stored.
func logFile(t *testing.T, store blobs.Blobs) {
	name := blobs.Attempt(ref, blobs.Log)
	for _, size := range []int{0, 10, 9 << 20} {
		data := random(size)
		if err := store.PutFile(t.Context(), name, write(t, data, 0o600)); err != nil {
			t.Fatal(err)
		}
		if found, err := store.ReadAll(t.Context(), name); err != nil || !bytes.Equal(found, data) {
			t.Fatalf("%d bytes: found %d (%v)", size, len(found), err)
		}
	}
}

// A new object is written once; the same bytes again are no conflict, since the answer to the first may have been lost.
func newObjects(t *testing.T, store blobs.Blobs) {
	ctx := t.Context()
	for _, each := range []struct {
		data    string
		written bool
	}{{"first", true}, {"second", false}, {"first", true}} {
		if written, err := store.WriteNew(ctx, "new/x", []byte(each.data)); err != nil || written != each.written {
			t.Errorf("%s: found %v (%v)", each.data, written, err)
		}
	}
	if found, err := store.ReadAll(ctx, "new/x"); err != nil || string(found) != "first" {
		t.Errorf("found %q (%v)", found, err)
	}
}

// Of many that write the same new object at once exactly one does.
func oneWriter(t *testing.T, store blobs.Blobs) {
	var wrote atomic.Int32
	var group sync.WaitGroup
	for number := range 8 {
		group.Go(func() {
			written, err := store.WriteNew(t.Context(), "race", fmt.Appendf(nil, "writer %d", number))
			if err != nil {
				t.Error(err)
			}
			if written {
				wrote.Add(1)
			}
		})
	}
	group.Wait()
	if wrote.Load() != 1 {
		t.Errorf("%d wrote it", wrote.Load())
	}
}

// The first record of an attempt stays.
func records(t *testing.T, store blobs.Blobs) {
	first := wire.Attempt{Ref: ref, Token: "t1", Worker: "w1"}
	second := wire.Attempt{Ref: ref, Token: "t2", Worker: "w2"}
	for _, record := range []wire.Attempt{first, first, second} {
		if err := store.PutRecord(t.Context(), ref, record); err != nil {
			t.Fatal(err)
		}
	}
	name := blobs.Attempt(ref, blobs.Result)
	found, err := store.ReadAll(t.Context(), name)
	if err != nil || !bytes.Equal(found, wire.Encode(first)) {
		t.Errorf("found %s (%v)", found, err)
	}
}

// Pieces go, and nothing but them.
func logPieces(t *testing.T, store blobs.Blobs) {
	ctx := t.Context()
	other := ref
	other.Attempt = 20 // its names begin with those of attempt 2 but for the slash
	var gone []string
	for offset := range int64(40) {
		gone = append(gone, blobs.LogPiece(ref, offset*1000))
	}
	kept := []string{blobs.Attempt(ref, blobs.Log), blobs.Attempt(ref, blobs.Result), blobs.LogPiece(other, 0)}
	for _, name := range append(kept, gone...) {
		if err := store.PutObject(ctx, name, []byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := store.DeleteLogPieces(ctx, ref); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range gone {
		if _, err := store.ReadAll(ctx, name); !errors.Is(err, blobs.ErrNotFound) {
			t.Errorf("%s is still there (%v)", name, err)
		}
	}
	for _, name := range kept {
		if found, err := store.ReadAll(ctx, name); err != nil || string(found) != name {
			t.Errorf("%s went too (%v)", name, err)
		}
	}
}

// Many transfers at once, of the same content and of different content, do not disturb each other.
func many(t *testing.T, store blobs.Blobs) {
	var group sync.WaitGroup
	folder := t.TempDir()
	for number := range 64 {
		group.Go(func() {
			data := fmt.Appendf(nil, "content %d", number%8)
			path := filepath.Join(folder, fmt.Sprintf("in%d", number))
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Error(err)
				return
			}
			artifact, err := store.Collect(t.Context(), path, "x")
			if err != nil {
				t.Error(err)
				return
			}
			target := filepath.Join(folder, fmt.Sprintf("out%d", number))
			if err := store.Place(t.Context(), artifact.Digest, target, false, false); err != nil {
				t.Error(err)
				return
			}
			if found, err := os.ReadFile(target); err != nil || !bytes.Equal(found, data) {
				t.Errorf("found %q (%v), expected %q", found, err, data)
			}
		})
	}
	group.Wait()
}

// A full disk is told as such, and what was written of the file is gone. Needs root, to mount a small file system.
func fullDisk(t *testing.T, store blobs.Blobs) {
	small := t.TempDir()
	if err := unix.Mount("none", small, "tmpfs", 0, "size=1m"); err != nil {
		if os.Getenv("SPARKLES_TEST_ALL") == "1" {
			t.Fatalf("a small file system could not be mounted: %v", err)
		}
		t.Skipf("a small file system could not be mounted: %v", err)
	}
	defer func() { _ = unix.Unmount(small, unix.MNT_DETACH) }()
	digest := collect(t, store, random(2<<20)).Digest
	if err := store.Place(t.Context(), digest, filepath.Join(small, "x"), false, false); !errors.Is(err, blobs.ErrFull) {
		t.Errorf("found %v", err)
	}
	if left := names(t, small); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

// A call whose context is over ends with its error and leaves nothing.
func cancelled(t *testing.T, store blobs.Blobs) {
	artifact := collect(t, store, random(1<<20))
	ctx, stop := context.WithCancel(t.Context())
	stop()
	folder := t.TempDir()
	if err := store.Place(ctx, artifact.Digest, filepath.Join(folder, "x"), false, false); !errors.Is(err, context.Canceled) {
		t.Errorf("Place: found %v", err)
	}
	if left := names(t, folder); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
	if _, err := store.Collect(ctx, write(t, []byte("other"), 0o644), "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("Collect: found %v", err)
	}
	if err := store.PutObject(ctx, "x", []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("PutObject: found %v", err)
	}
	if _, err := store.ReadAll(t.Context(), "x"); !errors.Is(err, blobs.ErrNotFound) {
		t.Errorf("it was written all the same (%v)", err)
	}
}

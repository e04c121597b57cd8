package dir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"sparkles.dev/consume/internal/blobs"
	"sparkles.dev/consume/internal/blobs/blobstest"
)

func TestStore(t *testing.T) {
	blobstest.Run(t, func(t *testing.T) blobs.Blobs {
		store, err := New(filepath.Join(t.TempDir(), "store"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = filepath.WalkDir(store.root, func(path string, entry fs.DirEntry, err error) error {
				if err == nil && entry.Name()[0] == '.' {
					t.Errorf("left behind: %s", path)
				}
				return err
			})
		})
		return store
	})
}

// A store that is full says so, and has nothing half-written.
func TestFullStore(t *testing.T) {
	root := t.TempDir()
	if err := unix.Mount("none", root, "tmpfs", 0, "size=1m"); err != nil {
		if os.Getenv("SPARKLES_TEST_ALL") == "1" {
			t.Fatalf("a small file system could not be mounted: %v", err)
		}
		t.Skipf("a small file system could not be mounted: %v", err)
	}
	defer func() { _ = unix.Unmount(root, unix.MNT_DETACH) }()
	store, err := New(root)
	if err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(large, make([]byte, 2<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Collect(t.Context(), large, "x"); !errors.Is(err, blobs.ErrFull) {
		t.Errorf("Collect: found %v", err)
	}
	if err := store.PutFile(t.Context(), "log", large); !errors.Is(err, blobs.ErrFull) {
		t.Errorf("PutFile: found %v", err)
	}
	if err := store.PutObject(t.Context(), "small", []byte("x")); err != nil {
		t.Errorf("what fits: %v", err)
	}
}

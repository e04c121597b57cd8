// Package blobs is content and the files of attempts as a worker needs them; names are those of docs/wire.md, below the installation's
// prefix. It imports wire. blobstest holds the list that dir and gcs keep.
package blobs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"sparkles.dev/consume/internal/wire"
)

// ErrNotFound says that there is no such object. It is fs.ErrNotExist as well.
var ErrNotFound = fmt.Errorf("not in the store: %w", fs.ErrNotExist)

// ErrFull says that no space is left where something was to be written, on this machine or in a store that is a folder of it. It is
// syscall.ENOSPC as well.
var ErrFull = fmt.Errorf("no space is left: %w", syscall.ENOSPC)

// ErrDamaged says that an object of content does not hold what its name says. It was removed, so that it can be stored anew.
type ErrDamaged struct{ Digest string }

func (e *ErrDamaged) Error() string {
	return fmt.Sprintf("%s does not hold the content of its name; it was removed, and what made it has to run again", Content(e.Digest))
}

// Blobs is a store of objects. All methods may be called at the same time. What is written is there whole or not at all.
type Blobs interface {
	// Place writes content to target, which appears whole, replaces what is there and is its task's own: nothing else changes when the
	// task writes to it. Its folder must exist. executable and private (its user's alone) give its permissions, under the umask.
	// Errors: ErrNotFound, *ErrDamaged, ErrFull.
	Place(ctx context.Context, digest, target string, executable, private bool) error

	// Collect stores the regular file at path as content and gives the artifact called name. A file that changes meanwhile is an error.
	// The last element of path is not followed where it is a link. Errors: ErrFull.
	Collect(ctx context.Context, path, name string) (wire.Artifact, error)

	// PutObject writes an object, in place of one that is there.
	PutObject(ctx context.Context, name string, data []byte) error

	// PutFile writes an object from a file, in place of one that is there: as many bytes as the file has now.
	PutFile(ctx context.Context, name, path string) error

	// PutRecord writes an attempt's result.json. One that is there stays, whatever it holds.
	PutRecord(ctx context.Context, ref wire.AttemptRef, record wire.Attempt) error

	// WriteNew writes an object that is not there. False: there is one with other bytes, and nothing was written.
	WriteNew(ctx context.Context, name string, data []byte) (bool, error)

	// ReadAll reads an object. Errors: ErrNotFound.
	ReadAll(ctx context.Context, name string) ([]byte, error)

	// ReadRange reads size bytes from offset on, fewer where the object ends before. Errors: ErrNotFound.
	ReadRange(ctx context.Context, name string, offset, size int64) ([]byte, error)

	// DeleteLogPieces removes the pieces of an attempt's log; there may be none.
	DeleteLogPieces(ctx context.Context, ref wire.AttemptRef) error
}

// Full gives ErrFull in place of what the system says where there is no space or the quota is used up; other errors stay.
func Full(err error) error {
	if errors.Is(err, ErrFull) || !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		return fmt.Errorf("%s: %w", path.Path, ErrFull)
	}
	return ErrFull
}

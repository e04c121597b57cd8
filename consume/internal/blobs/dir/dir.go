// Package dir keeps objects as files of a folder: for tests, and for a worker without a cloud. It imports blobs and wire.
package dir

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"sparkles.dev/consume/internal/blobs"
	"sparkles.dev/consume/internal/wire"
)

// Store is a folder; objects are files below it, called as they are.
type Store struct{ root string }

var _ blobs.Blobs = (*Store)(nil)

// New makes the folder where it is missing.
func New(root string) (*Store, error) {
	full, err := filepath.Abs(root)
	if err == nil {
		err = os.MkdirAll(full, 0o700)
	}
	if err != nil {
		return nil, blobs.Full(err)
	}
	return &Store{full}, nil
}

// Path is where an object is.
func (s *Store) Path(name string) string { return filepath.Join(s.root, filepath.FromSlash(name)) }

// Place is of blobs.Blobs.
func (s *Store) Place(ctx context.Context, digest, target string, executable, private bool) error {
	if err := blobs.CheckDigest(digest); err != nil {
		return err
	}
	source, err := os.Open(s.Path(blobs.Content(digest)))
	if err != nil {
		return fmt.Errorf("%s: %w", blobs.Content(digest), blobs.Missing(err))
	}
	defer func() { _ = source.Close() }()
	incoming, err := blobs.Receive(digest, target, executable, private)
	if err != nil {
		return err
	}
	if _, err := io.Copy(incoming, reader(ctx, source)); err != nil {
		incoming.Drop()
		return err
	}
	err = incoming.Done()
	var damaged *blobs.ErrDamaged
	if errors.As(err, &damaged) {
		_ = os.Remove(source.Name())
	}
	return err
}

// Collect is of blobs.Blobs.
func (s *Store) Collect(ctx context.Context, path, name string) (wire.Artifact, error) {
	file, err := blobs.Send(path)
	if err != nil {
		return wire.Artifact{}, err
	}
	defer file.Close()
	if _, err := io.Copy(io.Discard, reader(ctx, file)); err != nil {
		return wire.Artifact{}, err
	}
	digest := file.Digest()
	place := s.Path(blobs.Content(digest))
	if _, err := os.Lstat(place); err != nil {
		if err := file.Rewind(); err != nil {
			return wire.Artifact{}, err
		}
		if err := os.MkdirAll(filepath.Dir(place), 0o700); err != nil {
			return wire.Artifact{}, blobs.Full(err)
		}
		incoming, err := blobs.Receive(digest, place, false, true)
		if err != nil {
			return wire.Artifact{}, err
		}
		if _, err := io.Copy(incoming, reader(ctx, file)); err != nil {
			incoming.Drop()
			return wire.Artifact{}, err
		}
		if err := file.Unchanged(); err != nil {
			incoming.Drop()
			return wire.Artifact{}, err
		}
		if err := incoming.Done(); err != nil {
			var changed *blobs.ErrDamaged
			if errors.As(err, &changed) {
				return wire.Artifact{}, fmt.Errorf("%s changed while it was read; something still writes to it", path)
			}
			return wire.Artifact{}, err
		}
	}
	if err := file.Unchanged(); err != nil {
		return wire.Artifact{}, err
	}
	return wire.Artifact{
		Name: name, Digest: digest, SizeBytes: file.Facts.Size(), Executable: file.Executable(), Private: file.Private(),
	}, nil
}

// PutObject is of blobs.Blobs.
func (s *Store) PutObject(ctx context.Context, name string, data []byte) error {
	return s.write(ctx, name, bytes.NewReader(data), os.Rename)
}

// PutFile is of blobs.Blobs.
func (s *Store) PutFile(ctx context.Context, name, path string) error {
	file, err := blobs.Send(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return s.write(ctx, name, file, os.Rename)
}

// PutRecord is of blobs.Blobs.
func (s *Store) PutRecord(ctx context.Context, ref wire.AttemptRef, record wire.Attempt) error {
	if err := blobs.CheckRef(ref); err != nil {
		return err
	}
	_, err := s.WriteNew(ctx, blobs.Attempt(ref, blobs.Result), wire.Encode(record))
	return err
}

// WriteNew is of blobs.Blobs.
func (s *Store) WriteNew(ctx context.Context, name string, data []byte) (bool, error) {
	err := s.write(ctx, name, bytes.NewReader(data), os.Link)
	if !errors.Is(err, fs.ErrExist) {
		return err == nil, err
	}
	there, err := s.ReadAll(ctx, name)
	return err == nil && bytes.Equal(there, data), err
}

// write writes an object beside its place, and then puts it there by move.
func (s *Store) write(ctx context.Context, name string, source io.Reader, move func(from, to string) error) error {
	if err := blobs.CheckName(name); err != nil {
		return err
	}
	place := s.Path(name)
	if err := os.MkdirAll(filepath.Dir(place), 0o700); err != nil {
		return blobs.Full(err)
	}
	// Not beside it: what lists the folder would meet it.
	hidden := filepath.Join(s.root, ".incoming-"+rand.Text())
	file, err := os.OpenFile(hidden, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return blobs.Full(err)
	}
	defer func() { _ = os.Remove(hidden) }()
	_, err = io.Copy(file, reader(ctx, source))
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = move(hidden, place)
	}
	return blobs.Full(err)
}

// ReadAll is of blobs.Blobs.
func (s *Store) ReadAll(_ context.Context, name string) ([]byte, error) {
	if err := blobs.CheckName(name); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(s.Path(name))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, blobs.Missing(err))
	}
	return data, nil
}

// ReadRange is of blobs.Blobs.
func (s *Store) ReadRange(_ context.Context, name string, offset, size int64) ([]byte, error) {
	if err := blobs.CheckName(name); err != nil {
		return nil, err
	}
	file, err := os.Open(s.Path(name))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, blobs.Missing(err))
	}
	defer func() { _ = file.Close() }()
	return io.ReadAll(io.NewSectionReader(file, offset, size))
}

// DeleteLogPieces is of blobs.Blobs.
func (s *Store) DeleteLogPieces(_ context.Context, ref wire.AttemptRef) error {
	if err := blobs.CheckRef(ref); err != nil {
		return err
	}
	return os.RemoveAll(s.Path(blobs.LogPieces(ref)))
}

// reader ends with the context's error when it is over.
func reader(ctx context.Context, source io.Reader) io.Reader { return &guarded{ctx, source} }

type guarded struct {
	ctx    context.Context
	source io.Reader
}

func (g *guarded) Read(data []byte) (int, error) {
	if err := g.ctx.Err(); err != nil {
		return 0, err
	}
	return g.source.Read(data)
}

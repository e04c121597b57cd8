// Package gcs is blobs in a bucket of Cloud Storage.
//
// Each call has a time limit and is tried again while that can help, for five minutes: programs that ran for hours are not to suffer for a
// service that is away for one. Every write is one that may be repeated. Surprise: a Writer has written only when its Close returns no error.
package gcs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"time"

	"cloud.google.com/go/storage"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"

	"sparkles.dev/consume/internal/blobs"
	"sparkles.dev/consume/internal/wire"
)

var _ blobs.Blobs = (*Store)(nil)

const (
	transfers  = 16
	patience   = 5 * time.Minute
	leastPause = 100 * time.Millisecond
	mostPause  = 5 * time.Second
	// smallBytes: up to this an object is one request without a session for resuming.
	smallBytes = 8 << 20
	chunkBytes = 8 << 20
)

// Options says which installation. EmulatorHost (STORAGE_EMULATOR_HOST) is that of an emulator with its scheme, spoken to without credentials; "": the
// service. Patience is how long a call is tried again; 0: five minutes.
type Options struct {
	Bucket, Prefix string
	EmulatorHost   string
	Patience       time.Duration
}

// Store is an installation's objects; made by Open.
type Store struct {
	client   *storage.Client
	bucket   *storage.BucketHandle
	name     string
	prefix   string
	patience time.Duration
	slots    chan struct{}
}

// Open makes the client; the service is not asked yet.
func Open(ctx context.Context, options Options) (*Store, error) {
	settings := []option.ClientOption{storage.WithJSONReads()}
	if options.EmulatorHost != "" {
		// The client reads STORAGE_EMULATOR_HOST itself; a test may name another.
		settings = append(settings, option.WithEndpoint(options.EmulatorHost+"/storage/v1/"), option.WithoutAuthentication())
	}
	client, err := storage.NewClient(ctx, settings...)
	if err != nil {
		return nil, err
	}
	client.SetRetry(storage.WithPolicy(storage.RetryNever))
	store := &Store{
		client: client, bucket: client.Bucket(options.Bucket), name: options.Bucket, prefix: options.Prefix,
		patience: options.Patience, slots: make(chan struct{}, transfers),
	}
	if store.patience == 0 {
		store.patience = patience
	}
	return store, nil
}

// Close ends the connections.
func (s *Store) Close() { _ = s.client.Close() }

// Place is of blobs.Blobs.
func (s *Store) Place(ctx context.Context, digest, target string, executable, private bool) error {
	if err := blobs.CheckDigest(digest); err != nil {
		return err
	}
	name := blobs.Content(digest)
	err := s.trying(ctx, name, func(ctx context.Context) error {
		incoming, err := blobs.Receive(digest, target, executable, private)
		if err != nil {
			return err
		}
		reader, err := s.object(name).NewReader(ctx)
		if err != nil {
			incoming.Drop()
			return err
		}
		defer reader.Close()
		if _, err := io.Copy(incoming, reader); err != nil {
			incoming.Drop()
			return err
		}
		return incoming.Done()
	})
	var damaged *blobs.ErrDamaged
	if errors.As(err, &damaged) {
		// So that it can be stored anew.
		_ = s.trying(ctx, name, func(ctx context.Context) error { return s.object(name).Delete(ctx) })
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
	if _, err := io.Copy(io.Discard, file); err != nil {
		return wire.Artifact{}, err
	}
	digest := file.Digest()
	if err := file.Unchanged(); err != nil {
		return wire.Artifact{}, err
	}
	wrote, err := s.write(ctx, blobs.Content(digest), file.Facts.Size(), true, func() (io.Reader, error) { return file, file.Rewind() })
	if err != nil {
		return wire.Artifact{}, err
	}
	if wrote && (file.Digest() != digest || file.Unchanged() != nil) {
		_ = s.trying(ctx, digest, func(ctx context.Context) error { return s.object(blobs.Content(digest)).Delete(ctx) })
		return wire.Artifact{}, fmt.Errorf("%s changed while it was read; something still writes to it", path)
	}
	return wire.Artifact{
		Name: name, Digest: digest, SizeBytes: file.Facts.Size(), Executable: file.Executable(), Private: file.Private(),
	}, nil
}

// PutObject is of blobs.Blobs.
func (s *Store) PutObject(ctx context.Context, name string, data []byte) error {
	if err := blobs.CheckName(name); err != nil {
		return err
	}
	_, err := s.write(ctx, name, int64(len(data)), false, func() (io.Reader, error) { return bytes.NewReader(data), nil })
	return err
}

// PutFile is of blobs.Blobs.
func (s *Store) PutFile(ctx context.Context, name, path string) error {
	if err := blobs.CheckName(name); err != nil {
		return err
	}
	file, err := blobs.Send(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = s.write(ctx, name, file.Facts.Size(), false, func() (io.Reader, error) { return file, file.Rewind() })
	return err
}

// PutRecord is of blobs.Blobs.
func (s *Store) PutRecord(ctx context.Context, ref wire.AttemptRef, record wire.Attempt) error {
	if err := blobs.CheckRef(ref); err != nil {
		return err
	}
	data := wire.Encode(record)
	_, err := s.write(ctx, blobs.Attempt(ref, blobs.Result), int64(len(data)), true, func() (io.Reader, error) { return bytes.NewReader(data), nil })
	return err
}

// WriteNew is of blobs.Blobs.
func (s *Store) WriteNew(ctx context.Context, name string, data []byte) (bool, error) {
	if err := blobs.CheckName(name); err != nil {
		return false, err
	}
	wrote, err := s.write(ctx, name, int64(len(data)), true, func() (io.Reader, error) { return bytes.NewReader(data), nil })
	if err != nil || wrote {
		return wrote, err
	}
	// It may be what an earlier try of this very call wrote, whose answer was lost.
	there, err := s.ReadAll(ctx, name)
	return err == nil && bytes.Equal(there, data), err
}

// ReadAll is of blobs.Blobs.
func (s *Store) ReadAll(ctx context.Context, name string) ([]byte, error) {
	return s.read(ctx, name, 0, -1)
}

// ReadRange is of blobs.Blobs.
func (s *Store) ReadRange(ctx context.Context, name string, offset, size int64) ([]byte, error) {
	return s.read(ctx, name, offset, size)
}

func (s *Store) read(ctx context.Context, name string, offset, size int64) ([]byte, error) {
	if err := blobs.CheckName(name); err != nil {
		return nil, err
	}
	var data []byte
	err := s.trying(ctx, name, func(ctx context.Context) error {
		reader, err := s.object(name).NewRangeReader(ctx, offset, size)
		var refused *googleapi.Error
		if errors.As(err, &refused) && refused.Code == http.StatusRequestedRangeNotSatisfiable {
			data = []byte{}
			return nil
		}
		if err != nil {
			return err
		}
		defer reader.Close()
		data, err = io.ReadAll(reader)
		return err
	})
	return data, err
}

// DeleteLogPieces is of blobs.Blobs.
func (s *Store) DeleteLogPieces(ctx context.Context, ref wire.AttemptRef) error {
	if err := blobs.CheckRef(ref); err != nil {
		return err
	}
	below := blobs.LogPieces(ref)
	return s.trying(ctx, below, func(ctx context.Context) error {
		found := s.bucket.Objects(ctx, &storage.Query{Prefix: s.prefix + below})
		for {
			facts, err := found.Next()
			if errors.Is(err, iterator.Done) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := s.bucket.Object(facts.Name).Delete(ctx); err != nil && !errors.Is(err, storage.ErrObjectNotExist) {
				return err
			}
		}
	})
}

// write writes an object; with fresh only where there is none: false where there was one. source begins the bytes anew for each try.
func (s *Store) write(ctx context.Context, name string, size int64, fresh bool, source func() (io.Reader, error)) (bool, error) {
	wrote := false
	err := s.trying(ctx, name, func(ctx context.Context) error {
		// Abandoning a Writer by its context is the only way not to write a part of an object.
		ctx, abandon := context.WithCancel(ctx)
		defer abandon()
		object := s.object(name)
		if fresh {
			object = object.If(storage.Conditions{DoesNotExist: true})
		}
		reader, err := source()
		if err != nil {
			return err
		}
		writer := object.NewWriter(ctx)
		writer.ContentType = "application/octet-stream"
		writer.ChunkSize = chunkBytes
		if size <= smallBytes {
			writer.ChunkSize = 0
		}
		if _, err := io.Copy(writer, reader); err != nil {
			abandon()
			_ = writer.Close()
			return err
		}
		err = writer.Close()
		var refused *googleapi.Error
		if fresh && errors.As(err, &refused) && refused.Code == http.StatusPreconditionFailed {
			return nil
		}
		wrote = err == nil
		return err
	})
	return wrote, err
}

func (s *Store) object(name string) *storage.ObjectHandle { return s.bucket.Object(s.prefix + name) }

// trying calls again while that can help.
func (s *Store) trying(ctx context.Context, name string, call func(context.Context) error) error {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	began, pause := time.Now(), leastPause
	for {
		err := call(ctx)
		if err == nil {
			return nil
		}
		if errors.Is(err, storage.ErrObjectNotExist) {
			return fmt.Errorf("gs://%s/%s%s: %w", s.name, s.prefix, name, blobs.ErrNotFound)
		}
		if ctx.Err() != nil || !passing(err) || time.Since(began)+pause > s.patience {
			return fmt.Errorf("gs://%s/%s%s: %w", s.name, s.prefix, name, err)
		}
		time.Sleep(pause/2 + rand.N(pause/2))
		pause = min(2*pause, mostPause)
	}
}

// passing tells whether the same call can succeed later.
func passing(err error) bool {
	var refused *googleapi.Error
	if errors.As(err, &refused) {
		return refused.Code == http.StatusRequestTimeout || refused.Code == http.StatusTooManyRequests || refused.Code >= 500
	}
	var damaged *blobs.ErrDamaged
	var path *fs.PathError
	if errors.As(err, &damaged) || errors.As(err, &path) || errors.Is(err, blobs.ErrFull) || errors.Is(err, storage.ErrBucketNotExist) {
		return false
	}
	var network net.Error
	var address *url.Error
	return errors.As(err, &network) || errors.As(err, &address) || errors.Is(err, io.ErrUnexpectedEOF)
}

// IsConfiguration tells whether an error is about what the worker was told or may do, and not about the service: trying again does not help.
func IsConfiguration(err error) bool {
	if errors.Is(err, storage.ErrBucketNotExist) {
		return true
	}
	var refused *googleapi.Error
	return errors.As(err, &refused) && (refused.Code == http.StatusUnauthorized || refused.Code == http.StatusForbidden)
}

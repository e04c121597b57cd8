// Package gcs keeps objects in a bucket of Cloud Storage, below an installation's prefix. It imports blobs and wire.
//
// Surprise: the client's own retries are off. They are silent and endless; here each call ends when it makes no progress for a minute, and is
// tried again for five minutes, with a line in the log.
package gcs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cloud.google.com/go/storage"
	"golang.org/x/sync/semaphore"
	"google.golang.org/api/option"

	"sparkles.dev/consume/internal/blobs"
	"sparkles.dev/consume/internal/wire"
)

const (
	// transfers at a time: small objects are bound by the network's latency; more gain little on one machine.
	transfers = 16
	// smallBytes is what is sent from memory in one request; more is sent in chunks of this, each kept in memory until it is acknowledged.
	smallBytes = 8 << 20
	// memoryBytes of what is being sent are in memory at a time, whatever the number of tasks that end together.
	memoryBytes = 4 * smallBytes
	// pieceBytes is after how much of that the worker knows that bytes still move.
	pieceBytes = 256 << 10
	// touchAfter is below the hour for which `sparkles clean` spares content that no job refers to, so that an output stays until its record is written.
	touchAfter = 30 * time.Minute
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Options says where to. Prefix ends with a slash, or is empty. EmulatorHost (STORAGE_EMULATOR_HOST) is an emulator's address, with or without
// its scheme, spoken to without credentials; "": the service.
type Options struct {
	Bucket, Prefix string
	EmulatorHost   string
	// Patience is how long a call is tried again before it fails, where trying again can help; 0: 5 minutes.
	Patience time.Duration
	// Log is told when Cloud Storage does not answer; nil: nobody is.
	Log *slog.Logger
	// Client is added to the options of the client.
	Client []option.ClientOption
}

// Store is one installation's objects.
type Store struct {
	name, prefix string
	patience     time.Duration
	callTime     time.Duration
	toldAfter    time.Duration
	log          *slog.Logger
	client       *storage.Client
	bucket       *storage.BucketHandle
	slots        chan struct{}
	memory       *semaphore.Weighted
	troubled     atomic.Bool
	ahead        atomic.Int64 // nanoseconds that it is later by the service's clock
	dated        atomic.Bool  // it has said what time it is
	began        time.Time
	movedAt      atomic.Int64 // nanoseconds after began: the machine's clock may be set
}

var _ blobs.Blobs = (*Store)(nil)

// Open connects and looks whether the bucket can be listed. The error is a *Refused where it cannot be used.
func Open(ctx context.Context, options Options) (*Store, error) {
	// Reads by the same interface as all else: what serves the JSON interface under another name serves them too.
	client := []option.ClientOption{storage.WithJSONReads(), storage.WithDisabledClientMetrics()}
	if host := options.EmulatorHost; host != "" {
		if !strings.Contains(host, "://") {
			host = "http://" + host
		}
		client = append(client, option.WithEndpoint(strings.TrimRight(host, "/")+"/storage/v1/"), option.WithoutAuthentication())
	} else {
		client = append(client, option.WithScopes(storage.ScopeReadWrite))
	}
	opened, err := storage.NewClient(ctx, append(client, options.Client...)...)
	if err != nil {
		return nil, &Refused{"no way to log in to Google Cloud was found", err}
	}
	opened.SetRetry(storage.WithPolicy(storage.RetryNever))
	s := &Store{
		name: options.Bucket, prefix: options.Prefix, patience: options.Patience, callTime: callTime, toldAfter: toldAfter, log: options.Log,
		client: opened, bucket: opened.Bucket(options.Bucket), slots: make(chan struct{}, transfers), memory: semaphore.NewWeighted(memoryBytes),
		began: time.Now(),
	}
	if s.patience == 0 {
		s.patience = patience
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if _, err := s.list(ctx, "", 1); err != nil {
		_ = opened.Close()
		return nil, err
	}
	return s, nil
}

// Close ends its connections.
func (s *Store) Close() { _ = s.client.Close() }

// Place is of blobs.Blobs. A download that breaks off goes on where it broke off.
func (s *Store) Place(ctx context.Context, digest, target string, executable, private bool) error {
	if err := blobs.CheckDigest(digest); err != nil {
		return err
	}
	name := blobs.Content(digest)
	incoming, err := blobs.Receive(digest, target, executable, private)
	if err != nil {
		return err
	}
	err = s.trying(ctx, name, s.callTime, func(ctx context.Context, more func(bool)) error {
		return s.read(ctx, name, incoming.Size(), -1, &watched{incoming, func() { more(true) }})
	})
	if err != nil {
		incoming.Drop()
		return err
	}
	err = incoming.Done()
	var damaged *blobs.ErrDamaged
	if errors.As(err, &damaged) {
		if gone := s.remove(ctx, name); gone != nil {
			err = fmt.Errorf("%w (it could not be removed: %v)", err, gone)
		}
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
	free, err := s.reserve(ctx, file)
	if err != nil {
		return wire.Artifact{}, err
	}
	defer free()
	artifact := wire.Artifact{Name: name, SizeBytes: file.Facts.Size(), Executable: file.Executable(), Private: file.Private()}
	if artifact.SizeBytes <= smallBytes {
		data, err := io.ReadAll(file)
		if err == nil {
			err = file.Unchanged()
		}
		if err != nil {
			return wire.Artifact{}, err
		}
		artifact.Digest = file.Digest()
		err = s.send(ctx, blobs.Content(artifact.Digest), data, true)
		return artifact, s.keep(ctx, artifact.Digest, err)
	}
	check := crc32.New(castagnoli)
	if _, err := io.Copy(check, &guarded{ctx, file}); err != nil {
		return wire.Artifact{}, err
	}
	if err := file.Unchanged(); err != nil {
		return wire.Artifact{}, err
	}
	artifact.Digest = file.Digest()
	object := blobs.Content(artifact.Digest)
	if _, err := s.facts(ctx, object); errors.Is(err, blobs.ErrNotFound) {
		err = s.sendFile(ctx, object, file, artifact.Digest, check.Sum32())
		return artifact, s.keep(ctx, artifact.Digest, err)
	} else if err != nil {
		return wire.Artifact{}, err
	}
	return artifact, s.keep(ctx, artifact.Digest, errPresent)
}

// reserve waits until there is memory for what is sent of a file at a time.
func (s *Store) reserve(ctx context.Context, file *blobs.Outgoing) (free func(), err error) {
	size := min(file.Facts.Size(), smallBytes)
	if err := s.memory.Acquire(ctx, size); err != nil {
		return nil, context.Cause(ctx)
	}
	return func() { s.memory.Release(size) }, nil
}

// keep makes content that was there already count as written now where it is old.
func (s *Store) keep(ctx context.Context, digest string, err error) error {
	if !errors.Is(err, errPresent) {
		return err
	}
	name := blobs.Content(digest)
	found, err := s.facts(ctx, name)
	if err != nil || s.now(ctx).Sub(found.Updated) < touchAfter {
		return err
	}
	return s.trying(ctx, name, s.callTime, func(ctx context.Context, more func(bool)) error {
		// A rewrite onto itself moves no bytes.
		copier := s.object(name).CopierFrom(s.object(name))
		copier.ProgressFunc = func(uint64, uint64) { more(false) }
		_, err := copier.Run(ctx)
		return err
	})
}

// PutObject is of blobs.Blobs.
func (s *Store) PutObject(ctx context.Context, name string, data []byte) error {
	if err := blobs.CheckName(name); err != nil {
		return err
	}
	return s.send(ctx, name, data, false)
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
	free, err := s.reserve(ctx, file)
	if err != nil {
		return err
	}
	defer free()
	if file.Facts.Size() > smallBytes {
		return s.sendFile(ctx, name, file, "", 0)
	}
	data, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	return s.send(ctx, name, data, false)
}

// PutRecord is of blobs.Blobs.
func (s *Store) PutRecord(ctx context.Context, ref wire.AttemptRef, record wire.Attempt) error {
	if err := blobs.CheckRef(ref); err != nil {
		return err
	}
	err := s.send(ctx, blobs.Attempt(ref, blobs.Result), wire.Encode(record), true)
	if errors.Is(err, errPresent) {
		return nil
	}
	return err
}

// WriteNew is of blobs.Blobs.
func (s *Store) WriteNew(ctx context.Context, name string, data []byte) (bool, error) {
	if err := blobs.CheckName(name); err != nil {
		return false, err
	}
	err := s.send(ctx, name, data, true)
	if !errors.Is(err, errPresent) {
		return err == nil, err
	}
	// It may be this very write, whose answer was lost.
	there, err := s.ReadAll(ctx, name)
	return err == nil && bytes.Equal(there, data), err
}

// ReadAll is of blobs.Blobs.
func (s *Store) ReadAll(ctx context.Context, name string) ([]byte, error) {
	return s.ReadRange(ctx, name, 0, -1)
}

// ReadRange is of blobs.Blobs.
func (s *Store) ReadRange(ctx context.Context, name string, offset, size int64) ([]byte, error) {
	if err := blobs.CheckName(name); err != nil {
		return nil, err
	}
	if size == 0 {
		_, err := s.facts(ctx, name)
		return nil, err
	}
	var found bytes.Buffer
	err := s.trying(ctx, name, s.callTime, func(ctx context.Context, more func(bool)) error {
		found.Reset() // it may be another object by now
		return s.read(ctx, name, offset, size, &watched{&found, func() { more(false) }})
	})
	if err != nil {
		return nil, err
	}
	return found.Bytes(), nil
}

// DeleteLogPieces is of blobs.Blobs.
func (s *Store) DeleteLogPieces(ctx context.Context, ref wire.AttemptRef) error {
	if err := blobs.CheckRef(ref); err != nil {
		return err
	}
	names, err := s.list(ctx, blobs.LogPieces(ref), 0)
	if err != nil {
		return err
	}
	problems := make([]error, len(names))
	var group sync.WaitGroup
	for place, name := range names {
		group.Go(func() { problems[place] = s.remove(ctx, name) })
	}
	group.Wait()
	return errors.Join(problems...)
}

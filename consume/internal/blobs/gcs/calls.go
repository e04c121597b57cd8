package gcs

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"slices"

	"cloud.google.com/go/storage"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"

	"sparkles.dev/consume/internal/blobs"
)

func (s *Store) object(name string) *storage.ObjectHandle { return s.bucket.Object(s.prefix + name) }

// read writes the bytes from offset on to target, size at most (all: negative). A range behind the object's end is empty.
func (s *Store) read(ctx context.Context, name string, offset, size int64, target io.Writer) error {
	reader, err := s.object(name).NewRangeReader(ctx, offset, size)
	if answered(err, http.StatusRequestedRangeNotSatisfiable) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(target, reader)
	if closed := reader.Close(); err == nil {
		err = closed
	}
	return err
}

// send writes an object from memory. With absent only where there is none; else the error is errPresent.
func (s *Store) send(ctx context.Context, name string, data []byte, absent bool) error {
	stall := s.callTime
	if len(data) > smallBytes {
		stall += s.patience
	}
	return s.trying(ctx, name, stall, func(ctx context.Context, more func(bool)) error {
		writer, cancel := s.writer(ctx, name, absent)
		defer cancel()
		if len(data) <= smallBytes {
			writer.ChunkSize = 0
		}
		writer.ProgressFunc = func(int64) { more(false) }
		writer.CRC32C, writer.SendCRC32C = crc32.Checksum(data, castagnoli), true
		var err error
		for piece := range slices.Chunk(data, pieceBytes) { // what goes on without chunks reports no progress of its own
			if _, err = writer.Write(piece); err != nil {
				break
			}
			s.moved()
		}
		if closed := writer.Close(); err == nil || closed != nil {
			err = closed
		}
		return s.present(err)
	})
}

// sendFile writes a large file in chunks. With a digest it is content: written where there is none, and only when what was sent has it.
func (s *Store) sendFile(ctx context.Context, name string, file *blobs.Outgoing, digest string, check uint32) error {
	return s.trying(ctx, name, s.callTime+s.patience, func(ctx context.Context, more func(bool)) error {
		if err := file.Rewind(); err != nil {
			return err
		}
		writer, cancel := s.writer(ctx, name, digest != "")
		defer cancel()
		writer.ProgressFunc = func(int64) { more(false) }
		if digest != "" {
			writer.CRC32C, writer.SendCRC32C = check, true
		}
		_, err := io.Copy(writer, file)
		if err == nil && digest != "" {
			// Before Close, so that nothing of it is ever seen.
			if err = file.Unchanged(); err == nil && file.Digest() != digest {
				err = fmt.Errorf("%s changed while it was read; something still writes to it", file.Path())
			}
		}
		if err != nil {
			cancel()
			if closed := writer.Close(); answered(closed, http.StatusPreconditionFailed) {
				err = closed
			}
			return s.present(err)
		}
		return s.present(writer.Close())
	})
}

// writer begins an object; cancel before Close gives it up.
func (s *Store) writer(ctx context.Context, name string, absent bool) (*storage.Writer, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	object := s.object(name)
	if absent {
		object = object.If(storage.Conditions{DoesNotExist: true})
	}
	// A chunk is sent again by the client itself, since the upload would begin anew otherwise. Without a condition the object may be written twice,
	// with the same bytes.
	object = object.Retryer(storage.WithPolicy(storage.RetryAlways), storage.WithErrorFunc(func(err error) bool {
		again := canHelp(err)
		if again {
			s.tell(err)
		}
		return again
	}))
	writer := object.NewWriter(ctx)
	writer.ContentType = "application/octet-stream"
	writer.ChunkSize = smallBytes
	writer.ChunkTransferTimeout = s.callTime
	writer.ChunkRetryDeadline = s.patience
	return writer, cancel
}

func (s *Store) facts(ctx context.Context, name string) (*storage.ObjectAttrs, error) {
	var found *storage.ObjectAttrs
	err := s.trying(ctx, name, s.callTime, func(ctx context.Context, _ func(bool)) error {
		var err error
		found, err = s.object(name).Attrs(ctx)
		s.note(err)
		return err
	})
	return found, err
}

// remove deletes an object; one that is gone already is no error.
func (s *Store) remove(ctx context.Context, name string) error {
	err := s.trying(ctx, name, s.callTime, func(ctx context.Context, _ func(bool)) error { return s.object(name).Delete(ctx) })
	if errors.Is(err, blobs.ErrNotFound) {
		return nil
	}
	return err
}

// list gives the names below; most of them at most (0: all).
func (s *Store) list(ctx context.Context, below string, most int) ([]string, error) {
	query := &storage.Query{Prefix: s.prefix + below, Projection: storage.ProjectionNoACL}
	if err := query.SetAttrSelection([]string{"Name"}); err != nil {
		return nil, err
	}
	var names []string
	err := s.trying(ctx, below, s.callTime, func(ctx context.Context, more func(bool)) error {
		names = names[:0]
		found := s.bucket.Objects(ctx, query)
		for most == 0 || len(names) < most {
			if most > 0 {
				found.PageInfo().MaxSize = most
			}
			attrs, err := found.Next()
			if errors.Is(err, iterator.Done) {
				break
			}
			if err != nil {
				return err
			}
			more(false)
			names = append(names, attrs.Name[len(s.prefix):])
		}
		return nil
	})
	return names, err
}

// present gives errPresent where that is what an answer says.
func (s *Store) present(err error) error {
	s.note(err)
	if answered(err, http.StatusPreconditionFailed) {
		return errPresent
	}
	return err
}

func answered(err error, code int) bool {
	var answer *googleapi.Error
	return errors.As(err, &answer) && answer.Code == code
}

// watched reports progress with each write.
type watched struct {
	target io.Writer
	more   func()
}

func (w *watched) Write(data []byte) (int, error) {
	count, err := w.target.Write(data)
	if count > 0 {
		w.more()
	}
	return count, err
}

// guarded ends with the context's error when it is over.
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

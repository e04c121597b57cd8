package blobs

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Incoming is a file that appears at its target only when all its bytes were written and have the right digest.
type Incoming struct {
	target string
	digest string
	file   *os.File
	hash   hash.Hash
	size   int64
}

// Receive begins a file next to target. Exactly one of Done and Drop ends it.
func Receive(digest, target string, executable, private bool) (*Incoming, error) {
	mode := fs.FileMode(0o666)
	if executable {
		mode = 0o777
	}
	if private {
		mode &= 0o700
	}
	base := filepath.Base(target)
	hidden := fmt.Sprintf(".%s.%s", base[:min(len(base), 60)], rand.Text()[:8])
	file, err := os.OpenFile(filepath.Join(filepath.Dir(target), hidden), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return nil, Full(err)
	}
	return &Incoming{target: target, digest: digest, file: file, hash: sha256.New()}, nil
}

// Write takes the next bytes.
func (f *Incoming) Write(data []byte) (int, error) {
	count, err := f.file.Write(data)
	f.hash.Write(data[:count])
	f.size += int64(count)
	return count, Full(err)
}

// Size is how many bytes were taken.
func (f *Incoming) Size() int64 { return f.size }

// Done checks the digest and puts the file in its place. The error is *ErrDamaged where the digest is another; the file is gone then.
func (f *Incoming) Done() error {
	err := f.file.Close()
	if err == nil && hex.EncodeToString(f.hash.Sum(nil)) != f.digest {
		err = &ErrDamaged{f.digest}
	}
	if err == nil {
		err = os.Rename(f.file.Name(), f.target)
	}
	if err != nil {
		_ = os.Remove(f.file.Name())
	}
	return Full(err)
}

// Drop removes what was taken so far.
func (f *Incoming) Drop() {
	_ = f.file.Close()
	_ = os.Remove(f.file.Name())
}

// Outgoing is a regular file that is being stored. Reading hashes it; Unchanged tells at the end whether what was read was the file.
type Outgoing struct {
	Facts  fs.FileInfo
	path   string
	file   *os.File
	hash   hash.Hash
	read   int64
	before syscall.Stat_t
}

// Send opens a file; what is not a regular file is refused.
func Send(path string) (*Outgoing, error) {
	// Without O_NONBLOCK, a named pipe in its place would block the worker.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	facts, err := file.Stat()
	if err == nil && !facts.Mode().IsRegular() {
		err = fmt.Errorf("%s: expected a plain file, found %s", path, facts.Mode())
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return &Outgoing{Facts: facts, path: path, file: file, hash: sha256.New(), before: *facts.Sys().(*syscall.Stat_t)}, nil
}

// Path is the file's.
func (f *Outgoing) Path() string { return f.path }

// Read gives the next bytes, no more than the file had when it was opened.
func (f *Outgoing) Read(data []byte) (int, error) {
	left := f.Facts.Size() - f.read
	if left <= 0 {
		return 0, io.EOF
	}
	count, err := f.file.Read(data[:min(int64(len(data)), left)])
	f.hash.Write(data[:count])
	f.read += int64(count)
	return count, err
}

// Rewind begins anew.
func (f *Outgoing) Rewind() error {
	f.hash.Reset()
	f.read = 0
	_, err := f.file.Seek(0, io.SeekStart)
	return err
}

// Digest is that of what was read.
func (f *Outgoing) Digest() string { return hex.EncodeToString(f.hash.Sum(nil)) }

// Unchanged is an error where the file is not, whole, what was read.
func (f *Outgoing) Unchanged() error {
	facts, err := f.file.Stat()
	if err != nil {
		return err
	}
	now := facts.Sys().(*syscall.Stat_t)
	if f.read != f.Facts.Size() || now.Size != f.before.Size || now.Mtim != f.before.Mtim {
		return fmt.Errorf("%s changed while it was read: size %d -> %d; something still writes to it", f.path, f.before.Size, now.Size)
	}
	return nil
}

// Executable tells whether somebody may execute the file.
func (f *Outgoing) Executable() bool { return f.Facts.Mode()&0o111 != 0 }

// Private tells whether others may not read it.
func (f *Outgoing) Private() bool { return f.Facts.Mode()&0o004 == 0 }

// Close closes the file.
func (f *Outgoing) Close() { _ = f.file.Close() }

// Missing gives ErrNotFound in place of what the system says of a file that is not there; other errors stay.
func Missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotFound
	}
	return err
}

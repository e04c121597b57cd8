package attempt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"sparkles.dev/consume/internal/blobs"
	"sparkles.dev/consume/internal/wire"
)

const resultsLimit = 16 << 20

// ReadResults gives the text of results.json, nil where the task wrote none. The error is a *Failed of class output.
func (f *Folder) ReadResults() (*string, error) {
	refused := func(format string, values ...any) error {
		return &Failed{wire.FailureOutput, "results.json " + fmt.Sprintf(format, values...)}
	}
	// Without O_NONBLOCK, a named pipe in its place would block the worker.
	file, err := os.OpenFile(filepath.Join(f.Path, "results.json"), os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, syscall.ELOOP):
		return nil, refused("is a symbolic link; expected a plain file")
	case errors.Is(err, syscall.ENXIO): // a socket
		return nil, refused("is not a plain file; expected a plain file")
	case err != nil:
		return nil, refused("cannot be read: %s", sentence(err))
	}
	defer file.Close()
	facts, err := file.Stat()
	if err != nil {
		return nil, refused("cannot be read: %s", sentence(err))
	}
	if facts.IsDir() {
		return nil, refused("is a folder; expected a plain file")
	}
	if !facts.Mode().IsRegular() {
		return nil, refused("is not a plain file; expected a plain file")
	}
	if facts.Size() > resultsLimit {
		return nil, refused("has %d bytes; at most %d are kept: write larger data to an output", facts.Size(), resultsLimit)
	}
	data, err := io.ReadAll(io.LimitReader(file, resultsLimit+1))
	if err != nil {
		return nil, refused("cannot be read: %s", sentence(err))
	}
	if !utf8.Valid(data) {
		return nil, refused("is not JSON: it is not UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, refused("is not JSON: %v", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, refused("is not JSON: something follows its value")
	}
	text := string(data)
	return &text, nil
}

// CollectOutputs stores what the task was to leave, many files at a time. A pattern without wildcards names a file whatever it is; wildcards pass over the task's own
// inputs and over links out. The error is a *Failed: output, where a required pattern matched nothing or something leads out; disk; staging.
func (f *Folder) CollectOutputs(ctx context.Context, store blobs.Blobs) ([]wire.Artifact, error) {
	work := f.work()
	if err := f.checkOwn(); err != nil {
		return nil, err
	}
	inputs := map[string]bool{}
	for _, file := range f.Claim.Spec.Files {
		inputs[file.Dst] = true
	}
	found := map[string]bool{}
	var listing []string
	listed := false
	for _, glob := range f.Plan.Spec.Outputs {
		var matched []string
		if !strings.ContainsAny(glob.Pattern, "*?[") {
			there, err := isFile(work, glob.Pattern)
			if err != nil {
				return nil, err
			}
			if there {
				matched = append(matched, glob.Pattern)
			}
		} else {
			pattern, err := CompileGlob(glob.Pattern)
			if err != nil {
				return nil, &Failed{wire.FailureOutput, err.Error()}
			}
			if !listed {
				listing, listed = walk(work), true
			}
			for _, name := range listing {
				if !inputs[name] && pattern.MatchString(name) {
					matched = append(matched, name)
				}
			}
		}
		if glob.Required && len(matched) == 0 {
			return nil, &Failed{wire.FailureOutput, fmt.Sprintf("required output %s was not written", glob.Pattern)}
		}
		for _, name := range matched {
			found[path.Clean(name)] = true
		}
	}
	names := make([]string, 0, len(found))
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	artifacts := make([]wire.Artifact, len(names))
	err := sideBySide(ctx, len(names), func(ctx context.Context, place int) (err error) {
		artifacts[place], err = f.collect(ctx, store, names[place])
		return err
	})
	if err != nil {
		return nil, err
	}
	return artifacts, nil
}

func (f *Folder) collect(ctx context.Context, store blobs.Blobs, name string) (wire.Artifact, error) {
	err := blobs.CheckOutput(name)
	if err == nil {
		// A link to a file inside is that file's bytes.
		real, failed := filepath.EvalSymlinks(filepath.Join(f.work(), name))
		if failed != nil {
			return wire.Artifact{}, failedCall(failed, "output "+name)
		}
		var artifact wire.Artifact
		if artifact, err = store.Collect(ctx, real, name); err == nil {
			return artifact, nil
		}
	}
	if isFull(err) {
		return wire.Artifact{}, &Failed{wire.FailureDisk, fmt.Sprintf("outputs were not stored: %v", err)}
	}
	return wire.Artifact{}, &Failed{wire.FailureStaging, fmt.Sprintf("outputs were not stored: %v", err)}
}

// checkOwn refuses a link in the place of the scratch directory or of the attempt's folder: what is there is not the task's.
func (f *Folder) checkOwn() error {
	parent, err := filepath.EvalSymlinks(filepath.Dir(f.Path))
	if err != nil {
		return nil // nothing is left, so nothing is found
	}
	own := filepath.Join(parent, filepath.Base(f.Path), "work")
	if _, err := os.Lstat(own); err != nil {
		return nil
	}
	if real, err := filepath.EvalSymlinks(own); err != nil || real != own {
		return &Failed{wire.FailureOutput, "the scratch directory is a link now, and outputs are taken from the directory that the task was given"}
	}
	return nil
}

// walk lists relative paths of the regular files below, in order; links to files inside count, no link to a folder is followed.
func walk(top string) []string {
	var found []string
	_ = filepath.WalkDir(top, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil // not ours to read, or the task removed it
		}
		relative, _ := filepath.Rel(top, name)
		if entry.Type().IsRegular() || entry.Type()&fs.ModeSymlink != 0 && inside(top, name) {
			found = append(found, relative)
		}
		return nil
	})
	slices.Sort(found)
	return found
}

// inside tells whether a path leads to a regular file of the scratch directory.
func inside(top, name string) bool {
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		return false
	}
	root, err := filepath.EvalSymlinks(top)
	if err != nil || !strings.HasPrefix(real, root+"/") {
		return false
	}
	facts, err := os.Lstat(real)
	return err == nil && facts.Mode().IsRegular()
}

// isFile tells whether a pattern without wildcards names a regular file inside.
func isFile(work, name string) (bool, error) {
	if escapes(name) {
		return false, nil
	}
	full := filepath.Join(work, name)
	facts, err := os.Lstat(full)
	if err != nil {
		return false, nil
	}
	root, err := filepath.EvalSymlinks(work)
	if err != nil {
		return false, nil
	}
	real, err := filepath.EvalSymlinks(full)
	if err != nil && !leadsOut(full, root) {
		return false, nil // a link to nothing
	}
	if err != nil || !strings.HasPrefix(real, root+"/") {
		return false, &Failed{wire.FailureOutput, fmt.Sprintf("output %s is a link that leads out of the scratch directory", name)}
	}
	if facts.Mode()&fs.ModeSymlink != 0 {
		return inside(work, full), nil
	}
	if facts.IsDir() {
		return false, &Failed{wire.FailureOutput, fmt.Sprintf("output %s is a folder (use a pattern such as %s/**)", name, name)}
	}
	if !facts.Mode().IsRegular() {
		return false, &Failed{wire.FailureOutput, fmt.Sprintf("output %s is not a plain file", name)}
	}
	return true, nil
}

// leadsOut tells whether a link to what does not exist names a place outside root.
func leadsOut(link, root string) bool {
	for range 40 { // as many as the kernel follows
		target, err := os.Readlink(link)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(link), target)
		}
		link = target
	}
	folder, err := filepath.EvalSymlinks(filepath.Dir(link))
	if err != nil {
		folder = filepath.Dir(link)
	}
	return !strings.HasPrefix(folder+"/", root+"/")
}

// CompileGlob reads a pattern: * and ? stay within a folder, **/ is any number of folders, [ab], [!ab] a set of characters.
func CompileGlob(pattern string) (*regexp.Regexp, error) {
	pattern = path.Clean(pattern)
	var out strings.Builder
	out.WriteString(`(?s)\A`)
	for at := 0; at < len(pattern); {
		rest := pattern[at:]
		switch {
		case strings.HasPrefix(rest, "**/"):
			out.WriteString("(?:[^/]+/)*")
			at += 3
		case strings.HasPrefix(rest, "**"):
			out.WriteString(".*")
			at += 2
		case rest[0] == '*':
			out.WriteString("[^/]*")
			at++
		case rest[0] == '?':
			out.WriteString("[^/]")
			at++
		case rest[0] == '[':
			first := 2 // what closes a set is not its first character
			if len(rest) > 1 && (rest[1] == '!' || rest[1] == '^') {
				first = 3
			}
			end := -1
			if len(rest) > first {
				if found := strings.IndexByte(rest[first:], ']'); found >= 0 {
					end = first + found
				}
			}
			if end < 0 {
				out.WriteString(`\[`)
				at++
				continue
			}
			body, negated := strings.ReplaceAll(rest[1:end], "/", ""), ""
			if first == 3 {
				body, negated = rest[2:end], "^/"
			}
			body = strings.NewReplacer(`\`, `\\`, `[`, `\[`, `]`, `\]`, `^`, `\^`).Replace(body)
			out.WriteString("[" + negated + body + "]")
			at += end + 1
		default:
			_, size := utf8.DecodeRuneInString(rest)
			out.WriteString(regexp.QuoteMeta(rest[:size]))
			at += size
		}
	}
	out.WriteString(`\z`)
	compiled, err := regexp.Compile(out.String())
	if err != nil {
		return nil, fmt.Errorf("%s: expected a pattern, found a set of characters that cannot be one, such as [z-a]", pattern)
	}
	return compiled, nil
}

package blobs

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"unicode/utf8"

	"sparkles.dev/consume/internal/wire"
)

// Names of an attempt's objects, for Attempt.
const (
	Log    = "output.log"
	Result = "result.json"
	pieces = "log/"
)

// Content is the object of content.
func Content(digest string) string { return "cas/" + digest }

// Attempt is an object of an attempt; with an empty name, what all of them begin with.
func Attempt(ref wire.AttemptRef, name string) string {
	return fmt.Sprintf("jobs/%s/%d/a%d/%s", ref.Job, ref.Index, ref.Attempt, name)
}

// LogPiece is the piece of an attempt's log that begins at a byte of it.
func LogPiece(ref wire.AttemptRef, offset int64) string {
	return Attempt(ref, fmt.Sprintf("%s%08d", pieces, offset))
}

// LogPieces is what the names of all pieces of an attempt's log begin with.
func LogPieces(ref wire.AttemptRef) string { return Attempt(ref, pieces) }

// Namespace is the Datastore namespace of an installation: its prefix as a name that Datastore takes (at most 100 of A-Za-z0-9._-).
func Namespace(prefix string) string {
	clean := []byte{}
	for _, letter := range strings.Trim(prefix, "/") {
		plain := letter >= 'a' && letter <= 'z' || letter >= 'A' && letter <= 'Z' || letter >= '0' && letter <= '9' || strings.ContainsRune("._-", letter)
		if !plain {
			letter = '.'
		}
		clean = append(clean, byte(letter))
	}
	return string(clean[:min(len(clean), 100)])
}

// CheckDigest refuses what is not 64 lower-case hex digits: nothing else becomes a path or the name of an object.
func CheckDigest(digest string) error {
	if len(digest) == 64 && strings.Trim(digest, "0123456789abcdef") == "" {
		return nil
	}
	return fmt.Errorf("%q is not a digest: expected 64 of 0-9 a-f", digest)
}

// CheckRef refuses an attempt whose job's id is not one plain name, or that is not numbered from 1.
func CheckRef(ref wire.AttemptRef) error {
	if !fs.ValidPath(ref.Job) || ref.Job == "." || strings.ContainsAny(ref.Job, "/\\\x00") {
		return fmt.Errorf("%q is not the id of a job: expected one name without slashes", ref.Job)
	}
	if ref.Index < 1 || ref.Attempt < 1 {
		return fmt.Errorf("%s: tasks and attempts are numbered from 1", ref)
	}
	return nil
}

// CheckName refuses names of objects that could leave the installation's prefix.
func CheckName(name string) error {
	if fs.ValidPath(name) && name != "." && !strings.ContainsRune(name, 0) {
		return nil
	}
	return fmt.Errorf("%q is not the name of an object: expected names with slashes between them", name)
}

const (
	// mostName is for one name of a path, on every file system in use; mostPath for a whole one: PATH_MAX has to hold the folder before it too.
	mostName = 255
	mostPath = 2048
	// mostShown characters of a name are told.
	mostShown = 200
)

// CheckOutput refuses names of outputs that are not paths of plain names, as check_artifact_name does in sparkles/backends/names.py: where one
// worker stores an output, the other does.
func CheckOutput(name string) error {
	why := ""
	switch {
	case strings.HasPrefix(name, "/"):
		why = "begins with a slash"
	case len(name) > mostPath:
		why = fmt.Sprintf("is longer than %d bytes", mostPath)
	default:
		for part := range strings.SplitSeq(name, "/") {
			if why = whyNot(part); why != "" {
				break
			}
		}
	}
	if why == "" {
		return nil
	}
	return fmt.Errorf("collect: %s cannot be the name of an output: it %s", shown(name), why)
}

// whyNot says what is wrong with one name of a path, "" where it is usable.
func whyNot(part string) string {
	switch {
	case part == "":
		return "has an empty part"
	case part == "." || part == "..":
		return "has a part '" + part + "'"
	case strings.ContainsAny(part, "\\\x00"):
		return "holds a slash, a backslash or a NUL"
	case !utf8.ValidString(part):
		return "is not UTF-8"
	case len(part) > mostName:
		return fmt.Sprintf("has a part of more than %d bytes", mostName)
	}
	return ""
}

// shown is the beginning of a name, quoted as Python's repr does: a byte that is not UTF-8 as \udcNN.
func shown(name string) string {
	quote := byte('\'')
	if strings.Contains(name, "'") && !strings.Contains(name, `"`) {
		quote = '"'
	}
	text := []byte{quote}
	count := 0
	for at := 0; at < len(name); count++ {
		letter, size := utf8.DecodeRuneInString(name[at:])
		switch {
		case count == mostShown:
			return string(append(text, '.', '.', '.', quote))
		case letter == utf8.RuneError && size == 1:
			text = fmt.Appendf(text, `\udc%02x`, name[at])
		case letter == rune(quote) || letter == '\\':
			text = append(text, '\\', byte(letter))
		case strconv.IsPrint(letter):
			text = utf8.AppendRune(text, letter)
		default:
			plain := strconv.QuoteRune(letter)
			text = append(text, plain[1:len(plain)-1]...)
		}
		at += size
	}
	return string(append(text, quote))
}

package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// StartError says that a program could not be started. Code is the shell's for it: 127 not found, 126 not executable; 0 where the machine
// refused.
type StartError struct {
	Code   int
	Reason string
}

func (e *StartError) Error() string { return e.Reason }

// candidates gives the paths to try for the program's name, with the task's own PATH.
func candidates(launch Launch) []string {
	name := launch.Argv[0]
	if strings.Contains(name, "/") {
		return []string{name}
	}
	path := "/bin:/usr/bin"
	for _, entry := range launch.Env {
		if value, found := strings.CutPrefix(entry, "PATH="); found {
			path = value
			break
		}
	}
	var found []string
	for folder := range strings.SplitSeq(path, ":") {
		found = append(found, filepath.Join(folder, name))
	}
	return found
}

func startError(launch Launch, err error) error {
	name := launch.Argv[0]
	var number syscall.Errno
	if !errors.As(err, &number) {
		return &StartError{Code: 126, Reason: fmt.Sprintf("the command cannot be executed: %v", err)}
	}
	switch number {
	case syscall.ENOENT:
		if strings.Contains(name, "/") {
			path := name
			if !filepath.IsAbs(path) {
				path = filepath.Join(launch.Dir, name)
			}
			if _, err := os.Stat(path); err == nil {
				return &StartError{Code: 127, Reason: name + " could not be started: the interpreter that its first line names does not exist"}
			}
			return &StartError{Code: 127, Reason: name + " was not found"}
		}
		return &StartError{Code: 127, Reason: name + " was not found in PATH"}
	case syscall.EACCES, syscall.EPERM, syscall.ENOEXEC, syscall.EISDIR, syscall.ENOTDIR, syscall.ELOOP:
		return &StartError{Code: 126, Reason: fmt.Sprintf("%s could not be executed: %s", name, ErrnoText(number))}
	case syscall.E2BIG:
		return &StartError{Code: 126, Reason: "the command and its environment are longer than the system allows: pass long values in files"}
	}
	return &StartError{Reason: "the program could not be started: " + ErrnoText(number)}
}

// ErrnoText is strerror(3): Go's texts begin with a small letter.
func ErrnoText(number syscall.Errno) string {
	text := number.Error()
	return strings.ToUpper(text[:1]) + text[1:]
}

// Package attempt is one attempt's folder: what a task finds when it starts (docs/tasks.md), what is kept of it, and its record. It is the twin of
// sparkles/engine/attempt.py, outputs.py and records.py; tests/golden/failure_classes.json is played by both.
//
//	FOLDER/   params.json   work/ (the scratch directory)   output.log   results.json
//
// Nothing here trusts what a task left: a results.json can be a named pipe, an output a link to /etc, a log 100 GB.
package attempt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"sparkles.dev/consume/internal/blobs"
	"sparkles.dev/consume/internal/runner"
	"sparkles.dev/consume/internal/wire"
)

// scriptAbove is the length from which a command text is run from a file: one argument of execve holds 128 KiB on Linux.
const scriptAbove = 100_000

// Failed says that the attempt ends here, for this class and reason.
type Failed struct {
	Class  wire.FailureClass
	Reason string
}

func (e *Failed) Error() string { return e.Reason }

var ownVariables = []string{
	"SPARKLES_JOB", "SPARKLES_TASK", "SPARKLES_ATTEMPT", "SPARKLES_PARAMS", "SPARKLES_RESULTS", "SPARKLES_WORKER", "SPARKLES_TOKEN",
}

// Plan is what the attempts of one job have in common, worked out once. Problem is why none of them can run, or "". secrets are values that are not
// to be kept.
type Plan struct {
	Spec    wire.JobSpec
	Problem string
	env     map[string]string
	secrets []string
}

// NewPlan works it out; environ holds NAME=value entries, the worker's own environment.
func NewPlan(spec wire.JobSpec, job, worker string, environ []string) *Plan {
	plan := &Plan{Spec: spec, env: map[string]string{}}
	own := map[string]string{}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		own[name] = value
		plan.set(name, value)
	}
	for name, value := range spec.Env {
		plan.set(name, value)
	}
	names := make([]string, 0, len(spec.SecretEnv))
	for name := range spec.SecretEnv {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		reference := spec.SecretEnv[name]
		kind, source, _ := strings.Cut(reference, ":")
		value, found := own[source]
		switch {
		case kind != "env":
			plan.Problem = fmt.Sprintf("secret %s: %s cannot be resolved on this machine (expected env:NAME)", name, reference)
		case !found:
			plan.Problem = fmt.Sprintf("secret %s: %s is not set in the environment of the worker; set %s and run again", name, reference, source)
		default:
			plan.set(name, value)
			plan.secrets = append(plan.secrets, value)
		}
	}
	slices.SortFunc(plan.secrets, func(a, b string) int { return len(b) - len(a) })
	plan.env["SPARKLES_JOB"] = job
	plan.env["SPARKLES_WORKER"] = worker
	return plan
}

// set leaves alone what this worker sets itself.
func (p *Plan) set(name, value string) {
	if !slices.Contains(ownVariables, name) {
		p.env[name] = value
	}
}

// Folder is one attempt's folder on this machine.
type Folder struct {
	Path  string
	Plan  *Plan
	Claim wire.Claim
}

func (f *Folder) work() string { return filepath.Join(f.Path, "work") }

// LogPath is where the task's output goes.
func (f *Folder) LogPath() string { return filepath.Join(f.Path, "output.log") }

// Create makes the folder with params.json and an empty scratch directory; what an attempt of that name left goes.
func (f *Folder) Create() error {
	if err := RemoveAll(f.Path); err != nil {
		return failedCall(err, "the attempt's folder could not be made")
	}
	if err := os.MkdirAll(f.work(), 0o777); err != nil {
		return failedCall(err, "the attempt's folder could not be made")
	}
	params := f.Claim.Spec.Params
	if len(params) == 0 {
		params = json.RawMessage("{}")
	}
	if err := os.WriteFile(filepath.Join(f.Path, "params.json"), params, 0o666); err != nil {
		return failedCall(err, "the attempt's folder could not be made")
	}
	return nil
}

// PlaceInputs puts the task's inputs into its scratch directory, many at a time. The error is a *Failed: staging or disk, with the path of the
// first input, in the task's order, that cannot be placed.
func (f *Folder) PlaceInputs(ctx context.Context, store blobs.Blobs) error {
	files := f.Claim.Spec.Files
	made := map[string]bool{f.work(): true}
	for place, file := range files {
		err := f.makeRoom(file.Dst, made)
		if err == nil {
			continue
		}
		if earlier := f.placeAll(ctx, store, files[:place]); earlier != nil {
			return earlier
		}
		return err
	}
	return f.placeAll(ctx, store, files)
}

// makeRoom makes the folder of an input; made are those that are there.
func (f *Folder) makeRoom(name string, made map[string]bool) error {
	if escapes(name) {
		return &Failed{wire.FailureStaging, fmt.Sprintf("input %s: the path leaves the scratch directory", name)}
	}
	folder := filepath.Dir(filepath.Join(f.work(), name))
	if made[folder] {
		return nil
	}
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return failedCall(err, "input "+name)
	}
	made[folder] = true
	return nil
}

func (f *Folder) placeAll(ctx context.Context, store blobs.Blobs, files []wire.InputFile) error {
	return sideBySide(ctx, len(files), func(ctx context.Context, place int) error { return f.place(ctx, store, files[place]) })
}

func (f *Folder) place(ctx context.Context, store blobs.Blobs, file wire.InputFile) error {
	err := store.Place(ctx, file.Digest, filepath.Join(f.work(), file.Dst), file.Executable, file.Private)
	if err == nil {
		return nil
	}
	source := ""
	if file.Src != "" {
		source = fmt.Sprintf(" (%s)", file.Src)
	}
	const again = "Run the same command again: it is stored anew, or made again"
	var damaged *blobs.ErrDamaged
	switch {
	case errors.Is(err, blobs.ErrNotFound):
		return &Failed{wire.FailureStaging, fmt.Sprintf("input %s%s is not in the store any more: %v. %s", file.Dst, source, err, again)}
	case errors.As(err, &damaged):
		return &Failed{wire.FailureStaging, fmt.Sprintf("input %s%s is damaged: %v. %s", file.Dst, source, err, again)}
	case isFull(err):
		return &Failed{wire.FailureDisk, fmt.Sprintf("input %s: no space is left: %v", file.Dst, err)}
	}
	return &Failed{wire.FailureStaging, fmt.Sprintf("input %s: %v", file.Dst, err)}
}

// Launch is what to start. The error is a *Failed.
func (f *Folder) Launch(log *os.File, memory int64) (runner.Launch, error) {
	dir := f.work()
	if work := f.Plan.Spec.WorkDir; work != "" && work != "." {
		if escapes(work) {
			return runner.Launch{}, &Failed{wire.FailureConfig, fmt.Sprintf("the working directory %s leaves the scratch directory", work)}
		}
		dir = filepath.Join(dir, work)
		if err := os.MkdirAll(dir, 0o777); err != nil {
			if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EEXIST) {
				return runner.Launch{}, &Failed{wire.FailureConfig, fmt.Sprintf("the working directory %s is a file of the task's inputs", work)}
			}
			return runner.Launch{}, failedCall(err, "the working directory "+work)
		}
	}
	argv := f.Claim.Spec.Command.Argv
	if argv == nil {
		text := f.Claim.Spec.Command.Shell
		if len(text) <= scriptAbove {
			argv = []string{"/bin/sh", "-c", text}
		} else {
			script := filepath.Join(f.Path, "command.sh")
			if err := os.WriteFile(script, []byte(text), 0o666); err != nil {
				return runner.Launch{}, failedCall(err, "the command could not be written")
			}
			argv = []string{"/bin/sh", script}
		}
	}
	launch := runner.Launch{Argv: argv, Env: f.environment(), Dir: dir, Log: log, Token: f.Claim.Token, MemoryBytes: memory}
	if limit := f.Plan.Spec.TimeoutS; limit != nil {
		launch.Timeout = duration(*limit)
	}
	return launch, nil
}

func (f *Folder) environment() []string {
	env := make(map[string]string, len(f.Plan.env)+8)
	for name, value := range f.Plan.env {
		env[name] = value
	}
	for name, value := range f.Claim.Spec.Env {
		if !slices.Contains(ownVariables, name) {
			env[name] = value
		}
	}
	env["SPARKLES_TASK"] = strconv.Itoa(f.Claim.Ref.Index)
	env["SPARKLES_ATTEMPT"] = strconv.Itoa(f.Claim.Ref.Attempt)
	env["SPARKLES_PARAMS"] = filepath.Join(f.Path, "params.json")
	env["SPARKLES_RESULTS"] = filepath.Join(f.Path, "results.json")
	env[runner.TokenVariable] = f.Claim.Token
	entries := make([]string, 0, len(env))
	for name, value := range env {
		entries = append(entries, name+"="+value)
	}
	slices.Sort(entries)
	return entries
}

// Remove removes the folder, folders that their own maker made unreadable included.
func (f *Folder) Remove() error { return RemoveAll(f.Path) }

// RemoveAll is os.RemoveAll that also passes folders without permissions, as a task that is not root may leave them.
func RemoveAll(path string) error {
	if err := os.RemoveAll(path); err == nil {
		return nil
	}
	_ = filepath.WalkDir(path, func(name string, entry os.DirEntry, err error) error {
		if entry != nil && entry.IsDir() {
			_ = os.Chmod(name, 0o700)
		}
		return nil
	})
	return os.RemoveAll(path)
}

// escapes tells whether a relative path leaves its folder, or is not a relative path at all.
func escapes(path string) bool {
	return path == "" || strings.HasPrefix(path, "/") || strings.ContainsRune(path, 0) || slices.Contains(strings.Split(path, "/"), "..")
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, blobs.ErrFull)
}

// sentence is what the system says of an error, without the call and the path.
func sentence(err error) string {
	var number syscall.Errno
	if errors.As(err, &number) {
		return runner.ErrnoText(number)
	}
	return err.Error()
}

// failedCall is the failure that a refused system call means: disk where there is no space, else staging, with the path.
func failedCall(err error, what string) *Failed {
	where := ""
	var path *os.PathError
	if errors.As(err, &path) {
		where = fmt.Sprintf(" (%s)", path.Path)
	}
	if isFull(err) {
		return &Failed{wire.FailureDisk, fmt.Sprintf("%s: no space is left%s", what, where)}
	}
	var number syscall.Errno
	if !errors.As(err, &number) {
		where = ""
	}
	return &Failed{wire.FailureStaging, fmt.Sprintf("%s: %s%s", what, sentence(err), where)}
}

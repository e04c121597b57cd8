package wire

import (
	"encoding/json"
	"fmt"
)

// TaskState is what a task is now.
type TaskState string

// The states of a task.
const (
	Pending   TaskState = "pending"
	Claimed   TaskState = "claimed"
	Succeeded TaskState = "succeeded"
	Failed    TaskState = "failed"
	Cancelled TaskState = "cancelled"
)

func (s TaskState) known() bool {
	switch s {
	case Pending, Claimed, Succeeded, Failed, Cancelled:
		return true
	}
	return false
}

// FailureClass is why an attempt failed; the same set on every backend. Empty (null in JSON): it did not.
type FailureClass string

// The classes of failure. Preempted, evicted and lost are nobody's mistake and have a budget of their own.
const (
	NoFailure        FailureClass = ""
	FailureExit      FailureClass = "exit"
	FailureOutput    FailureClass = "output"
	FailureOOM       FailureClass = "oom"
	FailureDisk      FailureClass = "disk"
	FailureTimeout   FailureClass = "timeout"
	FailurePreempted FailureClass = "preempted"
	FailureEvicted   FailureClass = "evicted"
	FailureLost      FailureClass = "lost"
	FailureStaging   FailureClass = "staging"
	FailureImage     FailureClass = "image"
	FailureConfig    FailureClass = "config"
	FailureCancelled FailureClass = "cancelled"
)

func (f FailureClass) known() bool {
	switch f {
	case FailureExit, FailureOutput, FailureOOM, FailureDisk, FailureTimeout, FailurePreempted, FailureEvicted, FailureLost,
		FailureStaging, FailureImage, FailureConfig, FailureCancelled:
		return true
	}
	return false
}

// Infrastructure tells whether the class is nobody's mistake: it never uses up the program's attempts.
func (f FailureClass) Infrastructure() bool {
	return f == FailurePreempted || f == FailureEvicted || f == FailureLost
}

// Command is a text that /bin/sh runs, or (Argv not nil) an argument vector that is executed without a shell.
type Command struct {
	Shell string
	Argv  []string
}

// Resources is what a task asks for. Nil: the backend's default, and no limit. Made by NewResources: one CPU unless set.
type Resources struct {
	CPU         float64 `json:"cpu" default:"1"`
	MemoryBytes *int64  `json:"memory_bytes" default:""`
	DiskBytes   *int64  `json:"disk_bytes" default:""`
	GPU         int     `json:"gpu" default:""`
}

// NewResources gives the defaults.
func NewResources() Resources { return fresh[Resources]() }

// OomRetry says that an attempt that ran out of memory is tried again with Factor times as much, MaxBytes at most.
type OomRetry struct {
	Factor   float64 `json:"factor" default:"2"`
	MaxBytes *int64  `json:"max_bytes" default:""`
}

// RetryPolicy is how often a task's program is tried. Made by NewRetryPolicy: one attempt unless set.
//
// Attempts counts tries in all (1: no retry). Empty ExitCodes means any code; otherwise only these are tried again. Attempt n+1 starts
// min(BackoffS * BackoffFactor**(n-1), MaxBackoffS) after attempt n ended.
type RetryPolicy struct {
	Attempts      int       `json:"attempts" default:"1"`
	ExitCodes     []int     `json:"exit_codes" default:""`
	BackoffS      float64   `json:"backoff_s" default:"1"`
	BackoffFactor float64   `json:"backoff_factor" default:"2"`
	MaxBackoffS   float64   `json:"max_backoff_s" default:"300"`
	OOM           *OomRetry `json:"oom" default:""`
}

// NewRetryPolicy gives the defaults.
func NewRetryPolicy() RetryPolicy { return fresh[RetryPolicy]() }

// OutputGlob is files that a task leaves, by pattern relative to its scratch directory; ** crosses folders.
type OutputGlob struct {
	Pattern  string `json:"pattern"`
	Required bool   `json:"required" default:""`
}

// InputFile is a stored file that a task finds at Dst, relative to its scratch directory. Link: a read-only link instead of a copy of
// its own. Src is where it came from, for messages only. Private: others may not read that file, so a copy is its user's alone.
type InputFile struct {
	Dst        string `json:"dst"`
	Digest     string `json:"digest"`
	SizeBytes  int64  `json:"size_bytes"`
	Executable bool   `json:"executable" default:""`
	Link       bool   `json:"link" default:""`
	Src        string `json:"src" default:""`
	Private    bool   `json:"private" default:""`
}

// JobSpec is what is common to a job's tasks. Command is the template as its author wrote it; tasks hold the expanded ones. Made by
// NewJobSpec: the zero value would switch the cache off.
//
// MaxFailures: more failed tasks than this cancel what is still pending; nil: never. SecretEnv maps a variable to a reference
// (env:NAME, k8s:secret/key, gcp:secret), never to a value.
type JobSpec struct {
	Name         string                     `json:"name"`
	Command      Command                    `json:"command" default:""`
	Outputs      []OutputGlob               `json:"outputs" default:""`
	Env          map[string]string          `json:"env" default:""`
	SecretEnv    map[string]string          `json:"secret_env" default:""`
	WorkDir      string                     `json:"work_dir" default:""`
	TimeoutS     *float64                   `json:"timeout_s" default:""`
	Retry        RetryPolicy                `json:"retry" default:""`
	Resources    Resources                  `json:"resources" default:""`
	Parallelism  *int                       `json:"parallelism" default:""`
	Priority     int64                      `json:"priority" default:""`
	Properties   map[string]json.RawMessage `json:"properties" default:""`
	Cache        bool                       `json:"cache" default:"true"`
	MaxFailures  *int                       `json:"max_failures" default:""`
	Image        string                     `json:"image" default:""`
	Zones        []string                   `json:"zones" default:""`
	Provisioning string                     `json:"provisioning" default:""`
	PodTemplate  map[string]json.RawMessage `json:"pod_template" default:""`
}

// NewJobSpec gives the defaults.
func NewJobSpec(name string) JobSpec {
	spec := fresh[JobSpec]()
	spec.Name = name
	return spec
}

// TaskSpec is one command with its parameters. Env and Resources replace or add to the job's. Params is the JSON object as the driver
// wrote it, byte by byte: numbers keep their digits. Nil: no parameters.
type TaskSpec struct {
	Command   Command           `json:"command"`
	Params    json.RawMessage   `json:"params" default:"" kind:"object"`
	Files     []InputFile       `json:"files" default:""`
	Env       map[string]string `json:"env" default:""`
	Resources *Resources        `json:"resources" default:""`
	Name      string            `json:"name" default:""`
}

// Artifact is an output of a task, collected: Name is its path relative to the scratch directory, with forward slashes. Private: others
// may not read the file that it was made from.
type Artifact struct {
	Name       string `json:"name"`
	Digest     string `json:"digest"`
	SizeBytes  int64  `json:"size_bytes"`
	Executable bool   `json:"executable" default:""`
	Private    bool   `json:"private" default:""`
}

// AttemptRef is where an attempt's files are: job, index (from 1), attempt (from 1).
type AttemptRef struct {
	Job     string `json:"job"`
	Index   int    `json:"index"`
	Attempt int    `json:"attempt"`
}

// String gives align-1a2b3c4d/17/a2.
func (r AttemptRef) String() string { return fmt.Sprintf("%s/%d/a%d", r.Job, r.Index, r.Attempt) }

// Attempt is the record of one try, as result.json holds it.
//
// Failure is empty where it succeeded. ExitCode is nil where no program ended by itself; Signal is 0 where none ended it. Results is the
// text of results.json (JSON, checked) or nil. PeakMemoryBytes is nil where it ended too soon to be measured. Reason is a sentence. Tail holds the last lines of the log of a failed attempt.
type Attempt struct {
	Ref             AttemptRef   `json:"ref"`
	Token           string       `json:"token"`
	Worker          string       `json:"worker"`
	Failure         FailureClass `json:"failure" default:""`
	ExitCode        *int         `json:"exit_code" default:""`
	Signal          int          `json:"signal" default:""`
	Reason          string       `json:"reason" default:""`
	StartedAtMS     int64        `json:"started_at_ms" default:""`
	EndedAtMS       int64        `json:"ended_at_ms" default:""`
	CPUS            float64      `json:"cpu_s" default:""`
	PeakMemoryBytes *int64       `json:"peak_memory_bytes" default:""`
	Results         *string      `json:"results" default:""`
	Outputs         []Artifact   `json:"outputs" default:""`
	Tail            string       `json:"tail" default:""`
}

// Finish is how a claim ends: the attempt's record, and what becomes of the task. State is succeeded, failed, cancelled or pending
// (tried again from NotBeforeMS, with MemoryBytes if set).
type Finish struct {
	Attempt     Attempt   `json:"attempt"`
	State       TaskState `json:"state"`
	Tries       int       `json:"tries"`
	Losses      int       `json:"losses"`
	NotBeforeMS int64     `json:"not_before_ms" default:""`
	MemoryBytes *int64    `json:"memory_bytes" default:""`
}

// Job is a job's row. Owner is the run that submitted it, or empty; Pool says which workers may serve it. Held jobs are not served.
type Job struct {
	ID          string  `json:"id"`
	Spec        JobSpec `json:"spec"`
	Count       int     `json:"count"`
	Owner       string  `json:"owner" default:""`
	Pool        string  `json:"pool" default:""`
	Held        bool    `json:"held" default:""`
	CreatedAtMS int64   `json:"created_at_ms" default:""`
	Sequence    int64   `json:"sequence" default:""`
}

// ProcessID is a process that can be recognised for certain. Started is in seconds since the epoch, for people; Ticks is the start time
// in the kernel's own count since boot.
type ProcessID struct {
	Host    string  `json:"host"`
	PID     int     `json:"pid"`
	Started float64 `json:"started"`
	BootID  string  `json:"boot_id"`
	Ticks   int64   `json:"ticks" default:""`
}

// Worker is a worker's row. Beat grows while it lives; CPU and MemoryBytes are what it holds of its host for tasks it runs.
type Worker struct {
	ID          string    `json:"id"`
	Pool        string    `json:"pool"`
	Process     ProcessID `json:"process"`
	Beat        int64     `json:"beat" default:""`
	CPU         float64   `json:"cpu" default:""`
	MemoryBytes int64     `json:"memory_bytes" default:""`
	Waiting     bool      `json:"waiting" default:""`
	StartedAtMS int64     `json:"started_at_ms" default:""`
}

// Claim is a worker's hold on one task. Ref.Attempt is the number this try has; every write about it carries Token. MemoryBytes is what
// an oom retry raised the request to; nil: as its spec says.
type Claim struct {
	Ref         AttemptRef `json:"ref"`
	Token       string     `json:"token"`
	Worker      string     `json:"worker"`
	Spec        TaskSpec   `json:"spec"`
	Tries       int        `json:"tries" default:""`
	Losses      int        `json:"losses" default:""`
	MemoryBytes *int64     `json:"memory_bytes" default:""`
}

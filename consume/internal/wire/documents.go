// Package wire is the JSON that drivers and workers share; sparkles/wire.py is its twin and docs/wire.md shows each document.
//
// Every document carries schema. A reader refuses a greater number than its own by name and never guesses. Defaults are left out, also
// those that are not zero (one CPU, cache on): a Go literal of such a struct begins with its New function. Unknown fields are refused: a
// field that one side does not know is a newer schema. The files in tests/golden/wire are read by the tests of both languages.
package wire

import "fmt"

// Schema is that of all documents together: drivers and workers of one installation are upgraded together.
const Schema = 1

// SchemaTooNew says that a document was written by a newer sparkles. The worker ends with exit code 78 on it.
type SchemaTooNew struct {
	Where  string
	Schema int
}

func (e *SchemaTooNew) Error() string {
	return fmt.Sprintf("%s was written by a newer sparkles (its documents have schema %d, this version reads %d); upgrade this one",
		e.Where, e.Schema, Schema)
}

// Damaged says that a document is not what it should be: where, the path of the field, and what is wrong with it.
type Damaged struct {
	Where string
	Path  string
	What  string
}

func (e *Damaged) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("%s: %s", e.Where, e.What)
	}
	return fmt.Sprintf("%s: %s - at `%s`", e.Where, e.What, e.Path)
}

// ManifestPart is where one gzip member of the manifest is: SizeBytes from Offset on, whose sha256 is Digest.
type ManifestPart struct {
	Offset    int64  `json:"offset"`
	SizeBytes int64  `json:"size_bytes"`
	Digest    string `json:"digest"`
}

// Manifest is how to read the tasks' definitions: gzip members of PartTasks lines each (the last may be shorter), one object.
type Manifest struct {
	PartTasks int            `json:"part_tasks"`
	Parts     []ManifestPart `json:"parts"`
}

// JobDocument is a job, its manifest and how its tasks are spread over shards (ShardSize tasks each, in order of index).
type JobDocument struct {
	Schema    int      `json:"schema"`
	Job       Job      `json:"job"`
	Manifest  Manifest `json:"manifest"`
	ShardSize int      `json:"shard_size"`
	// Fingerprints is the digest of the object of that name, or "": a worker does not read it.
	Fingerprints string `json:"fingerprints" default:""`
}

// ManifestRow is one line of the manifest: a task's definition, which never changes. SameFiles: its inputs are those of the line before it
// in the same member, and are not said again.
type ManifestRow struct {
	Spec        TaskSpec `json:"spec"`
	Fingerprint string   `json:"fingerprint"`
	SameFiles   bool     `json:"same_files" default:""`
}

// TaskRow is what changes about a task: its state, its claim's token and whether its program was started, and the records of its ended
// attempts.
//
// Records are the task's own ended attempts, oldest first. Of a record that is large, or not among the newest, only a summary is kept:
// Stored has its attempt's number, and the whole is in its result.json. Borrowed is the record of Origin where that is
// another task's (a summary where Stored has 0).
type TaskRow struct {
	State       TaskState    `json:"state" default:"pending"`
	Attempt     int          `json:"attempt" default:""`
	Tries       int          `json:"tries" default:""`
	Losses      int          `json:"losses" default:""`
	Origin      *AttemptRef  `json:"origin" default:""`
	Failure     FailureClass `json:"failure" default:""`
	ExitCode    *int         `json:"exit_code" default:""`
	Reason      string       `json:"reason" default:""`
	Worker      string       `json:"worker" default:""`
	Token       string       `json:"token" default:""`
	Started     bool         `json:"started" default:""`
	NotBeforeMS int64        `json:"not_before_ms" default:""`
	MemoryBytes *int64       `json:"memory_bytes" default:""`
	Records     []Attempt    `json:"records" default:""`
	Stored      []int        `json:"stored" default:""`
	Borrowed    *Attempt     `json:"borrowed" default:""`
}

// NewTaskRow gives a task that waits.
func NewTaskRow() TaskRow { return TaskRow{State: Pending} }

// ShardDocument is tasks First to First + len(Tasks) - 1 of a job. Seq grows by one with each write: it orders events. Pool, Owner,
// Priority and Sequence are the job's: what the shard's indexed properties are made from.
type ShardDocument struct {
	Schema   int       `json:"schema"`
	Job      string    `json:"job"`
	Number   int       `json:"number"`
	First    int       `json:"first"`
	Tasks    []TaskRow `json:"tasks"`
	Seq      int64     `json:"seq" default:""`
	Pool     string    `json:"pool" default:""`
	Owner    string    `json:"owner" default:""`
	Priority int64     `json:"priority" default:""`
	Sequence int64     `json:"sequence" default:""`
}

// WorkerDocument is a worker's row, the version of the program, and in a few words for people what keeps the worker from going on; "": nothing.
type WorkerDocument struct {
	Schema  int    `json:"schema"`
	Worker  Worker `json:"worker"`
	Version string `json:"version" default:""`
	Trouble string `json:"trouble" default:""`
}

// Change is what a task is now.
type Change struct {
	Index   int       `json:"index"`
	State   TaskState `json:"state"`
	Attempt int       `json:"attempt"`
}

// Event is a hint that a shard was written: Seq is the shard's after it. It may come twice, late, out of order or never.
type Event struct {
	Schema  int      `json:"schema"`
	Job     string   `json:"job"`
	Shard   int      `json:"shard"`
	Seq     int64    `json:"seq"`
	Changes []Change `json:"changes" default:""`
}

// Document is what Decode reads: whatever carries a schema.
type Document interface {
	JobDocument | ShardDocument | WorkerDocument | Event
}

// Plain is what DecodePlain reads: a line of a manifest, a result.json, or how a claim ends. They stand in a place that a document names.
type Plain interface {
	ManifestRow | Attempt | Finish
}

// Decode reads a document; where names it in errors. The error is a *SchemaTooNew or a *Damaged.
func Decode[D Document](data []byte, where string) (D, error) {
	var none D
	schema, err := head(data, where)
	if err != nil {
		return none, err
	}
	if schema > Schema {
		return none, &SchemaTooNew{Where: where, Schema: schema}
	}
	return decode[D](data, where)
}

// DecodePlain reads a line of a manifest or a result.json; where names it in errors. The error is a *Damaged.
func DecodePlain[D Plain](data []byte, where string) (D, error) {
	if err := checkJSON(data, where); err != nil {
		var none D
		return none, err
	}
	return decode[D](data, where)
}

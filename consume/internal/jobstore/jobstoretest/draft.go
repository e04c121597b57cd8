// Package jobstoretest is what every job store keeps (see jobstore), the same list as tests/contract/test_job_claims.py.
package jobstoretest

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"sparkles.dev/consume/internal/jobstore"
	"sparkles.dev/consume/internal/wire"
)

// Draft is a job about to be created. Zero PartTasks and ShardSize: 1,000 and 64, as of a large job.
type Draft struct {
	ID          string
	Pool        string
	Commands    []string
	Priority    int64
	Sequence    int64
	Held        bool
	Parallelism int // 0: no limit
	MaxFailures int // negative: no limit
	ShardSize   int
	PartTasks   int
	Change      func(*wire.JobSpec)
}

// Made is what a driver stores for a job.
type Made struct {
	Job          wire.JobDocument
	Shards       []wire.ShardDocument
	ManifestName string
	Manifest     []byte
}

// Make makes the documents of docs/wire.md.
func (d Draft) Make() Made {
	spec := wire.NewJobSpec(d.ID)
	spec.Priority = d.Priority
	if d.Parallelism > 0 {
		spec.Parallelism = &d.Parallelism
	}
	if d.MaxFailures >= 0 {
		spec.MaxFailures = &d.MaxFailures
	}
	if d.Change != nil {
		d.Change(&spec)
	}
	size, part := d.ShardSize, d.PartTasks
	if size == 0 {
		size = 64
	}
	if part == 0 {
		part = 1000
	}
	job := wire.JobDocument{
		Schema:    wire.Schema,
		Job:       wire.Job{ID: d.ID, Spec: spec, Count: len(d.Commands), Owner: "r-1", Pool: d.Pool, Held: d.Held, Sequence: d.Sequence},
		Manifest:  wire.Manifest{PartTasks: part, Parts: []wire.ManifestPart{}},
		ShardSize: size,
	}
	var manifest bytes.Buffer
	for first := 0; first < len(d.Commands); first += part {
		var member bytes.Buffer
		packed := gzip.NewWriter(&member)
		for place, command := range d.Commands[first:min(first+part, len(d.Commands))] {
			row := wire.ManifestRow{
				Spec: wire.TaskSpec{
					Command: wire.Command{Shell: command}, Params: fmt.Appendf(nil, `{"n":%d}`, first+place+1),
				},
				Fingerprint: sum([]byte(command)),
			}
			_, _ = packed.Write(append(wire.Encode(row), '\n')) // into memory
		}
		_ = packed.Close()
		job.Manifest.Parts = append(job.Manifest.Parts, wire.ManifestPart{
			Offset: int64(manifest.Len()), SizeBytes: int64(member.Len()), Digest: sum(member.Bytes()),
		})
		manifest.Write(member.Bytes())
	}
	made := Made{Job: job, Manifest: manifest.Bytes(), ManifestName: jobstore.ManifestName(d.ID, job.Manifest)}
	for number := 0; number*size < len(d.Commands); number++ {
		tasks := make([]wire.TaskRow, min(size, len(d.Commands)-number*size))
		for place := range tasks {
			tasks[place] = wire.NewTaskRow()
		}
		made.Shards = append(made.Shards, wire.ShardDocument{
			Schema: wire.Schema, Job: d.ID, Number: number, First: number*size + 1, Tasks: tasks,
			Pool: d.Pool, Owner: "r-1", Priority: spec.Priority, Sequence: d.Sequence,
		})
	}
	return made
}

func sum(data []byte) string {
	digest := sha256.Sum256(data)
	return hex.EncodeToString(digest[:])
}

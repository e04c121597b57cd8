package jobstore

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"sparkles.dev/consume/internal/wire"
)

// partsKept: a worker serves few jobs at a time, in shards from anywhere in them. A part of 1,000 tasks has 0.3 MB or so.
const partsKept = 12

// Definitions reads tasks' definitions from manifests and keeps the last parts, which never change. A part is checked against the digest
// that the job's document has for it before anything of it is believed.
type Definitions struct {
	objects Objects
	mutex   sync.Mutex
	kept    map[string][]wire.ManifestRow
	order   []string // digests, the least recently used first
}

// NewDefinitions reads through objects.
func NewDefinitions(objects Objects) *Definitions {
	return &Definitions{objects: objects, kept: make(map[string][]wire.ManifestRow)}
}

// ManifestName is the object with the job's task definitions.
func ManifestName(job string, manifest wire.Manifest) string {
	digests := make([]string, len(manifest.Parts))
	for place, part := range manifest.Parts {
		digests[place] = part.Digest
	}
	return fmt.Sprintf("jobs/%s/manifest-%s.ndjson.gz", job, digestOf([]byte(strings.Join(digests, "\n"))))
}

// Spec is one task's definition. The error is a *wire.Damaged where the manifest is not what was submitted.
func (d *Definitions) Spec(ctx context.Context, job wire.JobDocument, index int) (wire.TaskSpec, error) {
	manifest := job.Manifest
	if index < 1 || manifest.PartTasks < 1 || (index-1)/manifest.PartTasks >= len(manifest.Parts) {
		return wire.TaskSpec{}, &wire.Damaged{Where: "job " + job.Job.ID, What: fmt.Sprintf("its manifest has no task %d", index)}
	}
	number, place := (index-1)/manifest.PartTasks, (index-1)%manifest.PartTasks
	rows, err := d.part(ctx, job, number)
	if err != nil {
		return wire.TaskSpec{}, err
	}
	if place >= len(rows) {
		return wire.TaskSpec{}, &wire.Damaged{
			Where: ManifestName(job.Job.ID, manifest), What: fmt.Sprintf("part %d has %d tasks, which is too few for task %d", number+1, len(rows), index),
		}
	}
	return rows[place].Spec, nil
}

func (d *Definitions) part(ctx context.Context, job wire.JobDocument, number int) ([]wire.ManifestRow, error) {
	part := job.Manifest.Parts[number]
	if rows, ok := d.find(part.Digest); ok {
		return rows, nil
	}
	name := ManifestName(job.Job.ID, job.Manifest)
	where := fmt.Sprintf("%s part %d", name, number+1)
	data, err := d.objects.ReadRange(ctx, name, part.Offset, part.SizeBytes)
	if errors.Is(err, ErrNoObject) {
		return nil, &wire.Damaged{Where: where, What: "it is not there: somebody removed it; submit the job again"}
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", where, err)
	}
	if digestOf(data) != part.Digest {
		return nil, &wire.Damaged{
			Where: where, What: "is not what was submitted (its digest differs): somebody changed it; submit the job again",
		}
	}
	rows, err := rowsOf(data, where)
	if err != nil {
		return nil, err
	}
	d.keep(part.Digest, rows)
	return rows, nil
}

func rowsOf(data []byte, where string) ([]wire.ManifestRow, error) {
	unpacked, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, &wire.Damaged{Where: where, What: err.Error()}
	}
	text, err := io.ReadAll(unpacked)
	if err != nil {
		return nil, &wire.Damaged{Where: where, What: err.Error()}
	}
	lines := bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
	rows := make([]wire.ManifestRow, len(lines))
	for place, line := range lines {
		if rows[place], err = wire.DecodePlain[wire.ManifestRow](line, where); err != nil {
			return nil, err
		}
		if !rows[place].SameFiles {
			continue
		}
		if place == 0 {
			return nil, &wire.Damaged{Where: where, What: "expected the inputs of the first task, found `same_files`"}
		}
		rows[place].Spec.Files, rows[place].SameFiles = rows[place-1].Spec.Files, false
	}
	return rows, nil
}

func (d *Definitions) find(digest string) ([]wire.ManifestRow, bool) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	rows, ok := d.kept[digest]
	if ok {
		d.order = append(slices.DeleteFunc(d.order, func(each string) bool { return each == digest }), digest)
	}
	return rows, ok
}

func (d *Definitions) keep(digest string, rows []wire.ManifestRow) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if _, ok := d.kept[digest]; !ok {
		d.order = append(d.order, digest)
	}
	d.kept[digest] = rows
	for len(d.order) > partsKept {
		delete(d.kept, d.order[0])
		d.order = d.order[1:]
	}
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

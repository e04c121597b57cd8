package jobstore_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sparkles.dev/consume/internal/jobstore"
	"sparkles.dev/consume/internal/wire"
)

// oneObject is a bucket that holds the same bytes under every name.
type oneObject []byte

func (o oneObject) ReadAll(context.Context, string) ([]byte, error) { return o, nil }

func (o oneObject) WriteNew(context.Context, string, []byte) (bool, error) { return false, nil }

func (o oneObject) ReadRange(_ context.Context, _ string, offset, size int64) ([]byte, error) {
	return o[offset : offset+size], nil
}

// part packs lines as a driver does, and gives the job that they are all tasks of.
func part(lines []byte) (oneObject, wire.JobDocument) {
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	_, _ = writer.Write(lines)
	_ = writer.Close()
	sum := sha256.Sum256(packed.Bytes())
	manifest := wire.Manifest{PartTasks: 1000, Parts: []wire.ManifestPart{{SizeBytes: int64(packed.Len()), Digest: hex.EncodeToString(sum[:])}}}
	return packed.Bytes(), wire.JobDocument{Schema: 1, Job: wire.Job{ID: "big-00000000", Count: bytes.Count(lines, []byte("\n"))}, Manifest: manifest}
}

// TestTheGoldenPart: what Python wrote, with the inputs of the line before where it says so.
func TestTheGoldenPart(t *testing.T) {
	lines, err := os.ReadFile(filepath.Join("..", "..", "..", "tests", "golden", "wire", "manifest_part.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	object, job := part(lines)
	definitions := jobstore.NewDefinitions(object)
	for index, want := range []string{"a:a b:b", "a:a b:b", "a:a b:b", "a:c", "a:a b:b", "", "", "a:a b:b"} {
		spec, err := definitions.Spec(context.Background(), job, index+1)
		if err != nil {
			t.Fatal(err)
		}
		var found []string
		for _, file := range spec.Files {
			found = append(found, file.Dst[:1]+":"+file.Digest[:1])
		}
		if got := strings.Join(found, " "); got != want {
			t.Errorf("task %d: got inputs %q, want %q", index+1, got, want)
		}
	}
}

// TestAPartThatBeginsWithTheInputsOfNoLineIsDamaged: nothing is guessed.
func TestAPartThatBeginsWithTheInputsOfNoLineIsDamaged(t *testing.T) {
	object, job := part([]byte(`{"spec":{"command":"b"},"fingerprint":"x","same_files":true}` + "\n"))
	_, err := jobstore.NewDefinitions(object).Spec(context.Background(), job, 1)
	var damaged *wire.Damaged
	if !errors.As(err, &damaged) || !strings.Contains(err.Error(), "expected the inputs of the first task, found `same_files`") {
		t.Errorf("got %v", err)
	}
}

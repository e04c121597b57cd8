package wire

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func golden(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "..", "tests", "golden", "wire", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// same compares as JSON values; numbers by their text.
func same(t *testing.T, got, want []byte) {
	t.Helper()
	var one, other any
	for _, each := range []struct {
		data []byte
		into *any
	}{{got, &one}, {want, &other}} {
		decoder := json.NewDecoder(strings.NewReader(string(each.data)))
		decoder.UseNumber()
		if err := decoder.Decode(each.into); err != nil {
			t.Fatalf("%s: %v", each.data, err)
		}
	}
	if !reflect.DeepEqual(one, other) {
		t.Errorf("not the same JSON:\n got %s\nwant %s", got, want)
	}
}

// roundTrip reads a golden file and writes it again; explicit gives the text of a default that the file spells out.
func roundTrip[D any](t *testing.T, name string, read func([]byte, string) (D, error), explicit ...string) D {
	t.Helper()
	data := golden(t, name)
	document, err := read(data, name)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.TrimSpace(string(data))
	for _, each := range explicit {
		if !strings.Contains(want, each) {
			t.Fatalf("%s does not hold %s", name, each)
		}
		want = strings.Replace(want, each, "", 1)
	}
	written := Encode(document)
	same(t, written, []byte(want))
	if string(written) != want {
		t.Errorf("not the same bytes:\n got %s\nwant %s", written, want)
	}
	again, err := read(written, name)
	if err != nil || !reflect.DeepEqual(again, document) {
		t.Errorf("read again: %v, %+v", err, again)
	}
	return document
}

// TestGoldenDocumentsSurviveARoundTrip: what Python wrote is read, and written again byte by byte.
func TestGoldenDocumentsSurviveARoundTrip(t *testing.T) {
	job := roundTrip(t, "job.json", Decode[JobDocument], `"factor":2.0,`)
	if !job.Job.Spec.Cache || job.Job.Spec.Retry.MaxBackoffS != 300 || job.Job.Spec.Resources.CPU != 2 || *job.Job.Spec.MaxFailures != 4 {
		t.Errorf("defaults are not those of Python: %+v", job.Job.Spec)
	}
	shard := roundTrip(t, "shard.json", Decode[ShardDocument])
	if shard.Tasks[2].State != Pending || shard.Tasks[1].Token != "tb" || *shard.Tasks[0].ExitCode != 0 {
		t.Errorf("tasks: %+v", shard.Tasks)
	}
	roundTrip(t, "worker.json", Decode[WorkerDocument])
	roundTrip(t, "event.json", Decode[Event])
	result := roundTrip(t, "result.json", DecodePlain[Attempt])
	if result.Results == nil || *result.Results != `{"loss":0.5}` || result.Ref.String() != "align-1a2b3c4d/1/a1" {
		t.Errorf("result: %+v", result)
	}
	row := roundTrip(t, "manifest_row.json", DecodePlain[ManifestRow], `"cpu":1.0`)
	if row.Spec.Command.Shell != "align 'a b'" || !strings.Contains(string(row.Spec.Params), "9007199254740993") {
		t.Errorf("row: %+v", row)
	}
}

// TestGoldenDocumentsWithEveryFieldSurviveARoundTrip: nothing that Python knows is unknown here, or forgotten when it is written.
func TestGoldenDocumentsWithEveryFieldSurviveARoundTrip(t *testing.T) {
	roundTrip(t, "full_job.json", Decode[JobDocument])
	roundTrip(t, "full_shard.json", Decode[ShardDocument])
	roundTrip(t, "full_worker.json", Decode[WorkerDocument])
	roundTrip(t, "full_event.json", Decode[Event])
	roundTrip(t, "full_result.json", DecodePlain[Attempt])
	roundTrip(t, "full_manifest_row.json", DecodePlain[ManifestRow])
}

// TestEveryNewerDocumentIsRefused, of whatever kind, before anything else of it is looked at.
func TestEveryNewerDocumentIsRefused(t *testing.T) {
	text := []byte(`{"unheard_of":{},"schema":2,"job":["of another kind"]}`)
	for name, read := range map[string]func([]byte, string) error{
		"job":    func(data []byte, where string) error { _, err := Decode[JobDocument](data, where); return err },
		"shard":  func(data []byte, where string) error { _, err := Decode[ShardDocument](data, where); return err },
		"worker": func(data []byte, where string) error { _, err := Decode[WorkerDocument](data, where); return err },
		"event":  func(data []byte, where string) error { _, err := Decode[Event](data, where); return err },
	} {
		var newer *SchemaTooNew
		if err := read(text, name); !errors.As(err, &newer) || newer.Schema != 2 || newer.Where != name {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestANewerDocumentIsRefused by name, whatever else is in it.
func TestANewerDocumentIsRefused(t *testing.T) {
	_, err := Decode[JobDocument](golden(t, "newer_job.json"), "job align-1a2b3c4d")
	var newer *SchemaTooNew
	if !errors.As(err, &newer) || newer.Schema != 2 {
		t.Fatalf("got %v", err)
	}
	want := "job align-1a2b3c4d was written by a newer sparkles (its documents have schema 2, this version reads 1); upgrade this one"
	if err.Error() != want {
		t.Errorf("got %q", err)
	}
}

// TestWhatIsNotADocumentIsRefused: nothing is guessed, and the message has the path of the field.
func TestWhatIsNotADocumentIsRefused(t *testing.T) {
	for _, each := range []struct{ name, text, message string }{
		{"empty", "", "found something else"},
		{"not JSON", "{", "found something else"},
		{"more after it", `{"schema":1,"job":"j","shard":1,"seq":1} x`, "found something else"},
		{"not UTF-8", "{\"schema\":1,\"job\":\"\xff\",\"shard\":1,\"seq\":1}", "not UTF-8"},
		{"list", "[]", "expected an object, found a list"},
		{"schema is text", `{"schema":"1"}`, "expected a number, found a string - at `$.schema`"},
		{"no schema", `{"job":"j","shard":1,"seq":1}`, "the field `schema` is missing - at `$`"},
		{"unknown field", `{"schema":1,"job":"j","shard":1,"seq":1,"more":1}`, "there is no field `more`"},
		{"other case", `{"schema":1,"Job":"j","shard":1,"seq":1}`, "there is no field `Job`"},
		{"missing field", `{"schema":1,"job":"j","shard":1}`, "the field `seq` is missing"},
		{"null for a number", `{"schema":1,"job":"j","shard":null,"seq":1}`, "expected a number, found null - at `$.shard`"},
		{"fraction", `{"schema":1,"job":"j","shard":1.5,"seq":1}`, "expected an integer of at most 64 bits, found 1.5"},
		{"twice", `{"schema":1,"job":"j","job":"k","shard":1,"seq":1}`, "the field `job` comes twice"},
		{"unknown state", `{"schema":1,"job":"j","shard":1,"seq":1,"changes":[{"index":1,"state":"claimed","attempt":1},{"index":2,"state":"paused","attempt":1}]}`,
			"\"paused\" is not a TaskState that this version knows - at `$.changes[1].state`"},
		{"wrong inside", `{"schema":1,"job":"j","shard":1,"seq":1,"changes":[{"index":"1","state":"claimed","attempt":1}]}`,
			"expected a number, found a string - at `$.changes[0].index`"},
	} {
		t.Run(each.name, func(t *testing.T) {
			_, err := Decode[Event]([]byte(each.text), "event")
			var wrong *Damaged
			if !errors.As(err, &wrong) || !strings.Contains(err.Error(), each.message) || !strings.HasPrefix(err.Error(), "event: ") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestDefaultsThatAreNotZero: zero is written where it is not what a reader assumes, and left out where it is.
func TestDefaultsThatAreNotZero(t *testing.T) {
	for _, each := range []struct {
		name  string
		value any
		want  string
	}{
		{"resources as they come", NewResources(), `{}`},
		{"no CPU", Resources{}, `{"cpu":0.0}`},
		{"retry as it comes", NewRetryPolicy(), `{}`},
		{"retry of zeros", RetryPolicy{}, `{"attempts":0,"backoff_s":0.0,"backoff_factor":0.0,"max_backoff_s":0.0}`},
		{"job as it comes", NewJobSpec("j"), `{"name":"j"}`},
		{"task that waits", NewTaskRow(), `{}`},
		{"empty argument vector", TaskSpec{Command: Command{Argv: []string{}}}, `{"command":[]}`},
		{"vector", TaskSpec{Command: Command{Argv: []string{"a", "b"}}, Params: []byte("{}")}, `{"command":["a","b"]}`},
		{"no tasks", ShardDocument{Schema: 1}, `{"schema":1,"job":"","number":0,"first":0,"tasks":[]}`},
	} {
		t.Run(each.name, func(t *testing.T) {
			if got := string(Encode(each.value)); got != each.want {
				t.Errorf("got %s", got)
			}
		})
	}
	spec := NewJobSpec("j")
	spec.Cache, spec.Retry.Attempts = false, 3
	if got := string(Encode(spec)); got != `{"name":"j","retry":{"attempts":3},"cache":false}` {
		t.Errorf("got %s", got)
	}
}

// TestNumbersAndTextAreWrittenAsPythonDoes: the same digits and escapes, so that both measure a record alike.
func TestNumbersAndTextAreWrittenAsPythonDoes(t *testing.T) {
	for number, want := range map[float64]string{
		1: "1.0", 0.1: "0.1", 1e-5: "0.00001", 1.5e-7: "1.5e-7", 123456789.125: "123456789.125", 1e15: "1000000000000000.0",
		1e16: "1e16", 1.7976931348623157e308: "1.7976931348623157e308", 5e-324: "5e-324", 0.00012: "0.00012", 0: "0.0",
	} {
		if got := string(Encode(number)); got != want {
			t.Errorf("%g: got %s", number, got)
		}
	}
	if got := string(Encode("\x00\x1f\x7f\u2028<&>é\b\f/\"\\\n\r\t\xff")); got != "\"\\u0000\\u001f\x7f\u2028<&>é\\b\\f/\\\"\\\\\\n\\r\\t\uFFFD\"" {
		t.Errorf("got %s", got)
	}
}

// TestWhatIsOptionalMayBeNull, and a text with escapes is read.
func TestWhatIsOptionalMayBeNull(t *testing.T) {
	text := `{"ref": {"job":"j","index":1,"attempt":1}, "token":"t","worker":"w","failure":null,"exit_code":null,"results":null,"reason":"a\n\"\u00e9\""}`
	attempt, err := DecodePlain[Attempt]([]byte(text), "result.json")
	if err != nil || attempt.Failure != NoFailure || attempt.ExitCode != nil || attempt.Reason != "a\n\"é\"" {
		t.Errorf("got %+v, %v", attempt, err)
	}
}

// FuzzDecode: no input makes the reader panic, and what it reads survives a round trip.
func FuzzDecode(f *testing.F) {
	for _, each := range []string{`{"schema":1,"job":"j","number":0,"first":1,"tasks":[{}]}`, `{"schema":1,"job":"\ud800","number":0,"first":1,"tasks":[]}`, `[[`, `{"a":"\\"}`} {
		f.Add([]byte(each))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		document, err := Decode[ShardDocument](data, "shard")
		if err != nil {
			return
		}
		again, err := Decode[ShardDocument](Encode(document), "shard")
		if err != nil || !reflect.DeepEqual(Encode(again), Encode(document)) {
			t.Errorf("%q: %v", data, err)
		}
	})
}

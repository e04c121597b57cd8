package blobs

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"sparkles.dev/consume/internal/wire"
)

// Names are those that the driver uses.
func TestNames(t *testing.T) {
	data, err := os.ReadFile("../../../tests/golden/wire/names.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Result     string            `json:"result"`
		Namespaces map[string]string `json:"namespaces"`
	}
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	if found := Attempt(wire.AttemptRef{Job: "align-1a2b3c4d", Index: 2, Attempt: 1}, Result); found != golden.Result {
		t.Errorf("result: found %q, expected %q", found, golden.Result)
	}
	if len(golden.Namespaces) == 0 {
		t.Fatal("no namespaces in names.json")
	}
	for prefix, expected := range golden.Namespaces {
		if found := Namespace(prefix); found != expected {
			t.Errorf("namespace of %q: found %q, expected %q", prefix, found, expected)
		}
	}
	if found := Namespace(strings.Repeat("a", 200)); len(found) != 100 {
		t.Errorf("a long namespace has %d characters, expected 100", len(found))
	}
	if found := LogPiece(wire.AttemptRef{Job: "j", Index: 3, Attempt: 2}, 262144); found != "jobs/j/3/a2/log/00262144" {
		t.Errorf("piece: found %q", found)
	}
}

// What could leave the store is refused.
func TestRefusedNames(t *testing.T) {
	for _, name := range []string{"", ".", "..", "../x", "a/../b", "/a", "a//b", "a/", "a\x00b"} {
		if CheckName(name) == nil {
			t.Errorf("%q was taken as a name", name)
		}
	}
	for _, digest := range []string{"", "abc", strings.Repeat("A", 64), strings.Repeat("../", 21) + "a"} {
		if CheckDigest(digest) == nil {
			t.Errorf("%q was taken as a digest", digest)
		}
	}
	for _, ref := range []wire.AttemptRef{{Job: "", Index: 1, Attempt: 1}, {Job: "..", Index: 1, Attempt: 1}, {Job: "a/b", Index: 1, Attempt: 1}, {Job: "j", Attempt: 1}, {Job: "j", Index: 1}} {
		if CheckRef(ref) == nil {
			t.Errorf("%s was taken as an attempt", ref)
		}
	}
}

package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Which programs go into an image, by what lies in the folder of the one that makes it.
func TestFind(t *testing.T) {
	folder := t.TempDir()
	for path, architecture := range map[string]string{"consume": "amd64", "consume-linux-arm64": "arm64"} {
		tiny(t, filepath.Join(folder, path), architecture, "1.2.3")
	}
	foreign := filepath.Join(folder, "consume-of-another-system")
	if err := os.WriteFile(foreign, []byte("\xcf\xfa\xed\xfe"), 0o755); err != nil {
		t.Fatal(err)
	}
	for own, expected := range map[string]string{"consume": "amd64 arm64", filepath.Base(foreign): "arm64"} {
		programs, err := Find(filepath.Join(folder, own), "1.2.3")
		if err != nil {
			t.Fatal(err)
		}
		var found []string
		for _, each := range programs {
			found = append(found, each.Architecture)
			if each.Version != "1.2.3" {
				t.Errorf("found version %q", each.Version)
			}
		}
		if strings.Join(found, " ") != expected {
			t.Errorf("%s: expected %s, found %s", own, expected, found)
		}
	}
}

// What must not get into an image is refused with a sentence.
func TestFindRefuses(t *testing.T) {
	folder := t.TempDir()
	own := filepath.Join(folder, "consume")
	beside := filepath.Join(folder, "consume-linux-arm64")
	copied := func(source, target string) {
		if err := os.WriteFile(target, content(t, source), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cases := map[string]struct {
		prepare  func()
		expected string
	}{
		"another version": {
			func() { tiny(t, own, "amd64", "1.2.3"); tiny(t, beside, "arm64", "1.2.2") },
			beside + ": expected version 1.2.3, found 1.2.2; make it anew: consume/build arm64",
		},
		"another architecture": {
			func() { tiny(t, own, "amd64", "1.2.3"); tiny(t, beside, "amd64", "1.2.3") },
			beside + ": expected a program for linux/arm64, found one for linux/amd64",
		},
		"an architecture that has no image": {
			func() { tiny(t, own, "riscv64", "1.2.3") },
			own + ": expected a program for linux/amd64 or linux/arm64, found one for EM_RISCV",
		},
		"not static": {
			func() { copied("/bin/sh", own) },
			own + ": expected a program that is linked statically, found one that needs ",
		},
		"no program": {
			func() { tiny(t, own, "amd64", "1.2.3"); copied("image_test.go", beside) },
			beside + ": expected a program for Linux: ",
		},
		"nothing for Linux": {
			func() { copied("image_test.go", own) },
			folder + " holds no program for Linux (expected consume-linux-amd64 or consume-linux-arm64 there); make them: consume/build amd64 arm64",
		},
	}
	for what, each := range cases {
		for _, path := range []string{own, beside} {
			_ = os.Remove(path)
		}
		each.prepare()
		_, err := Find(own, "1.2.3")
		if err == nil || !strings.HasPrefix(err.Error(), each.expected) {
			t.Errorf("%s: expected %q, found %v", what, each.expected, err)
		}
	}
}

// A program that was not built by consume/build has no version.
func TestNoStamp(t *testing.T) {
	if found := Version(""); found != "development" {
		t.Errorf("found %q", found)
	}
}

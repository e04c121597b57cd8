package main

import (
	"archive/tar"
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"sparkles.dev/consume/internal/image/imagetest"
)

// folder is made by built, and removed by TestMain.
var folder string

// built makes what `consume/build` and `consume/build amd64 arm64` do.
var built = sync.OnceValue(func() (err error) {
	if folder, err = os.MkdirTemp("", "consume-"); err != nil {
		return err
	}
	for _, arguments := range [][]string{{"-o", folder}, {"-o", folder, "amd64", "arm64"}} {
		if said, err := exec.Command("../../build", arguments...).CombinedOutput(); err != nil {
			return fmt.Errorf("consume/build: %w: %s", err, said)
		}
	}
	return nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if folder != "" {
		_ = os.RemoveAll(folder)
	}
	os.Exit(code)
}

func program(t *testing.T, name string) string {
	t.Helper()
	if err := built(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(folder, name)
}

// releases is every program that consume/build makes, with its platform.
var releases = map[string]elf.Machine{"consume-linux-amd64": elf.EM_X86_64, "consume-linux-arm64": elf.EM_AARCH64}

// The program needs nothing beside it: no interpreter, no library, no dynamic section.
func TestStatic(t *testing.T) {
	for name, machine := range releases {
		file, err := elf.Open(program(t, name))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if file.Machine != machine || file.Type != elf.ET_EXEC {
			t.Errorf("%s: found %s, %s", name, file.Machine, file.Type)
		}
		for _, segment := range file.Progs {
			if segment.Type == elf.PT_INTERP || segment.Type == elf.PT_DYNAMIC {
				t.Errorf("%s: it has a segment %s", name, segment.Type)
			}
		}
		for _, section := range file.Sections {
			if section.Type == elf.SHT_DYNAMIC || section.Name == ".interp" {
				t.Errorf("%s: it has a section %s", name, section.Name)
			}
		}
		if libraries, err := file.ImportedLibraries(); err == nil && len(libraries) > 0 {
			t.Errorf("%s: it needs %v", name, libraries)
		}
	}
}

// Every pod pulls it.
func TestSize(t *testing.T) {
	for name := range releases {
		facts, err := os.Stat(program(t, name))
		if err != nil {
			t.Fatal(err)
		}
		if facts.Size() > 40e6 {
			t.Errorf("%s: %d bytes", name, facts.Size())
		}
	}
}

// No folder of the machine that built it is in the program: neither of its own source, nor of Go, nor of modules.
func TestNoPathOfTheBuilder(t *testing.T) {
	source, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	said, err := exec.Command("go", "env", "GOROOT", "GOMODCACHE", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range releases {
		data, err := os.ReadFile(program(t, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range append(strings.Fields(string(said)), source) {
			if bytes.Contains(data, []byte(path)) {
				t.Errorf("%s: it holds %s", name, path)
			}
		}
	}
}

// It knows whom to trust where the image has no CA files.
func TestOwnRoots(t *testing.T) {
	for name := range releases {
		facts, err := buildinfo.ReadFile(program(t, name))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(facts.Deps, func(each *debug.Module) bool { return each.Path == "golang.org/x/crypto/x509roots/fallback" }) {
			t.Errorf("%s: it has no roots of its own", name)
		}
	}
}

// The version is that of sparkles.
func TestVersion(t *testing.T) {
	text, err := os.ReadFile("../../../sparkles/__init__.py")
	if err != nil {
		t.Fatal(err)
	}
	expected := regexp.MustCompile(`(?m)^__version__ = "(.*)"$`).FindSubmatch(text)
	said, err := exec.Command(program(t, "consume"), "version").Output()
	if err != nil || strings.TrimSpace(string(said)) != string(expected[1]) {
		t.Errorf("expected %s, found %s, %v", expected[1], said, err)
	}
}

// Built twice it is the same, byte for byte: the digest of its image says what is in it.
func TestTheSameSourceGivesTheSameProgram(t *testing.T) {
	plain, err := os.ReadFile(program(t, "consume"))
	if err != nil {
		t.Fatal(err)
	}
	release, err := os.ReadFile(program(t, "consume-linux-"+runtime.GOARCH))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(plain, release) {
		t.Error("consume and the release for this machine differ")
	}
}

// Where there are no workers the program is built all the same, for its images.
func TestOtherSystems(t *testing.T) {
	command := exec.Command("go", "vet", "-tags", "disable_grpc_modules", ".")
	command.Env = append(os.Environ(), "GOOS=darwin", "CGO_ENABLED=0")
	if said, err := command.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, said)
	}
}

// README.md has every flag, and no other.
func TestREADMEListsTheFlags(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, said := consume(t, nil, "run", "-h")
	names := func(pattern, text string) (found []string) {
		for _, each := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			found = append(found, each[1])
		}
		slices.Sort(found)
		return found
	}
	listed, known := names("(?m)^\\| `-([a-z-]+)` ", string(text)), names(`(?m)^  -([a-z-]+)`, said)
	if len(known) == 0 || !slices.Equal(listed, known) {
		t.Errorf("README.md: %v\nconsume run -h: %v", listed, known)
	}
}

// What is pushed is this program and the one beside it, under the name that is printed.
func TestImagePush(t *testing.T) {
	registry := imagetest.Start(t, imagetest.Kind{})
	push := exec.Command(program(t, "consume"), "image", "push", registry+"/site/consume")
	var talk bytes.Buffer
	push.Stderr = &talk
	said, err := push.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &talk)
	}
	pinned, err := name.NewDigest(strings.TrimSuffix(string(said), "\n"))
	if err != nil || !strings.HasSuffix(talk.String(), " for linux/amd64, linux/arm64\n") {
		t.Fatalf("found %q and %q, %v", said, &talk, err)
	}
	for release := range releases {
		architecture := strings.TrimPrefix(release, "consume-linux-")
		pulled, err := remote.Image(pinned, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: architecture}))
		if err != nil {
			t.Fatal(err)
		}
		archive := tar.NewReader(mutate.Extract(pulled))
		if header, err := archive.Next(); err != nil || header.Name != "consume" {
			t.Fatalf("%s: found %v, %v", architecture, header, err)
		}
		found, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		if expected, err := os.ReadFile(program(t, release)); err != nil || !bytes.Equal(found, expected) {
			t.Errorf("%s: another program was pushed (%v)", architecture, err)
		}
	}
}

// install copies the program whole, executable by everybody and writable by nobody; over what is there.
func TestInstall(t *testing.T) {
	into := t.TempDir()
	for range 2 {
		if code, said := consume(t, nil, "install", into); code != 0 {
			t.Fatalf("exit code %d: %s", code, said)
		}
	}
	target := filepath.Join(into, "consume")
	facts, err := os.Stat(target)
	if err != nil || facts.Mode() != 0o555 {
		t.Errorf("found %v, %v", facts.Mode(), err)
	}
	if said, err := exec.Command(target, "version").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, said)
	}
	left, _ := os.ReadDir(into)
	if len(left) != 1 {
		t.Errorf("found %v", left)
	}
}

// consume runs the program to its end and gives its exit code and what it said, on both streams. Of the environment it has only what is given.
func consume(t *testing.T, environ []string, arguments ...string) (int, string) {
	t.Helper()
	command := exec.Command(program(t, "consume"), arguments...)
	command.Env = append([]string{"PATH=/nowhere", "HOME=/nowhere"}, environ...)
	said, _ := command.CombinedOutput()
	return command.ProcessState.ExitCode(), string(said)
}

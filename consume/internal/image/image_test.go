package image

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"sparkles.dev/consume/internal/image/imagetest"
)

// tiny builds the small program that stands for consume here.
func tiny(t *testing.T, path, architecture, version string) {
	t.Helper()
	command := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.stamp=sparkles-consume-version="+version+";", "-o", path, "./testdata/tiny")
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+architecture)
	if said, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
}

// both is a folder as consume/build leaves it, and the image that is made there.
func both(t *testing.T) (string, v1.ImageIndex) {
	t.Helper()
	folder := t.TempDir()
	for _, architecture := range []string{"amd64", "arm64"} {
		tiny(t, filepath.Join(folder, "consume-linux-"+architecture), architecture, "1.2.3")
	}
	return folder, madeIn(t, folder)
}

func madeIn(t *testing.T, folder string) v1.ImageIndex {
	t.Helper()
	programs, err := Find(filepath.Join(folder, "consume-linux-amd64"), "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	index, err := Make(programs)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func tagged(t *testing.T, text string) name.Tag {
	t.Helper()
	tag, err := Reference(text, "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	return tag
}

func content(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// What a node pulls: the program for its platform, and nothing else.
func TestWhatIsPulled(t *testing.T) {
	folder, index := both(t)
	tag := tagged(t, imagetest.Start(t, imagetest.Kind{})+"/sparkles/consume")
	if err := Push(t.Context(), tag, index, "test"); err != nil {
		t.Fatal(err)
	}
	pinned, err := Pinned(tag, index)
	if err != nil {
		t.Fatal(err)
	}
	for _, architecture := range []string{"amd64", "arm64"} {
		reference, err := name.ParseReference(pinned)
		if err != nil {
			t.Fatal(err)
		}
		pulled, err := remote.Image(reference, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: architecture}))
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(pulled); err != nil {
			t.Error(err)
		}
		config, err := pulled.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.OS != "linux" || config.Architecture != architecture || !config.Created.Equal(time.Unix(0, 0)) {
			t.Errorf("%s: found %s/%s of %s", architecture, config.OS, config.Architecture, config.Created)
		}
		if !slices.Equal(config.Config.Entrypoint, []string{"/consume"}) || len(config.Config.Cmd)+len(config.Config.Env) > 0 || config.Config.User != "65532:65532" {
			t.Errorf("%s: found %+v", architecture, config.Config)
		}
		if version := config.Config.Labels["org.opencontainers.image.version"]; version != "1.2.3" {
			t.Errorf("%s: the label says version %q", architecture, version)
		}
		layers, err := pulled.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("%s: found %d layers, %v", architecture, len(layers), err)
		}
		packed, err := layers[0].Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		archive := tar.NewReader(packed)
		header, err := archive.Next()
		if err != nil {
			t.Fatal(err)
		}
		if header.Name != "consume" || header.Mode != 0o555 || header.Uid != 0 || header.Gid != 0 || !header.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s: found %+v", architecture, header)
		}
		data, err := io.ReadAll(archive)
		if err != nil || !bytes.Equal(data, content(t, filepath.Join(folder, "consume-linux-"+architecture))) {
			t.Errorf("%s: the program is another one (%v)", architecture, err)
		}
		if header, err := archive.Next(); err != io.EOF {
			t.Errorf("%s: there is more: %+v, %v", architecture, header, err)
		}
	}
}

// The digest depends on the programs and on nothing else; pushing the same again changes nothing.
func TestTheSameProgramsGiveTheSameDigest(t *testing.T) {
	_, one := both(t)
	folder, other := both(t)
	tag := tagged(t, imagetest.Start(t, imagetest.Kind{})+"/consume")
	first, _ := one.Digest()
	for _, index := range []v1.ImageIndex{one, other, one} {
		if err := Push(t.Context(), tag, index, "test"); err != nil {
			t.Fatal(err)
		}
		found, err := remote.Head(tag)
		if err != nil {
			t.Fatal(err)
		}
		if found.Digest != first || found.MediaType != types.OCIImageIndex {
			t.Errorf("expected the index %s, found %s %s", first, found.MediaType, found.Digest)
		}
	}
	path := filepath.Join(folder, "consume-linux-arm64")
	if err := os.WriteFile(path, append(content(t, path), 0), 0o755); err != nil {
		t.Fatal(err)
	}
	if changed, _ := madeIn(t, folder).Digest(); changed == first {
		t.Error("another program has the same digest")
	}
}

// What `consume image build` writes can be read as the OCI layout that the specification describes, and names itself.
func TestAnArchive(t *testing.T) {
	folder, index := both(t)
	tag := tagged(t, "registry.example/sparkles/consume")
	path := filepath.Join(folder, "consume.tar")
	for range 2 { // over what is there, too
		if err := Archive(path, tag, index); err != nil {
			t.Fatal(err)
		}
	}
	unpacked := filepath.Join(folder, "layout")
	if err := os.Mkdir(unpacked, 0o755); err != nil {
		t.Fatal(err)
	}
	if said, err := exec.Command("tar", "-xf", path, "-C", unpacked).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	read, err := layout.ImageIndexFromPath(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	listed, err := read.IndexManifest()
	if err != nil || len(listed.Manifests) != 1 {
		t.Fatalf("found %+v, %v", listed, err)
	}
	annotations := listed.Manifests[0].Annotations
	if annotations["org.opencontainers.image.ref.name"] != "1.2.3" || annotations["io.containerd.image.name"] != tag.Name() {
		t.Errorf("found %v", annotations)
	}
	inner, err := read.ImageIndex(listed.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(inner); err != nil {
		t.Error(err)
	}
	wanted, _ := index.Digest()
	if found, _ := inner.Digest(); found != wanted {
		t.Errorf("expected %s, found %s", wanted, found)
	}
}

// An archive that cannot be written whole leaves nothing.
func TestAnArchiveThatCannotBeWritten(t *testing.T) {
	folder, index := both(t)
	target := filepath.Join(folder, "consume.tar")
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	err := Archive(target, tagged(t, "registry.example/consume"), index)
	if err == nil || !strings.Contains(err.Error(), target) {
		t.Errorf("found %v", err)
	}
	if _, err := os.Stat(target + ".part"); err == nil {
		t.Error("a part is left")
	}
}

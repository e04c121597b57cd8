// Package image makes the worker's OCI image without Docker: this program, for each platform that it was built for, and nothing else. It imports
// no other package of consume, and runs wherever Go does.
//
// The same programs give the same digest: no clock, user or folder of this machine gets in. Surprise: it is an index of platforms even where
// there is only one, so that a node of another platform is told so, instead of "exec format error" from a program that it cannot run.
package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	// Entrypoint is where the program is in the image.
	Entrypoint = "/consume"
	// user has no name, since there is no /etc/passwd. A number lets Kubernetes see that it is not root (runAsNonRoot).
	user = "65532:65532"
)

// the beginning is the time of everything in the image.
var beginning = time.Unix(0, 0).UTC()

// Make is the image of programs of one version, each for a platform of its own.
func Make(programs []Program) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, program := range programs {
		platform := v1.Platform{OS: "linux", Architecture: program.Architecture}
		made, err := makeOne(program, platform)
		if err != nil {
			return nil, fmt.Errorf("image for %s: %w", platform, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: made, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	annotated, _ := mutate.Annotations(index, labels(programs[0].Version)).(v1.ImageIndex)
	return annotated, nil
}

func makeOne(program Program, platform v1.Platform) (v1.Image, error) {
	content, err := layer(program.Data)
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	base, err = mutate.ConfigFile(base, &v1.ConfigFile{
		OS: platform.OS, Architecture: platform.Architecture, Created: v1.Time{Time: beginning},
		Config: v1.Config{Entrypoint: []string{Entrypoint}, User: user, WorkingDir: "/", Labels: labels(program.Version)},
		RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, err
	}
	return mutate.Append(base, mutate.Addendum{
		Layer: content, History: v1.History{Created: v1.Time{Time: beginning}, CreatedBy: "consume " + program.Version},
	})
}

func labels(version string) map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":       "consume",
		"org.opencontainers.image.description": "the cloud worker of sparkles",
		"org.opencontainers.image.version":     version,
		"org.opencontainers.image.licenses":    "Apache-2.0",
	}
}

// layer is a layer that holds the program alone.
func layer(program []byte) (v1.Layer, error) {
	var packed bytes.Buffer
	archive := tar.NewWriter(&packed)
	if err := addFile(archive, Entrypoint[1:], 0o555, program); err != nil {
		return nil, err
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(packed.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
}

func addFile(archive *tar.Writer, name string, mode int64, data []byte) error {
	header := &tar.Header{
		Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(data)), ModTime: beginning, Format: tar.FormatUSTAR,
	}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := archive.Write(data)
	return err
}

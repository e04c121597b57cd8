package image

import (
	"archive/tar"
	"fmt"
	"io"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Archive writes the image to a file, whole or not at all: an OCI layout in a tar file, which names itself tag.
func Archive(path string, tag name.Tag, index v1.ImageIndex) error {
	temporary := path + ".part"
	file, err := os.Create(temporary)
	if err != nil {
		return err
	}
	err = writeLayout(tar.NewWriter(file), tag, index)
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		_ = os.Remove(temporary)
	}
	return err
}

func writeLayout(archive *tar.Writer, tag name.Tag, index v1.ImageIndex) error {
	// The first name is for podman, skopeo and crane; the second for containerd.
	root := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add: index,
		Descriptor: v1.Descriptor{Annotations: map[string]string{
			"org.opencontainers.image.ref.name": tag.TagStr(),
			"io.containerd.image.name":          tag.Name(),
		}},
	})
	listing, err := root.RawManifest()
	if err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	if err := addFile(archive, "oci-layout", 0o444, []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := addFile(archive, "index.json", 0o444, listing); err != nil {
		return err
	}
	manifest, err := index.RawManifest()
	if err != nil {
		return err
	}
	if err := addBlob(archive, digest, manifest); err != nil {
		return err
	}
	listed, err := index.IndexManifest()
	if err != nil {
		return err
	}
	for _, each := range listed.Manifests {
		made, err := index.Image(each.Digest)
		if err != nil {
			return err
		}
		if err := addImage(archive, each.Digest, made); err != nil {
			return err
		}
	}
	return archive.Close()
}

func addImage(archive *tar.Writer, digest v1.Hash, made v1.Image) error {
	manifest, err := made.RawManifest()
	if err != nil {
		return err
	}
	if err := addBlob(archive, digest, manifest); err != nil {
		return err
	}
	configName, err := made.ConfigName()
	if err != nil {
		return err
	}
	config, err := made.RawConfigFile()
	if err != nil {
		return err
	}
	if err := addBlob(archive, configName, config); err != nil {
		return err
	}
	layers, err := made.Layers()
	if err != nil {
		return err
	}
	for _, each := range layers {
		digest, err := each.Digest()
		if err != nil {
			return err
		}
		packed, err := each.Compressed()
		if err != nil {
			return err
		}
		data, err := io.ReadAll(packed)
		if err != nil {
			return err
		}
		if err := addBlob(archive, digest, data); err != nil {
			return err
		}
	}
	return nil
}

func addBlob(archive *tar.Writer, digest v1.Hash, data []byte) error {
	return addFile(archive, fmt.Sprintf("blobs/%s/%s", digest.Algorithm, digest.Hex), 0o444, data)
}

package image

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/google"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const example = "for example europe-docker.pkg.dev/my-project/sparkles/consume"

// Reference reads REGISTRY/REPOSITORY[:TAG]; the tag is the version where none is given. A registry has to be named: nobody is to push to Docker Hub
// because of a word that was left out.
func Reference(text, version string) (name.Tag, error) {
	wrong := func(why string) (name.Tag, error) {
		return name.Tag{}, fmt.Errorf("%q: expected REGISTRY/REPOSITORY[:TAG], %s; %s", text, example, why)
	}
	if strings.Contains(text, "://") {
		return wrong("leave out what is before ://")
	}
	if strings.Contains(text, "@") {
		return wrong("found a digest, which follows from what is pushed")
	}
	registry, _, found := strings.Cut(text, "/")
	if !found || registry != "localhost" && !strings.ContainsAny(registry, ".:") {
		return wrong("found no registry")
	}
	tag, err := name.NewTag(text, name.WithDefaultTag(version))
	if err != nil {
		return wrong(err.Error())
	}
	return tag, nil
}

// Pinned is the reference of exactly this image, for settings and jobs.
func Pinned(tag name.Tag, index v1.ImageIndex) (string, error) {
	digest, err := index.Digest()
	if err != nil {
		return "", err
	}
	return tag.Name() + "@" + digest.String(), nil
}

// Refused says that a registry answered, and does not take the image: trying again does not help.
type Refused struct{ reason string }

func (e *Refused) Error() string { return e.reason }

// Push uploads what the registry does not have, and then sets the tag. Who may: as docker's and podman's settings say (docker login, credential
// helpers); in Google's registries also the application default credentials, and whoever is logged in to gcloud.
func Push(ctx context.Context, tag name.Tag, index v1.ImageIndex, agent string) error {
	keys := authn.NewMultiKeychain(authn.DefaultKeychain, google.Keychain)
	err := remote.WriteIndex(tag, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(keys), remote.WithUserAgent(agent))
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	registry := tag.RegistryStr()
	var answer *transport.Error
	var unknown *net.DNSError
	var unreachable *net.OpError
	switch {
	case errors.As(err, &answer):
		return judged(tag, answer)
	case errors.As(err, &unknown):
		return fmt.Errorf("there is no registry %s (%s): is its name right? Is this machine offline?", registry, unknown.Err)
	case errors.As(err, &unreachable):
		return fmt.Errorf("no registry answers at %s (%v)", registry, innermost(unreachable))
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return &Refused{fmt.Sprintf("%s speaks plain HTTP, which is used with localhost and private addresses only: give it a certificate", registry)}
	}
	return fmt.Errorf("%s: %w", registry, err)
}

// judged is an error of the registry's own as a sentence.
func judged(tag name.Tag, answer *transport.Error) error {
	registry := tag.RegistryStr()
	said := fmt.Sprintf("%d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
	if len(answer.Errors) > 0 {
		said = strings.TrimSuffix(fmt.Sprintf("%s: %s", answer.Errors[0].Code, answer.Errors[0].Message), ": ")
	}
	google := strings.HasSuffix(registry, ".pkg.dev")
	switch status := answer.StatusCode; {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		todo := "log in: docker login " + registry
		if google {
			todo = "it needs roles/artifactregistry.writer on the repository; log in: gcloud auth application-default login"
		}
		return &Refused{fmt.Sprintf("%s refuses it (%s): %s", registry, said, todo)}
	case status == http.StatusNotFound:
		todo := "make the repository first"
		if parts := strings.Split(tag.RepositoryStr(), "/"); google && len(parts) > 1 {
			location := strings.TrimSuffix(registry, "-docker.pkg.dev")
			todo = fmt.Sprintf("make it: gcloud artifacts repositories create %s --project=%s --location=%s --repository-format=docker", parts[1], parts[0], location)
		}
		return &Refused{fmt.Sprintf("%s has no repository for %s (%s): %s", registry, tag.RepositoryStr(), said, todo)}
	case status >= 500 || answer.Temporary():
		return fmt.Errorf("%s is in trouble (%s): try again later", registry, said)
	default:
		return &Refused{fmt.Sprintf("%s refuses it (%s)", registry, said)}
	}
}

// innermost is the error that began it: what is around it names the address again.
func innermost(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

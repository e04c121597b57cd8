package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"sparkles.dev/consume/internal/image/imagetest"
)

func TestReference(t *testing.T) {
	for text, expected := range map[string]string{
		"localhost:5000/consume":                        "localhost:5000/consume:1.2.3",
		"localhost/consume:x":                           "localhost/consume:x",
		"europe-docker.pkg.dev/my-project/site/consume": "europe-docker.pkg.dev/my-project/site/consume:1.2.3",
		"127.0.0.1:5000/a/b/c:latest":                   "127.0.0.1:5000/a/b/c:latest",
	} {
		if found, err := Reference(text, "1.2.3"); err != nil || found.Name() != expected {
			t.Errorf("%s: expected %s, found %s, %v", text, expected, found.Name(), err)
		}
	}
	for text, why := range map[string]string{
		"":                         "found no registry",
		"consume:1":                "found no registry",
		"someone/consume":          "found no registry",
		"https://gcr.io/p/consume": "leave out what is before ://",
		"gcr.io/p/consume@sha256:" + strings.Repeat("0", 64): "found a digest",
		"gcr.io/p/Consume":        "Consume",
		"gcr.io/p/consume:no tag": "no tag",
		"gcr.io/":                 "gcr.io/",
	} {
		_, err := Reference(text, "1.2.3")
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q: expected REGISTRY/REPOSITORY[:TAG]", text)) || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: expected %q, found %v", text, why, err)
		}
	}
}

// dockerConfig makes a folder as docker login leaves it, and uses it.
func dockerConfig(t *testing.T, registry, user, password string) {
	t.Helper()
	folder := t.TempDir()
	text := fmt.Sprintf(`{"auths": {%q: {"username": %q, "password": %q}}}`, registry, user, password)
	if err := os.WriteFile(filepath.Join(folder, "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", folder)
}

// A registry takes the image of who is logged in, and of nobody else.
func TestLogin(t *testing.T) {
	_, index := both(t)
	registry := imagetest.Start(t, imagetest.Kind{Closed: true})
	tag := tagged(t, registry+"/consume")
	for what, password := range map[string]string{"nobody is logged in": "", "a wrong password": "guess"} {
		dockerConfig(t, registry, imagetest.User, password)
		err := Push(t.Context(), tag, index, "test")
		if !errors.As(err, new(*Refused)) || !strings.HasPrefix(err.Error(), registry+" refuses it (401 Unauthorized)") || !strings.HasSuffix(err.Error(), ": log in: docker login "+registry) {
			t.Errorf("%s: found %v", what, err)
		}
	}
	dockerConfig(t, registry, imagetest.User, imagetest.Password)
	if err := Push(t.Context(), tag, index, "test"); err != nil {
		t.Error(err)
	}
}

// A push that cannot succeed says why, at once.
func TestPushRefused(t *testing.T) {
	_, index := both(t)
	push := func(registry string) error { return Push(t.Context(), tagged(t, registry+"/consume"), index, "test") }

	readOnly := imagetest.Start(t, imagetest.Kind{ReadOnly: true})
	if err := push(readOnly); !errors.As(err, new(*Refused)) || !strings.Contains(err.Error(), readOnly+" refuses it (405 Method Not Allowed)") {
		t.Errorf("read-only: found %v", err)
	}
	plain := imagetest.Start(t, imagetest.Kind{Host: "127.0.0.2"})
	if err := push(plain); !errors.As(err, new(*Refused)) || !strings.HasPrefix(err.Error(), plain+" speaks plain HTTP, ") {
		t.Errorf("plain HTTP: found %v", err)
	}
	nobody := imagetest.FreeAddress(t, "127.0.0.1")
	if err := push(nobody); errors.As(err, new(*Refused)) || err == nil || err.Error() != fmt.Sprintf("no registry answers at %s (connection refused)", nobody) {
		t.Errorf("no registry: found %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Push(ctx, tagged(t, readOnly+"/consume"), index, "test"); !errors.Is(err, context.Canceled) {
		t.Errorf("told to stop: found %v", err)
	}
}

// Registries' errors as sentences; Google's with the command that mends it.
func TestJudged(t *testing.T) {
	const google = "europe-docker.pkg.dev"
	tag := tagged(t, google+"/proj/site/consume")
	for _, each := range []struct {
		answer   transport.Error
		refused  bool
		expected string
	}{
		{
			transport.Error{StatusCode: http.StatusForbidden, Errors: []transport.Diagnostic{{Code: transport.DeniedErrorCode, Message: "Permission denied"}}}, true,
			google + " refuses it (DENIED: Permission denied): it needs roles/artifactregistry.writer on the repository; log in: gcloud auth application-default login",
		},
		{
			transport.Error{StatusCode: http.StatusNotFound, Errors: []transport.Diagnostic{{Code: transport.NameUnknownErrorCode, Message: "not found"}}}, true,
			google + " has no repository for proj/site/consume (NAME_UNKNOWN: not found): make it:" +
				" gcloud artifacts repositories create site --project=proj --location=europe --repository-format=docker",
		},
		{transport.Error{StatusCode: http.StatusBadGateway}, false, google + " is in trouble (502 Bad Gateway): try again later"},
		{transport.Error{StatusCode: http.StatusRequestEntityTooLarge}, true, google + " refuses it (413 Request Entity Too Large)"},
	} {
		err := judged(tag, &each.answer)
		if err.Error() != each.expected || errors.As(err, new(*Refused)) != each.refused {
			t.Errorf("expected %q, found %q", each.expected, err)
		}
	}
}

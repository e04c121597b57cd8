// Package imagetest starts Debian's docker-registry for tests of images.
package imagetest

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// User and Password are who may push to a registry with Closed.
const (
	User     = "sparkles"
	Password = "secret"
	hash     = "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a" // bcrypt of Password
)

// Kind is what a registry is like. Host is the address of loopback that it listens on: 127.0.0.1 unless given.
type Kind struct {
	Host     string
	Closed   bool
	ReadOnly bool
}

// Start gives host:port of an empty registry, which is ended with the test.
func Start(t testing.TB, kind Kind) string {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		const why = "there is no docker-registry here (apt-get install docker-registry)"
		if os.Getenv("SPARKLES_TEST_ALL") == "1" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	if kind.Host == "" {
		kind.Host = "127.0.0.1"
	}
	folder := t.TempDir()
	address := FreeAddress(t, kind.Host)
	settings := fmt.Sprintf("version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nhttp:\n  addr: %q\nstorage:\n  filesystem:\n    rootdirectory: %q\n", address, filepath.Join(folder, "data"))
	if kind.ReadOnly {
		settings += "  maintenance:\n    readonly:\n      enabled: true\n"
	}
	if kind.Closed {
		users := filepath.Join(folder, "users")
		write(t, users, User+":"+hash+"\n")
		settings += fmt.Sprintf("auth:\n  htpasswd:\n    realm: tests\n    path: %q\n", users)
	}
	path := filepath.Join(folder, "config.yml")
	write(t, path, settings)
	var log bytes.Buffer
	command := exec.Command(program, "serve", path)
	command.Stdout, command.Stderr = &log, &log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if t.Failed() {
			t.Logf("the registry says:\n%s", log.Bytes())
		}
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		answer, err := http.Get("http://" + address + "/v2/")
		if err == nil {
			_ = answer.Body.Close()
			return address
		}
		if time.Now().After(deadline) {
			t.Fatalf("the registry did not start: %v", err)
		}
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// FreeAddress is one that nobody listens on now.
func FreeAddress(t testing.TB, host string) string {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

package gcs

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"net/http/httptest"

	"cloud.google.com/go/auth"

	"sparkles.dev/consume/internal/blobs"
	"sparkles.dev/consume/internal/blobs/blobstest"
	"sparkles.dev/consume/internal/wire"
)

// bucket is made by whoever starts the emulator (tests/support/emulators.py).
const bucket = "sparkles-test"

func emulator(t *testing.T) string {
	t.Helper()
	host := os.Getenv("STORAGE_EMULATOR_HOST")
	if host == "" {
		const why = "STORAGE_EMULATOR_HOST is not set: this test needs fake-gcs-server (python -m tests.support.emulators)"
		if os.Getenv("SPARKLES_TEST_ALL") == "1" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	return host
}

func open(t *testing.T, options Options) *Store {
	t.Helper()
	options.Bucket = bucket
	if options.Prefix == "" {
		options.Prefix = "t" + rand.Text() + "/"
	}
	store, err := Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return store
}

func TestContract(t *testing.T) {
	host := emulator(t)
	blobstest.Run(t, func(t *testing.T) blobs.Blobs { return open(t, Options{EmulatorHost: host}) })
}

// proxy stands before the emulator; spoil sees each request first and may answer it (true), or change how it is answered.
func proxy(t *testing.T, spoil func(http.ResponseWriter, *http.Request) (http.ResponseWriter, bool)) string {
	t.Helper()
	target, err := url.Parse(emulator(t))
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(target)
	forward.ErrorLog = nil
	server := httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		answer, answered := spoil(answer, request)
		if !answered {
			request.Host = target.Host
			forward.ServeHTTP(answer, request)
		}
	}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(server.Close)
	return server.URL
}

func file(t *testing.T, size int) (string, []byte) {
	t.Helper()
	data := make([]byte, size)
	_, _ = rand.Read(data)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path, data
}

// Each request fails in one of the ways in which a service fails for a moment before it is let through; nothing is noticed but time.
func TestATroubledService(t *testing.T) {
	var count atomic.Int64
	ways := []int{408, 429, 500, 502, 503, 504, 0}
	address := proxy(t, func(answer http.ResponseWriter, request *http.Request) (http.ResponseWriter, bool) {
		number := count.Add(1)
		if number%2 == 0 {
			return answer, false
		}
		way := ways[int(number/2)%len(ways)]
		if way == 0 {
			panic(http.ErrAbortHandler) // the connection breaks off
		}
		answer.WriteHeader(way)
		return answer, true
	})
	store := open(t, Options{EmulatorHost: address, Patience: time.Minute})
	ctx := t.Context()
	path, data := file(t, 9<<20)
	artifact, err := store.Collect(ctx, path, "x")
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "placed")
	if err := store.Place(ctx, artifact.Digest, target, false, false); err != nil {
		t.Fatal(err)
	}
	if found, _ := os.ReadFile(target); !bytes.Equal(found, data) {
		t.Error("it came back otherwise")
	}
	for number := range int64(10) {
		ref := wire.AttemptRef{Job: "j", Index: 1, Attempt: 1}
		if err := store.PutObject(ctx, blobs.LogPiece(ref, number), []byte("piece")); err != nil {
			t.Fatal(err)
		}
		if number == 9 {
			if err := store.DeleteLogPieces(ctx, ref); err != nil {
				t.Fatal(err)
			}
		}
	}
	if count.Load() < 20 {
		t.Errorf("only %d requests came through the proxy", count.Load())
	}
}

// A write whose answer was lost is no conflict with itself.
func TestALostAnswer(t *testing.T) {
	var lost atomic.Int64
	address := proxy(t, func(answer http.ResponseWriter, request *http.Request) (http.ResponseWriter, bool) {
		if request.Method == http.MethodPost && lost.Add(1)%2 == 1 {
			return &breaking{ResponseWriter: answer}, false
		}
		return answer, false
	})
	store := open(t, Options{EmulatorHost: address, Patience: time.Minute})
	if written, err := store.WriteNew(t.Context(), "new", []byte("mine")); err != nil || !written {
		t.Errorf("WriteNew: found %v (%v)", written, err)
	}
	lost.Store(0)
	path, data := file(t, 1000)
	artifact, err := store.Collect(t.Context(), path, "x")
	if err != nil {
		t.Fatal(err)
	}
	if found, err := store.ReadAll(t.Context(), blobs.Content(artifact.Digest)); err != nil || !bytes.Equal(found, data) {
		t.Errorf("found %d bytes (%v)", len(found), err)
	}
	if lost.Load() != 2 {
		t.Errorf("%d uploads came through the proxy, expected 2", lost.Load())
	}
}

// breaking lets left bytes of an answer through, and then breaks the connection off.
type breaking struct {
	http.ResponseWriter
	left int
}

func (b *breaking) Write(data []byte) (int, error) {
	if len(data) > b.left {
		_, _ = b.ResponseWriter.Write(data[:b.left])
		_ = http.NewResponseController(b.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	b.left -= len(data)
	return b.ResponseWriter.Write(data)
}

func (b *breaking) Unwrap() http.ResponseWriter { return b.ResponseWriter }

// A download that breaks off goes on where it broke off, for as long as it comes forward.
func TestADownloadThatBreaksOff(t *testing.T) {
	var asked atomic.Int64
	address := proxy(t, func(answer http.ResponseWriter, request *http.Request) (http.ResponseWriter, bool) {
		if request.URL.Query().Get("alt") == "media" {
			asked.Add(1)
			return &breaking{ResponseWriter: answer, left: 3 << 20}, false
		}
		return answer, false
	})
	direct := open(t, Options{EmulatorHost: emulator(t)})
	path, data := file(t, 10<<20)
	artifact, err := direct.Collect(t.Context(), path, "x")
	if err != nil {
		t.Fatal(err)
	}
	store := open(t, Options{EmulatorHost: address, Prefix: direct.prefix, Patience: 200 * time.Millisecond})
	target := filepath.Join(t.TempDir(), "placed")
	if err := store.Place(t.Context(), artifact.Digest, target, false, false); err != nil {
		t.Fatal(err)
	}
	if found, _ := os.ReadFile(target); !bytes.Equal(found, data) {
		t.Error("it came back otherwise")
	}
	if asked.Load() != 4 {
		t.Errorf("asked %d times, expected 4 times for 10 MiB in pieces of 3", asked.Load())
	}
}

// A service that takes requests and never answers ends at the patience, is told of once, and is told of again when it answers.
func TestAServiceThatDoesNotAnswer(t *testing.T) {
	var silent atomic.Bool
	released := make(chan struct{})
	t.Cleanup(func() { close(released) })
	address := proxy(t, func(answer http.ResponseWriter, request *http.Request) (http.ResponseWriter, bool) {
		if !silent.Load() {
			return answer, false
		}
		_, _ = io.Copy(io.Discard, request.Body)
		select {
		case <-released:
		case <-request.Context().Done():
		}
		return answer, true
	})
	var log bytes.Buffer
	store := open(t, Options{EmulatorHost: address, Patience: 2 * time.Second, Log: slog.New(slog.NewTextHandler(&log, nil))})
	store.callTime = 100 * time.Millisecond
	store.toldAfter = 50 * time.Millisecond
	silent.Store(true)
	began := time.Now()
	for what, call := range map[string]func() error{
		"PutObject": func() error { return store.PutObject(t.Context(), "x", []byte("data")) },
		"ReadAll":   func() error { _, err := store.ReadAll(t.Context(), "x"); return err },
	} {
		err := call()
		if !errors.Is(err, errStalled) || !strings.Contains(err.Error(), "gs://"+bucket+"/"+store.prefix+"x") || IsConfiguration(err) {
			t.Errorf("%s: found %v", what, err)
		}
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	if got := store.Trouble(); got != "Cloud Storage does not answer" {
		t.Errorf("in trouble: %q", got)
	}
	silent.Store(false)
	if err := store.PutObject(t.Context(), "x", []byte("data")); err != nil {
		t.Error(err)
	}
	if got := store.Trouble(); got != "" {
		t.Errorf("afterwards: %q", got)
	}
	said := log.String()
	if strings.Count(said, "does not answer") != 1 || strings.Count(said, "answers again") != 1 {
		t.Errorf("the log says:\n%s", said)
	}
}

// A call that stands still is told of long before it is given up, and it may go on.
func TestAStandstillIsToldBeforeItIsOver(t *testing.T) {
	held := make(chan struct{})
	var hold atomic.Bool
	address := proxy(t, func(answer http.ResponseWriter, request *http.Request) (http.ResponseWriter, bool) {
		if hold.Load() {
			<-held
		}
		return answer, false
	})
	store := open(t, Options{EmulatorHost: address})
	store.toldAfter = 100 * time.Millisecond
	hold.Store(true)
	ended := make(chan error, 1)
	go func() { ended <- store.PutObject(t.Context(), "x", bytes.Repeat([]byte("data"), 1<<20)) }()
	for deadline := time.Now().Add(20 * time.Second); store.Trouble() == ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			close(held)
			t.Fatal("nothing was told")
		}
	}
	close(held)
	if err := <-ended; err != nil || store.Trouble() != "" {
		t.Errorf("afterwards: %v, %q", err, store.Trouble())
	}
}

// An end that is asked for is not held up by the patience.
func TestAnEndDuringTrouble(t *testing.T) {
	var down atomic.Bool
	address := proxy(t, func(answer http.ResponseWriter, request *http.Request) (http.ResponseWriter, bool) {
		if down.Load() {
			answer.WriteHeader(503)
		}
		return answer, down.Load()
	})
	store := open(t, Options{EmulatorHost: address})
	down.Store(true)
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	began := time.Now()
	if err := store.PutObject(ctx, "x", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("found %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
}

// What somebody has to change is told at once, as such.
func TestRefusals(t *testing.T) {
	if _, err := Open(t.Context(), Options{Bucket: "no-such-bucket", EmulatorHost: emulator(t)}); !IsConfiguration(err) || !strings.Contains(err.Error(), "no bucket no-such-bucket") {
		t.Errorf("no bucket: found %v", err)
	}
	for _, code := range []int{401, 403} {
		address := proxy(t, func(answer http.ResponseWriter, request *http.Request) (http.ResponseWriter, bool) {
			answer.WriteHeader(code)
			return answer, true
		})
		if _, err := Open(t.Context(), Options{Bucket: bucket, EmulatorHost: address}); !IsConfiguration(err) {
			t.Errorf("%d: found %v", code, err)
		}
	}
	for code, refused := range map[int]bool{400: true, 401: true, 403: true, 429: false, 503: false} {
		login := &url.Error{Op: "Get", URL: "x", Err: &auth.Error{Response: &http.Response{StatusCode: code}}}
		err := (&Store{name: bucket}).translate(login, "")
		if canHelp(login) == refused || IsConfiguration(err) != refused || strings.Contains(err.Error(), "the login is over; run `gcloud") != refused {
			t.Errorf("a login that is answered with %d: found %v", code, err)
		}
	}
}

// Content that was stored long ago and is collected again counts as new, so that cleaning up spares it until it is referred to.
func TestOldContentIsTouched(t *testing.T) {
	var age atomic.Bool
	var rewritten atomic.Int64
	address := proxy(t, func(answer http.ResponseWriter, request *http.Request) (http.ResponseWriter, bool) {
		if strings.Contains(request.URL.Path, "/rewriteTo/") {
			rewritten.Add(1)
		}
		if age.Load() && request.Method == http.MethodGet && strings.Contains(request.URL.Path, "/o/") {
			answer.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(answer, `{"name": "x", "bucket": "b", "size": "4", "updated": "2020-01-01T00:00:00Z"}`)
			return answer, true
		}
		return answer, false
	})
	store := open(t, Options{EmulatorHost: address})
	for _, size := range []int{4, 9 << 20} {
		age.Store(false)
		path, data := file(t, size)
		for range 2 {
			if _, err := store.Collect(t.Context(), path, "x"); err != nil {
				t.Fatal(err)
			}
		}
		before := rewritten.Load()
		age.Store(true)
		artifact, err := store.Collect(t.Context(), path, "x")
		if err != nil {
			t.Fatal(err)
		}
		if found := rewritten.Load() - before; before != 0 && size == 4 || found != 1 {
			t.Errorf("%d bytes: rewritten %d times before and %d times when old", size, before, found)
		}
		age.Store(false)
		if found, err := store.ReadAll(t.Context(), blobs.Content(artifact.Digest)); err != nil || !bytes.Equal(found, data) {
			t.Errorf("%d bytes: %d came back (%v)", size, len(found), err)
		}
	}
}

// However many files are sent at a time, only so many bytes of them are in memory.
func TestMemoryOfManyTransfers(t *testing.T) {
	const together = memoryBytes / smallBytes
	var underWay, most atomic.Int64
	address := proxy(t, func(answer http.ResponseWriter, request *http.Request) (http.ResponseWriter, bool) {
		if request.Method != http.MethodPost {
			return answer, false
		}
		now := underWay.Add(1)
		for known := most.Load(); now > known && !most.CompareAndSwap(known, now); known = most.Load() {
		}
		for deadline := time.Now().Add(30 * time.Second); most.Load() < together && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		}
		time.Sleep(300 * time.Millisecond) // for one too many
		underWay.Add(-1)
		return answer, false
	})
	store := open(t, Options{EmulatorHost: address})
	var group sync.WaitGroup
	for range 10 {
		path, _ := file(t, smallBytes)
		group.Go(func() {
			if _, err := store.Collect(t.Context(), path, "x"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if found := most.Load(); found != together {
		t.Errorf("%d files of %d bytes were sent at a time, expected %d", found, smallBytes, together)
	}
}

// How old content is goes by the service's clock, not by the worker's.
func TestAnotherClock(t *testing.T) {
	for _, ahead := range []time.Duration{0, 2 * time.Hour} {
		var rewritten atomic.Int64
		address := proxy(t, func(answer http.ResponseWriter, request *http.Request) (http.ResponseWriter, bool) {
			if strings.Contains(request.URL.Path, "/rewriteTo/") {
				rewritten.Add(1)
			}
			return &dated{answer, time.Now().Add(ahead)}, false
		})
		for _, size := range []int{4, 9 << 20} {
			path, _ := file(t, size)
			prefix := "t" + rand.Text() + "/"
			for range 2 { // by two workers
				if _, err := open(t, Options{EmulatorHost: address, Prefix: prefix}).Collect(t.Context(), path, "x"); err != nil {
					t.Fatal(err)
				}
			}
		}
		expected := int64(0)
		if ahead > touchAfter {
			expected = 2
		}
		if found := rewritten.Load(); found != expected {
			t.Errorf("%s ahead: touched %d times, expected %d", ahead, found, expected)
		}
	}
}

// dated is an answer with another date.
type dated struct {
	http.ResponseWriter
	at time.Time
}

func (d *dated) WriteHeader(code int) {
	d.Header().Set("Date", d.at.UTC().Format(http.TimeFormat))
	d.ResponseWriter.WriteHeader(code)
}

func (d *dated) Unwrap() http.ResponseWriter { return d.ResponseWriter }

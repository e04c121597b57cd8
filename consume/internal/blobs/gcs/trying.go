package gcs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/storage"
	"google.golang.org/api/googleapi"

	"sparkles.dev/consume/internal/blobs"
)

const (
	// callTime is for a call that makes no progress, and for one that moves at most smallBytes: 140 kB/s.
	callTime   = 60 * time.Second
	patience   = 5 * time.Minute
	leastPause = 100 * time.Millisecond
	mostPause  = 5 * time.Second
	toldAfter  = 5 * time.Second
)

var (
	errPresent = errors.New("there is such an object already")
	errStalled = errors.New("no progress for too long")
)

// Refused says that Cloud Storage will not do it until somebody changes something: no such bucket, no permission, no login.
type Refused struct {
	What string
	Err  error
}

func (e *Refused) Error() string { return fmt.Sprintf("%s: %v", e.What, e.Err) }

func (e *Refused) Unwrap() error { return e.Err }

// IsConfiguration tells whether somebody has to change something before the same call can succeed.
func IsConfiguration(err error) bool {
	var refused *Refused
	return errors.As(err, &refused)
}

// trying runs call until it succeeds, its error cannot be helped by trying again, or it has failed for as long as the patience. call reports with
// more that bytes moved, which is the end of the patience's count where they need not be moved again (lasting). A call that reports nothing for as
// long as stall is given up, and tried again. At most as many calls as there are slots run at a time. Where none of them reports or is answered
// for as long as toldAfter, that is told at once; not of one that sends large chunks, which are acknowledged whole.
func (s *Store) trying(ctx context.Context, name string, stall time.Duration, call func(ctx context.Context, more func(lasting bool)) error) error {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	var failing time.Time
	pause := leastPause
	for {
		began := time.Now()
		lasting, err := s.once(ctx, stall, call)
		if err == nil {
			s.answered()
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", s.url(name), context.Cause(ctx))
		}
		if !canHelp(err) {
			return s.translate(err, name)
		}
		switch {
		case lasting:
			failing, pause = time.Now(), leastPause
		case failing.IsZero() && errors.Is(err, errStalled):
			failing = began
		case failing.IsZero():
			failing = time.Now()
		}
		waited := time.Since(failing)
		if waited+pause > s.patience {
			return s.translate(err, name)
		}
		if waited > s.toldAfter {
			s.tell(err)
		}
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-ctx.Done():
		}
		pause = min(2*pause, mostPause)
	}
}

// once runs call with a context that is over when nothing is reported for as long as stall. It returns whether something lasting moved.
func (s *Store) once(ctx context.Context, stall time.Duration, call func(ctx context.Context, more func(lasting bool)) error) (bool, error) {
	inner, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(stall, func() { cancel(errStalled) })
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if stall <= s.callTime {
			s.watch(inner)
		}
	}()
	defer func() {
		timer.Stop()
		cancel(nil)
		<-watched
	}()
	var lasted atomic.Bool
	err := call(inner, func(lasting bool) {
		if lasting {
			lasted.Store(true)
		}
		s.answered()
		timer.Reset(stall)
	})
	if err != nil && context.Cause(inner) == errStalled {
		err = errStalled
	}
	return lasted.Load(), err
}

// watch tells that nothing moves while a call is under way.
func (s *Store) watch(ctx context.Context) {
	for left := s.toldAfter; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(left):
		}
		if left = s.toldAfter - (time.Since(s.began) - time.Duration(s.movedAt.Load())); left <= 0 {
			s.tell(errStalled)
			left = s.toldAfter
		}
	}
}

// moved notes that bytes were taken, if not by Cloud Storage: what is on its way may be taken by nobody.
func (s *Store) moved() { s.movedAt.Store(int64(time.Since(s.began))) }

// answered notes that Cloud Storage itself did something.
func (s *Store) answered() {
	s.moved()
	s.tell(nil)
}

func canHelp(err error) bool {
	if errors.Is(err, errStalled) || storage.ShouldRetry(err) {
		return true
	}
	if loginOver(err) {
		return false
	}
	var answer *googleapi.Error
	if errors.As(err, &answer) {
		return answer.Code == http.StatusGone // an upload's session that the service forgot
	}
	var temporary interface{ Temporary() bool }
	if errors.As(err, &temporary) && temporary.Temporary() {
		return true
	}
	var name *net.DNSError
	var network *net.OpError
	if errors.As(err, &name) {
		return !name.IsNotFound
	}
	return errors.As(err, &network)
}

// loginOver tells whether the login itself was refused, before anything was asked of Cloud Storage.
func loginOver(err error) bool {
	var login *auth.Error
	if !errors.As(err, &login) || login.Response == nil {
		return false
	}
	switch login.Response.StatusCode {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
		return true
	}
	return false
}

// translate gives the error for whoever called: where, and what to do where somebody has to.
func (s *Store) translate(err error, name string) error {
	where := s.url(name)
	var answer *googleapi.Error
	code := 0
	if errors.As(err, &answer) {
		code = answer.Code
	}
	switch {
	case loginOver(err):
		return &Refused{where + ": the login is over; run `gcloud auth application-default login` again, or check the service account's key", err}
	case errors.Is(err, blobs.ErrNotFound):
		return fmt.Errorf("%s: %w", where, err)
	case errors.Is(err, storage.ErrBucketNotExist), code == http.StatusNotFound && !errors.Is(err, storage.ErrObjectNotExist):
		return &Refused{fmt.Sprintf("there is no bucket %s; check its name, or make it: `gcloud storage buckets create gs://%[1]s --location=REGION`", s.name), err}
	case errors.Is(err, storage.ErrObjectNotExist):
		return fmt.Errorf("%s: %w", where, blobs.ErrNotFound)
	case code == http.StatusUnauthorized:
		return &Refused{where + ": Cloud Storage does not know who asks; check the worker's service account", err}
	case code == http.StatusForbidden:
		return &Refused{where + ": not allowed; the worker needs roles/storage.objectUser on the bucket", err}
	}
	return fmt.Errorf("%s: %w", where, err)
}

// tell says once that Cloud Storage does not answer, and once that it does again.
func (s *Store) tell(err error) {
	if s.troubled.Swap(err != nil) == (err != nil) {
		return
	}
	if err != nil {
		s.log.Warn("Cloud Storage does not answer; trying again", "error", err, "patience", s.patience.String())
		return
	}
	s.log.Info("Cloud Storage answers again")
}

// Trouble is in a few words for people what is wrong with Cloud Storage; "": nothing.
func (s *Store) Trouble() string {
	if s.troubled.Load() {
		return "Cloud Storage does not answer"
	}
	return ""
}

func (s *Store) url(name string) string { return fmt.Sprintf("gs://%s/%s%s", s.name, s.prefix, name) }

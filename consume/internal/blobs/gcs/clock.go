package gcs

import (
	"context"
	"errors"
	"net/http"
	"time"

	"google.golang.org/api/googleapi"
)

const (
	// clocks that are kept by NTP are closer to each other than this.
	clocks = time.Second
	// dateStep is what a Date may leave out.
	dateStep = time.Second
	// nothing is an object that is never there.
	nothing = "no-such-object"
)

// note learns what time it is by the service's clock. Only of answers that are errors does the client show the headers.
func (s *Store) note(err error) {
	var answer *googleapi.Error
	if !errors.As(err, &answer) || answer.Header.Get("Age") != "" {
		return
	}
	date, err := http.ParseTime(answer.Header.Get("Date"))
	if err != nil {
		return
	}
	own := time.Now()
	s.ahead.Store(int64(max(date.Add(-clocks).Sub(own), 0) + min(date.Add(dateStep+clocks).Sub(own), 0)))
	s.dated.Store(true)
}

// now is the present by the service's clock: what times of objects are compared with. Clocks of two machines are not.
func (s *Store) now(ctx context.Context) time.Time {
	if !s.dated.Load() {
		_, _ = s.facts(ctx, nothing)
	}
	return time.Now().Add(time.Duration(s.ahead.Load()))
}

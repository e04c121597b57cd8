package attempt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"sparkles.dev/consume/internal/blobs"
	"sparkles.dev/consume/internal/runner"
	"sparkles.dev/consume/internal/wire"
)

// Conclude judges how a program ended, stores what is to be kept, and gives the record. why is preempted or cancelled where this worker decided
// to end it, else empty. The log is the caller's to store.
func (f *Folder) Conclude(ctx context.Context, store blobs.Blobs, ended runner.Ended, memory int64, why wire.FailureClass, started time.Time) wire.Attempt {
	full := DiskFull(f.Path)
	class, reason := Judge(ended, f.Plan.Spec, memory)
	switch why {
	case wire.FailurePreempted:
		class, reason = why, "ended because its worker was stopped"
	case wire.FailureCancelled:
		class, reason = why, "cancelled while it ran"
	}
	var results *string
	var artifacts []wire.Artifact
	err := func() error {
		if class != wire.NoFailure && class != wire.FailureExit {
			return nil
		}
		var err error
		if results, err = f.ReadResults(); err != nil {
			return err
		}
		if class == wire.NoFailure && len(f.Plan.Spec.Outputs) > 0 {
			artifacts, err = f.CollectOutputs(ctx, store)
		}
		return err
	}()
	var failed *Failed
	if errors.As(err, &failed) && class == wire.NoFailure {
		class, reason, results, artifacts = failed.Class, failed.Reason, nil, nil
	}
	return f.record(class, reason, ended, results, artifacts, full, started)
}

// NotStarted is the record of an attempt that failed without a program having run.
func (f *Folder) NotStarted(class wire.FailureClass, reason string, code *int, started time.Time) wire.Attempt {
	return f.record(class, reason, runner.Ended{ExitCode: code}, nil, nil, false, started)
}

func (f *Folder) record(
	class wire.FailureClass, reason string, ended runner.Ended, results *string, artifacts []wire.Artifact, full bool, started time.Time,
) wire.Attempt {
	tail := ""
	if class != wire.NoFailure {
		tail = f.tail()
		// A program that passes over a refused write fails by what is missing of its outputs.
		lacking := class == wire.FailureOutput && DiskFull(f.Path)
		if lacking || class == wire.FailureExit && (full || saidFull(tail)) {
			class, reason = wire.FailureDisk, fmt.Sprintf("%s: no space is left on the device of %s", reason, f.Path)
		}
	}
	return wire.Attempt{
		Ref:             f.Claim.Ref,
		Token:           f.Claim.Token,
		Worker:          f.Claim.Worker,
		Failure:         class,
		ExitCode:        ended.ExitCode,
		Signal:          ended.Signal,
		Reason:          reason,
		StartedAtMS:     started.UnixMilli(),
		EndedAtMS:       time.Now().UnixMilli(),
		CPUS:            ended.CPUS,
		PeakMemoryBytes: ended.PeakMemoryBytes,
		Results:         results,
		Outputs:         artifacts,
		Tail:            tail,
	}
}

// tail gives the last lines of the log as text for people, without reading the rest and without the job's secrets; "" where the task put
// something else in its place.
func (f *Folder) tail() string {
	file, err := os.OpenFile(f.LogPath(), os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return ""
	}
	defer file.Close()
	facts, err := file.Stat()
	if err != nil || !facts.Mode().IsRegular() {
		return ""
	}
	wanted := int64(tailBytes)
	if secrets := f.Plan.secrets; len(secrets) > 0 {
		wanted += int64(len(secrets[0])) // a value that begins before the last lines is found whole
	}
	data, err := io.ReadAll(io.NewSectionReader(file, max(0, facts.Size()-wanted), wanted))
	if err != nil {
		return ""
	}
	for _, secret := range f.Plan.secrets {
		if len(secret) >= secretFrom {
			data = bytes.ReplaceAll(data, []byte(secret), []byte("***"))
		}
	}
	return TailText(data[max(0, len(data)-tailBytes):])
}

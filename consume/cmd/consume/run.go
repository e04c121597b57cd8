//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"sparkles.dev/consume/internal/blobs/gcs"
	"sparkles.dev/consume/internal/jobstore/datastore"
	"sparkles.dev/consume/internal/notify"
	"sparkles.dev/consume/internal/runner"
	"sparkles.dev/consume/internal/supervise"
	"sparkles.dev/consume/internal/wire"
	"sparkles.dev/consume/internal/worker"
)

// supervised is `consume run`: this process looks after another of the same program, which does the work.
func supervised(args []string) int {
	if !supervise.Supervised() {
		// The flags are checked here, so that a mistake in them is told at once and once.
		if _, code := parseRun(args[1:]); code >= 0 {
			return code
		}
		if code := supervise.Run(args); code != goPanic {
			return code
		}
		return exitBug
	}
	o, code := parseRun(args[1:])
	if code >= 0 {
		return code
	}
	if o.memory == 0 {
		o.memory = runner.MachineMemory()
	}
	return run(o)
}

// goPanic is what a Go program ends with after a panic. The flags were checked before: nothing else gives it.
const goPanic = 2

// topicOf is the topic, or none where emulators stand for the other services and none for Pub/Sub: what is tried here is not told there.
func topicOf(o options) string {
	if os.Getenv("DATASTORE_EMULATOR_HOST") != "" && os.Getenv("STORAGE_EMULATOR_HOST") != "" && os.Getenv("PUBSUB_EMULATOR_HOST") == "" {
		return ""
	}
	return o.topic
}

// run serves a pool until it is over.
func run(o options) int {
	var handler slog.Handler = slog.NewJSONHandler(os.Stderr, nil)
	if o.textLog {
		handler = slog.NewTextHandler(os.Stderr, nil)
	}
	log := slog.New(handler).With("worker", o.id)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	objects, err := gcs.Open(ctx, gcs.Options{Bucket: o.bucket, Prefix: o.prefix, EmulatorHost: os.Getenv("STORAGE_EMULATOR_HOST"), Log: log})
	if err != nil {
		return fail(log, fmt.Errorf("connect to Cloud Storage: %w", err))
	}
	defer objects.Close()
	events, err := notify.Open(ctx, notify.Options{
		Project: o.project, Topic: topicOf(o), Installation: o.namespace, EmulatorHost: os.Getenv("PUBSUB_EMULATOR_HOST"), Log: log,
	})
	if err != nil {
		log.Warn("no events are published", "error", err)
	}
	defer events.Close()
	store, err := datastore.Open(ctx, datastore.Options{
		Project: o.project, Database: o.database, Namespace: o.namespace, EmulatorHost: os.Getenv("DATASTORE_EMULATOR_HOST"), Log: log,
	}, objects, func(event wire.Event) { events.Publish(ctx, event) }, version)
	if err != nil {
		return fail(log, fmt.Errorf("connect to Datastore: %w", err))
	}
	defer store.Close()

	programs := runner.New(o.grace, 500*time.Millisecond)
	defer programs.Close()
	host, _ := os.Hostname()
	w := &worker.Worker{
		Config: worker.Config{
			Worker: wire.Worker{
				ID: o.id, Pool: o.pool, Process: runner.ThisProcess(host), StartedAtMS: time.Now().UnixMilli(),
			},
			CPU: o.cpu, Memory: o.memory, Work: o.work + "/" + o.id, Linger: o.linger, UntilEmpty: o.untilEmpty,
			Beat: o.beat, Look: o.look, Lease: o.lease,
		},
		Store: store, Blobs: objects, Runner: programs, Log: log, Environ: os.Environ(), Trouble: objects.Trouble, Refused: refused,
	}
	w.Init()
	defer os.RemoveAll(w.Work)
	terminated := listen(w, o.driverFD, log)
	if err := w.Run(ctx); err != nil {
		return fail(log, err)
	}
	if terminated() {
		return exitTerminated
	}
	return exitDrained
}

// listen turns signals and the ends of pipes into what the worker does. It returns whether SIGTERM came.
func listen(w *worker.Worker, driverFD int, log *slog.Logger) func() bool {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	terminated := make(chan struct{})
	go func() {
		told := false
		for each := range signals {
			switch each {
			case syscall.SIGTERM:
				if !told {
					close(terminated)
					told = true
				}
				w.Stop()
			case syscall.SIGINT:
				w.Interrupt()
			case syscall.SIGHUP:
				w.Drain()
			}
		}
	}()
	if driverFD >= 0 {
		go func() {
			_, _ = io.Copy(io.Discard, os.NewFile(uintptr(driverFD), "driver"))
			log.Info("the driver is gone: what runs is finished, nothing new is started")
			w.Drain()
		}()
	}
	go func() {
		supervise.WaitForSupervisor()
		log.Error("the supervising process is gone: what runs is ended")
		w.Stop()
	}()
	return func() bool {
		select {
		case <-terminated:
			return true
		default:
			return false
		}
	}
}

// refused tells whether a service will not do it until somebody changes something.
func refused(err error) bool { return datastore.IsConfiguration(err) || gcs.IsConfiguration(err) }

// fail tells an error and gives the exit code that it means.
func fail(log *slog.Logger, err error) int {
	log.Error("ended", "error", err)
	var path *fs.PathError
	folder := errors.As(err, &path) && !errors.Is(err, syscall.ENOSPC) // one for scratch directories that cannot be made
	if folder || worker.Hopeless(err) || refused(err) {
		return exitConfiguration
	}
	return exitTransient
}

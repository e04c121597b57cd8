package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
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

// Exit codes (README.md).
const (
	exitDrained       = 0
	exitUsage         = 2
	exitBug           = 70
	exitTransient     = 75
	exitConfiguration = 78
	exitTerminated    = 143
)

// options are what `consume run` is told, by flags or by SPARKLES_ variables.
type options struct {
	project, database, namespace, bucket, prefix, topic string
	pool, id, work                                      string
	cpu                                                 float64
	memory                                              int64
	linger, lease, beat, look, grace                    time.Duration
	untilEmpty, textLog                                 bool
	driverFD                                            int
}

// parseRun reads the flags; the code is -1 where they are right.
func parseRun(args []string) (options, int) {
	var o options
	flags := flag.NewFlagSet("consume run", flag.ContinueOnError)
	text := func(target *string, name, fallback, help string) {
		flags.StringVar(target, name, variable(name, fallback), help)
	}
	text(&o.project, "project", "", "Google Cloud `project`")
	text(&o.database, "database", "(default)", "Datastore `database`")
	text(&o.namespace, "namespace", "sparkles", "Datastore `namespace` of the installation")
	text(&o.bucket, "bucket", "", "Cloud Storage `bucket`")
	text(&o.prefix, "prefix", "sparkles/", "`prefix` of the installation's objects in the bucket")
	text(&o.topic, "topic", "sparkles", "Pub/Sub `topic` for events; empty: none are published")
	text(&o.pool, "pool", "", "`pool` to serve")
	text(&o.id, "id", "", "this worker's `id`, used by no other")
	text(&o.work, "work", "", "`folder` for scratch directories, this worker's own below it")
	flags.Float64Var(&o.cpu, "cpu", 0, "`cores` that tasks may use together (default: this machine's)")
	flags.Int64Var(&o.memory, "memory", 0, "`bytes` of memory that tasks may use together (default: this machine's or container's)")
	flags.DurationVar(&o.linger, "linger", 0, "how long to stay with nothing to do (default: until told to leave)")
	flags.DurationVar(&o.lease, "lease", time.Minute, "how long a heartbeat may stand still before a worker counts as dead")
	flags.DurationVar(&o.beat, "beat", 0, "time between heartbeats (default: a sixth of the lease)")
	flags.DurationVar(&o.look, "look", 3*time.Second, "time between looks at whether claims were taken away")
	flags.DurationVar(&o.grace, "grace", 5*time.Second, "time between SIGTERM and SIGKILL for a program that is ended")
	flags.BoolVar(&o.untilEmpty, "until-empty", false, "leave as soon as nothing is pending")
	flags.BoolVar(&o.textLog, "text", false, "the log as text instead of JSON")
	flags.IntVar(&o.driverFD, "driver-fd", -1, "descriptor of a pipe whose end of file means that the driver is gone: finish what runs and leave")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, 0
		}
		return o, exitUsage
	}
	var missing []string
	for name, value := range map[string]string{"project": o.project, "bucket": o.bucket, "pool": o.pool, "id": o.id, "work": o.work} {
		if value == "" {
			missing = append(missing, "-"+name)
		}
	}
	if len(missing) > 0 || flags.NArg() > 0 {
		if len(missing) > 0 {
			fmt.Fprintf(os.Stderr, "consume run: needs %s\n", strings.Join(missing, ", "))
		} else {
			fmt.Fprintf(os.Stderr, "consume run: unexpected argument %q\n", flags.Arg(0))
		}
		return o, exitUsage
	}
	if o.beat <= 0 {
		o.beat = o.lease / 6
	}
	cores, memory := machine()
	if o.cpu <= 0 {
		o.cpu = cores
	}
	if o.memory <= 0 {
		o.memory = memory
	}
	return o, -1
}

// variable gives the SPARKLES_ variable of a flag, else what it falls back on.
func variable(name, fallback string) string {
	if value, set := os.LookupEnv("SPARKLES_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))); set {
		return value
	}
	return fallback
}

// run serves a pool until it is over.
func run(args []string) int {
	o, code := parseRun(args)
	if code >= 0 {
		return code
	}
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
		Project: o.project, Topic: o.topic, Installation: o.namespace, EmulatorHost: os.Getenv("PUBSUB_EMULATOR_HOST"), Log: log,
	})
	if err != nil {
		log.Warn("no events are published", "error", err)
	}
	defer events.Close()
	store, err := datastore.Open(ctx, datastore.Options{
		Project: o.project, Database: o.database, Namespace: o.namespace, EmulatorHost: os.Getenv("DATASTORE_EMULATOR_HOST"),
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
		Store: store, Blobs: objects, Runner: programs, Log: log, Environ: os.Environ(),
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

// fail tells an error and gives the exit code that it means.
func fail(log *slog.Logger, err error) int {
	log.Error("ended", "error", err)
	if worker.Hopeless(err) || datastore.IsConfiguration(err) || gcs.IsConfiguration(err) {
		return exitConfiguration
	}
	return exitTransient
}

// machine is the cores that this process may use, and the memory of this machine or of the container that it is in.
func machine() (float64, int64) {
	memory := int64(1) << 40
	if data, err := os.ReadFile("/proc/meminfo"); err == nil {
		for line := range strings.SplitSeq(string(data), "\n") {
			if rest, found := strings.CutPrefix(line, "MemTotal:"); found {
				if kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64); err == nil {
					memory = kilobytes * 1024
				}
			}
		}
	}
	for _, path := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if data, err := os.ReadFile(path); err == nil {
			if limit, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil {
				memory = min(memory, limit)
			}
		}
	}
	return float64(runtime.NumCPU()), memory
}

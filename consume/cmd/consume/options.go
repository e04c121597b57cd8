package main

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
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

// parseRun reads the flags; the code is -1 where they are right. What is no flag, or no number where one is expected, is a mistake in the call
// (exitUsage); a value that cannot work is one of the configuration.
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
	flags.BoolVar(&o.untilEmpty, "until-empty", false, "leave as soon as nothing is pending, and not with the driver")
	flags.BoolVar(&o.textLog, "text", false, "the log as text instead of JSON")
	flags.IntVar(&o.driverFD, "driver-fd", -1, "descriptor of a pipe whose end of file means that the driver is gone: finish what runs and leave")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, 0
		}
		return o, exitUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "consume run: unexpected argument %q\n", flags.Arg(0))
		return o, exitUsage
	}
	if problem := o.problem(); problem != "" {
		fmt.Fprintf(os.Stderr, "consume run: %s\n", problem)
		return o, exitConfiguration
	}
	if o.untilEmpty {
		o.driverFD = -1 // it outlives the driver
	}
	if o.beat == 0 {
		o.beat = o.lease / 6
	}
	if o.cpu == 0 {
		o.cpu = float64(runtime.NumCPU())
	}
	return o, -1
}

// leastLease leaves time for a heartbeat.
const leastLease = 100 * time.Millisecond

// idPattern: the id is the name of a folder and of an entity.
var idPattern = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]{0,199}$`)

// problem says which value cannot work, or "".
func (o options) problem() string {
	var missing []string
	for name, value := range map[string]string{"project": o.project, "bucket": o.bucket, "pool": o.pool, "id": o.id, "work": o.work} {
		if value == "" {
			missing = append(missing, fmt.Sprintf("-%s (or SPARKLES_%s)", name, strings.ToUpper(name)))
		}
	}
	slices.Sort(missing)
	switch {
	case len(missing) > 0:
		return "needs " + strings.Join(missing, ", ")
	case !idPattern.MatchString(o.id):
		return fmt.Sprintf("-id: expected letters, digits, '.', '_' and '-', found %q", o.id)
	case math.IsNaN(o.cpu) || math.IsInf(o.cpu, 0) || o.cpu < 0:
		return fmt.Sprintf("-cpu: expected a number of cores above 0, or 0 for this machine's, found %g", o.cpu)
	case o.memory < 0:
		return fmt.Sprintf("-memory: expected bytes above 0, or 0 for this machine's, found %d", o.memory)
	case o.lease < leastLease:
		return fmt.Sprintf("-lease: expected %s or more, found %s", leastLease, o.lease)
	case o.beat < 0:
		return fmt.Sprintf("-beat: expected 0s (a sixth of the lease) or more, found %s", o.beat)
	case o.look <= 0:
		return fmt.Sprintf("-look: expected more than 0s, found %s", o.look)
	case o.linger < 0:
		return fmt.Sprintf("-linger: expected 0s (until told to leave) or more, found %s", o.linger)
	case o.grace < 0:
		return fmt.Sprintf("-grace: expected 0s or more, found %s", o.grace)
	}
	return ""
}

// variable gives the SPARKLES_ variable of a flag, else what it falls back on.
func variable(name, fallback string) string {
	if value, set := os.LookupEnv("SPARKLES_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))); set {
		return value
	}
	return fallback
}

// Command claimer claims tasks as so many workers, for tests in which both languages claim from the same job (tests/google). It runs no
// programs and is no part of what is installed.
//
// Each line that it prints is a claim: {"job", "index", "token", "worker", "began_ms", "ended_ms"}. It ends when nothing is pending.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sparkles.dev/consume/internal/blobs/gcs"
	"sparkles.dev/consume/internal/jobstore/datastore"
	"sparkles.dev/consume/internal/wire"
)

type line struct {
	Job     string `json:"job"`
	Index   int    `json:"index"`
	Token   string `json:"token"`
	Worker  string `json:"worker"`
	BeganMS int64  `json:"began_ms"`
	EndedMS int64  `json:"ended_ms"`
}

type options struct {
	project, database, namespace, bucket, prefix, pool, name string
	claimers, limit                                          int
	hold                                                     time.Duration
	finish                                                   bool
	faults                                                   float64
}

func main() {
	var o options
	flag.StringVar(&o.project, "project", "", "")
	flag.StringVar(&o.database, "database", "(default)", "")
	flag.StringVar(&o.namespace, "namespace", "", "")
	flag.StringVar(&o.bucket, "bucket", "", "")
	flag.StringVar(&o.prefix, "prefix", "", "")
	flag.StringVar(&o.pool, "pool", "", "")
	flag.StringVar(&o.name, "name", "go", "what the workers' ids begin with")
	flag.IntVar(&o.claimers, "claimers", 1, "")
	flag.IntVar(&o.limit, "limit", 4, "tasks claimed at once")
	flag.DurationVar(&o.hold, "hold", 0, "how long each claim is kept before it is finished")
	flag.BoolVar(&o.finish, "finish", false, "record success of what was claimed")
	flag.Float64Var(&o.faults, "faults", 0, "which part of all commits fails, before or after the server has carried it out")
	flag.Parse()
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "claimer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	objects, err := gcs.Open(ctx, gcs.Options{Bucket: o.bucket, Prefix: o.prefix, EmulatorHost: os.Getenv("STORAGE_EMULATOR_HOST")})
	if err != nil {
		return err
	}
	defer objects.Close()
	var group sync.WaitGroup
	failures := make(chan error, o.claimers)
	out := json.NewEncoder(os.Stdout)
	var mutex sync.Mutex
	for number := range o.claimers {
		store, err := datastore.Open(ctx, datastore.Options{
			Project: o.project, Database: o.database, Namespace: o.namespace, EmulatorHost: os.Getenv("DATASTORE_EMULATOR_HOST"),
			Dial: []grpc.DialOption{grpc.WithUnaryInterceptor(o.fail)},
		}, objects, nil, "claimer")
		if err != nil {
			return err
		}
		defer store.Close()
		group.Go(func() {
			failures <- claim(ctx, o, store, fmt.Sprintf("%s-%d", o.name, number), func(each line) error {
				mutex.Lock()
				defer mutex.Unlock()
				return out.Encode(each)
			})
		})
	}
	group.Wait()
	for range o.claimers {
		if err := <-failures; err != nil {
			return err
		}
	}
	return nil
}

// fail lets commits fail by chance.
func (o options) fail(
	ctx context.Context, method string, request, answer any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker, more ...grpc.CallOption,
) error {
	if !strings.HasSuffix(method, "/Commit") || rand.Float64() >= o.faults {
		return invoke(ctx, method, request, answer, connection, more...)
	}
	before := []codes.Code{codes.Aborted, codes.Unavailable}
	after := []codes.Code{codes.Unavailable, codes.DeadlineExceeded}
	if rand.N(2) == 0 {
		return status.Error(before[rand.N(len(before))], "made by a test")
	}
	if err := invoke(ctx, method, request, answer, connection, more...); err != nil {
		return err
	}
	return status.Error(after[rand.N(len(after))], "made by a test")
}

func claim(ctx context.Context, o options, store *datastore.Store, id string, tell func(line) error) error {
	if err := store.EnterWorker(ctx, wire.Worker{ID: id, Pool: o.pool, StartedAtMS: time.Now().UnixMilli()}); err != nil {
		return err
	}
	for {
		claims, err := store.Claim(ctx, id, o.pool, o.limit, time.Now().UnixMilli())
		if err != nil {
			return err
		}
		if len(claims) == 0 {
			if _, found, err := store.NextDue(ctx, o.pool); err != nil || !found {
				return err
			}
			time.Sleep(10 * time.Millisecond)
			continue
		}
		began := time.Now().UnixMilli()
		time.Sleep(o.hold)
		ended := time.Now().UnixMilli()
		if o.finish {
			finishes := make([]wire.Finish, len(claims))
			for place, each := range claims {
				finishes[place] = wire.Finish{
					Attempt: wire.Attempt{Ref: each.Ref, Token: each.Token, Worker: id}, State: wire.Succeeded, Tries: each.Tries + 1,
				}
			}
			if _, err := store.Finish(ctx, finishes, nil); err != nil {
				return err
			}
		}
		for _, each := range claims {
			if err := tell(line{each.Ref.Job, each.Ref.Index, each.Token, id, began, ended}); err != nil {
				return err
			}
		}
	}
}

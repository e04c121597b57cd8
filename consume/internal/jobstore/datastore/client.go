package datastore

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	pb "cloud.google.com/go/datastore/apiv1/datastorepb"
	"google.golang.org/api/option"
	transport "google.golang.org/api/transport/grpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	endpoint = "datastore.googleapis.com:443"
	scope    = "https://www.googleapis.com/auth/datastore"

	// lookupKeys: the API takes 1,000 keys; answers of half of that stay small.
	lookupKeys = 500
	// messageBytes: an answer of 64 shards of the largest size.
	messageBytes = 80 << 20

	callTime     = 20 * time.Second
	patience     = 5 * time.Minute
	leastPause   = 50 * time.Millisecond
	mostPause    = 2 * time.Second
	resolveAfter = 5 * time.Second
	toldAfter    = 5 * time.Second

	// clocks that are kept by NTP are closer to each other than this.
	clocks = time.Second

	gap = 5 * time.Second
	// mostReconnect: after minutes of failures gRPC would wait two more before it connects again.
	mostReconnect = 5 * time.Second
)

// Options say where the store is.
type Options struct {
	Project   string
	Database  string // "" or "(default)": the default one
	Namespace string
	// EmulatorHost (DATASTORE_EMULATOR_HOST) is host:port of an emulator, spoken to without credentials; "": the service.
	EmulatorHost string
	// Patience is how long a call is tried again before it fails, where trying again can help; 0: 5 minutes.
	Patience time.Duration
	// Gap is after how long an answer shows that the service was away, so that nobody's heartbeat could reach it; 0: 5 seconds.
	Gap time.Duration
	// Now is this machine's clock; nil: time.Now.
	Now func() time.Time
	// Log is told when Datastore does not answer; nil: nobody is.
	Log *slog.Logger
	// ToldAfter is how long it may not answer before that; 0: 5 seconds.
	ToldAfter time.Duration
	// Dial is added to the connection's options.
	Dial []grpc.DialOption
}

// entity is one entity: its document, the indexed properties, and the version that a compare-and-set is based on.
type entity struct {
	kind, name string
	document   []byte
	texts      map[string]string
	lists      map[string][]string
	version    int64
	// age is how long ago it was written, by the server's own clock at the time it was read; known: whether the server says.
	age   time.Duration
	known bool
}

// client is one namespace of one database, by the generated client: the high-level one hides base_version and conflict resolution.
type client struct {
	options    Options
	connection *grpc.ClientConn
	service    pb.DatastoreClient
	began      time.Time
	// answeredAt is nanoseconds after began: the machine's clock may be set.
	answeredAt atomic.Int64
	troubled   atomic.Bool
	// backSince is when a call was last answered after a gap; nil: none was.
	backSince atomic.Pointer[time.Time]
	ahead     atomic.Int64
}

// aheadMS is how much later it is by the server's clock than by this machine's; 0 within clocks, and where the server does not say. What
// several machines compare with their present is written by the server's clock.
func (c *client) aheadMS() int64 { return c.ahead.Load() }

// compareClocks takes the server's time of an answer. It was read between the question and now: within that no difference can be told.
func (c *client) compareClocks(asked time.Time, read *timestamppb.Timestamp) {
	if !stamped(read) {
		return
	}
	earliest, latest, at := asked.Add(-clocks), c.options.Now().Add(clocks), read.AsTime()
	switch {
	case at.Before(earliest):
		c.ahead.Store(-earliest.Sub(at).Milliseconds())
	case at.After(latest):
		c.ahead.Store(at.Sub(latest).Milliseconds())
	default:
		c.ahead.Store(0)
	}
}

func dial(ctx context.Context, options Options) (*client, error) {
	if options.Database == "(default)" {
		options.Database = ""
	}
	if options.Patience == 0 {
		options.Patience = patience
	}
	if options.Gap == 0 {
		options.Gap = gap
	}
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	if options.ToldAfter == 0 {
		options.ToldAfter = toldAfter
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	alive := grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second})
	size := grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytes))
	again := backoff.DefaultConfig
	again.MaxDelay = mostReconnect
	reconnect := grpc.WithConnectParams(grpc.ConnectParams{Backoff: again, MinConnectTimeout: callTime})
	dialing := append([]grpc.DialOption{alive, size, reconnect}, options.Dial...)
	var connection *grpc.ClientConn
	var err error
	if options.EmulatorHost != "" {
		dialing = append(dialing, grpc.WithTransportCredentials(insecure.NewCredentials()))
		connection, err = grpc.NewClient(options.EmulatorHost, dialing...)
	} else {
		made := []option.ClientOption{option.WithEndpoint(endpoint), option.WithScopes(scope)}
		for _, each := range dialing {
			made = append(made, option.WithGRPCDialOption(each))
		}
		connection, err = transport.Dial(ctx, made...)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to Datastore of project %s: %w", options.Project, err)
	}
	return &client{options: options, connection: connection, service: pb.NewDatastoreClient(connection), began: time.Now()}, nil
}

func (c *client) key(kind, name string) *pb.Key {
	return &pb.Key{
		PartitionId: c.partition(),
		Path:        []*pb.Key_PathElement{{Kind: kind, IdType: &pb.Key_PathElement_Name{Name: name}}},
	}
}

func (c *client) partition() *pb.PartitionId {
	return &pb.PartitionId{ProjectId: c.options.Project, DatabaseId: c.options.Database, NamespaceId: c.options.Namespace}
}

// Calls

// retryable tells whether the same call can go better a moment later.
func retryable(code codes.Code) bool {
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted, codes.Internal, codes.ResourceExhausted, codes.Unknown, codes.Canceled:
		return true
	}
	return false
}

// canHelp tells whether the same call can go better a moment later. A login's own service that is away is no login that was refused.
func canHelp(err error) bool { return retryable(status.Code(err)) || noToken(err) && !loginOver(err) }

// noToken and loginOver read the text: gRPC keeps nothing else of why there is no token.
func noToken(err error) bool {
	return status.Code(err) == codes.Unauthenticated && strings.Contains(err.Error(), "per-RPC creds failed")
}

func loginOver(err error) bool { return noToken(err) && refusedLogin.MatchString(err.Error()) }

var refusedLogin = regexp.MustCompile(`invalid_(grant|client|rapt)|unauthorized_client|cannot fetch token: 40[013]\b`)

// nativeMode tells whether the database is of the type that Datastore's interface does not serve.
func nativeMode(err error) bool {
	code := status.Code(err)
	return (code == codes.FailedPrecondition || code == codes.InvalidArgument) && strings.Contains(strings.ToLower(err.Error()), "native mode")
}

// explain says what to do, where somebody has to do something.
func explain(err error) error {
	switch {
	case loginOver(err):
		return fmt.Errorf("the login is over; run `gcloud auth application-default login` again, or check the service account's key: %w", err)
	case nativeMode(err):
		return fmt.Errorf("the database is of the wrong type: Firestore in native mode, expected Datastore mode; make another one"+
			" (`gcloud firestore databases create --type=datastore-mode`), and set google.database: %w", err)
	}
	return err
}

// trying calls again while that can help and ctx lives, for the client's patience. Where nothing is answered for a while that is told at once.
func (c *client) trying(ctx context.Context, what string, call func(ctx context.Context) error) error {
	began := time.Now()
	pause := leastPause
	for {
		err := c.watched(ctx, began, call)
		if err == nil {
			c.answered()
			if time.Since(began) > c.options.Gap {
				now := time.Now()
				c.backSince.Store(&now)
			}
			return nil
		}
		if status.Code(err) == codes.Aborted {
			c.answered() // somebody else was faster
		}
		if ctx.Err() == nil && !canHelp(err) {
			c.answered()
			return fmt.Errorf("%s: %w", what, explain(err))
		}
		if ctx.Err() != nil || time.Since(began)+pause > c.options.Patience {
			return fmt.Errorf("%s: %w", what, err)
		}
		if err := rest(ctx, pause); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		pause = min(2*pause, mostPause)
	}
}

// watched is once that tells when nothing is answered while it lasts.
func (c *client) watched(ctx context.Context, began time.Time, call func(ctx context.Context) error) error {
	inner, cancel := context.WithCancel(ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			silent := min(time.Since(began), time.Since(c.began)-time.Duration(c.answeredAt.Load()))
			if silent >= c.options.ToldAfter {
				c.tell(true)
				return
			}
			select {
			case <-inner.Done():
				return
			case <-time.After(c.options.ToldAfter - silent):
			}
		}
	}()
	err := c.once(ctx, call)
	cancel()
	<-over
	return err
}

func (c *client) answered() {
	c.answeredAt.Store(int64(time.Since(c.began)))
	c.tell(false)
}

// tell says once that Datastore does not answer, and once that it does again.
func (c *client) tell(away bool) {
	if c.troubled.Swap(away) == away {
		return
	}
	if away {
		c.options.Log.Warn("Datastore does not answer; trying again", "patience", c.options.Patience.String())
	} else {
		c.options.Log.Info("Datastore answers again")
	}
}

// answersFor is how long the service has answered without a gap, as far as this client has seen.
func (c *client) answersFor() time.Duration {
	if since := c.backSince.Load(); since != nil {
		return time.Since(*since)
	}
	return math.MaxInt64
}

func (c *client) once(ctx context.Context, call func(ctx context.Context) error) error {
	route := "project_id=" + c.options.Project
	if c.options.Database != "" {
		route += "&database_id=" + c.options.Database
	}
	limited, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, "x-goog-request-params", route), callTime)
	defer cancel()
	return call(limited)
}

// rest waits a random part of pause, so that those who met do not meet again.
func rest(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause/2 + rand.N(pause/2+1))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// Reading

// lookup is those of names that exist.
func (c *client) lookup(ctx context.Context, kind string, names []string) (map[string]*entity, error) {
	found := make(map[string]*entity, len(names))
	var keys []*pb.Key
	for _, name := range names {
		keys = append(keys, c.key(kind, name))
	}
	for len(keys) > 0 {
		piece := keys[:min(lookupKeys, len(keys))]
		var answer *pb.LookupResponse
		err := c.trying(ctx, "look up "+kind, func(ctx context.Context) (err error) {
			asked := c.options.Now()
			answer, err = c.service.Lookup(ctx, &pb.LookupRequest{ProjectId: c.options.Project, DatabaseId: c.options.Database, Keys: piece})
			c.compareClocks(asked, answer.GetReadTime())
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, result := range answer.Found {
			each := read(kind, result, answer.ReadTime)
			found[each.name] = each
		}
		keys = append(answer.Deferred, keys[len(piece):]...)
	}
	return found, nil
}

// get is one entity, or nil.
func (c *client) get(ctx context.Context, kind, name string) (*entity, error) {
	found, err := c.lookup(ctx, kind, []string{name})
	if err != nil {
		return nil, err
	}
	return found[name], nil
}

// question is a query of one kind; all conditions hold.
type question struct {
	kind     string
	equal    [2]string // property and value
	above    [2]string // property and value, exclusive
	below    [2]string
	afterKey string // exclusive
	order    string // a property; "": by key
	limit    int    // 0: all
}

func (c *client) query(ctx context.Context, ask question) ([]*entity, error) {
	query := &pb.Query{Kind: []*pb.KindExpression{{Name: ask.kind}}}
	var filters []*pb.Filter
	add := func(property string, operator pb.PropertyFilter_Operator, value *pb.Value) {
		filters = append(filters, &pb.Filter{FilterType: &pb.Filter_PropertyFilter{PropertyFilter: &pb.PropertyFilter{
			Property: &pb.PropertyReference{Name: property}, Op: operator, Value: value,
		}}})
	}
	for _, each := range []struct {
		condition [2]string
		operator  pb.PropertyFilter_Operator
	}{
		{ask.equal, pb.PropertyFilter_EQUAL}, {ask.above, pb.PropertyFilter_GREATER_THAN}, {ask.below, pb.PropertyFilter_LESS_THAN},
	} {
		if each.condition[0] != "" {
			add(each.condition[0], each.operator, text(each.condition[1]))
		}
	}
	if ask.afterKey != "" {
		value := &pb.Value{ValueType: &pb.Value_KeyValue{KeyValue: c.key(ask.kind, ask.afterKey)}}
		add("__key__", pb.PropertyFilter_GREATER_THAN, value)
	}
	if len(filters) > 0 {
		query.Filter = &pb.Filter{FilterType: &pb.Filter_CompositeFilter{CompositeFilter: &pb.CompositeFilter{
			Op: pb.CompositeFilter_AND, Filters: filters,
		}}}
	}
	if ask.order != "" {
		query.Order = []*pb.PropertyOrder{{Property: &pb.PropertyReference{Name: ask.order}, Direction: pb.PropertyOrder_ASCENDING}}
	}
	var found []*entity
	for {
		if ask.limit > 0 {
			query.Limit = wrapperspb.Int32(int32(ask.limit - len(found)))
		}
		var answer *pb.RunQueryResponse
		err := c.trying(ctx, "query "+ask.kind, func(ctx context.Context) (err error) {
			asked := c.options.Now()
			answer, err = c.service.RunQuery(ctx, &pb.RunQueryRequest{
				ProjectId: c.options.Project, DatabaseId: c.options.Database, PartitionId: c.partition(),
				QueryType: &pb.RunQueryRequest_Query{Query: query},
			})
			c.compareClocks(asked, answer.GetBatch().GetReadTime())
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, result := range answer.Batch.EntityResults {
			found = append(found, read(ask.kind, result, answer.Batch.ReadTime))
		}
		if answer.Batch.MoreResults != pb.QueryResultBatch_NOT_FINISHED || ask.limit > 0 && len(found) >= ask.limit {
			return found, nil
		}
		query.StartCursor = answer.Batch.EndCursor
	}
}

func read(kind string, result *pb.EntityResult, readTime *timestamppb.Timestamp) *entity {
	found := &entity{kind: kind, name: result.Entity.Key.Path[0].GetName(), version: result.Version, texts: make(map[string]string)}
	for name, value := range result.Entity.Properties {
		switch {
		case name == "document":
			found.document = value.GetBlobValue()
		case value.GetStringValue() != "":
			found.texts[name] = value.GetStringValue()
		}
	}
	// The Datastore emulator leaves both out.
	if stamped(readTime) && stamped(result.UpdateTime) {
		found.age, found.known = readTime.AsTime().Sub(result.UpdateTime.AsTime()), true
	}
	return found
}

func stamped(stamp *timestamppb.Timestamp) bool { return stamp.GetSeconds() > 0 }

func text(value string) *pb.Value {
	return &pb.Value{ValueType: &pb.Value_StringValue{StringValue: value}}
}

// Writing

func (c *client) message(each *entity) *pb.Entity {
	properties := map[string]*pb.Value{
		"document": {ValueType: &pb.Value_BlobValue{BlobValue: each.document}, ExcludeFromIndexes: true},
	}
	for name, value := range each.texts {
		if value != "" {
			properties[name] = text(value)
		}
	}
	for name, values := range each.lists {
		if len(values) > 0 {
			list := &pb.ArrayValue{}
			for _, value := range values {
				list.Values = append(list.Values, text(value))
			}
			properties[name] = &pb.Value{ValueType: &pb.Value_ArrayValue{ArrayValue: list}}
		}
	}
	return &pb.Entity{Key: c.key(each.kind, each.name), Properties: properties}
}

// outcome is what became of a compare-and-set.
type outcome int

const (
	// applied: the entity is what was written.
	applied outcome = iota
	// refused: somebody else wrote before; nothing was changed.
	refused
	// unsure: an answer was lost and the version has moved on since: whoever asks looks at what is there now.
	unsure
)

// replace writes over the version that each has; on applied each.version is the new one. Where ctx ends while an answer is missing, the
// outcome is unsure together with the error.
func (c *client) replace(ctx context.Context, each *entity) (outcome, error) {
	return c.commit(ctx, each, &pb.Mutation{
		Operation:                  &pb.Mutation_Update{Update: c.message(each)},
		ConflictDetectionStrategy:  &pb.Mutation_BaseVersion{BaseVersion: each.version},
		ConflictResolutionStrategy: pb.Mutation_FAIL,
	})
}

// commit is one commit of one entity. The same request can be sent again after a lost answer: at most one of them is applied.
func (c *client) commit(ctx context.Context, each *entity, mutation *pb.Mutation) (outcome, error) {
	unanswered := false
	result := refused
	err := c.trying(ctx, fmt.Sprintf("write %s %s", each.kind, each.name), func(ctx context.Context) error {
		answer, err := c.service.Commit(ctx, c.request(mutation))
		switch code := status.Code(err); {
		case err == nil:
			// conflict_detected comes from a server that does not know FAIL.
			if answer.MutationResults[0].ConflictDetected {
				return nil
			}
			each.version = answer.MutationResults[0].Version
			result = applied
			return nil
		case nativeMode(err):
			return err
		case code == codes.FailedPrecondition, code == codes.NotFound, code == codes.AlreadyExists:
			if unanswered {
				result = unsure
			}
			return nil
		case code == codes.Aborted && !unanswered:
			return nil
		case code != codes.ResourceExhausted && code != codes.Aborted:
			unanswered = true
			return err
		default:
			return err
		}
	})
	if err != nil && unanswered {
		return unsure, err
	}
	return result, err
}

// upsert writes an entity, whatever is there.
func (c *client) upsert(ctx context.Context, each *entity) error {
	return c.change(ctx, each, &pb.Mutation{Operation: &pb.Mutation_Upsert{Upsert: c.message(each)}})
}

// remove removes an entity; harmless where there is none.
func (c *client) remove(ctx context.Context, kind, name string) error {
	return c.change(ctx, &entity{kind: kind, name: name}, &pb.Mutation{Operation: &pb.Mutation_Delete{Delete: c.key(kind, name)}})
}

func (c *client) change(ctx context.Context, each *entity, mutation *pb.Mutation) error {
	return c.trying(ctx, fmt.Sprintf("write %s %s", each.kind, each.name), func(ctx context.Context) error {
		_, err := c.service.Commit(ctx, c.request(mutation))
		return err
	})
}

func (c *client) request(mutation *pb.Mutation) *pb.CommitRequest {
	return &pb.CommitRequest{
		ProjectId: c.options.Project, DatabaseId: c.options.Database, Mode: pb.CommitRequest_NON_TRANSACTIONAL,
		Mutations: []*pb.Mutation{mutation},
	}
}

// settling is a context for finding out what became of a write whose caller is leaving.
func settling(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), resolveAfter)
}

// IsConfiguration tells whether an error is about what the worker was told or may do, and not about the service: trying again does not help.
func IsConfiguration(err error) bool {
	switch status.Code(err) {
	case codes.NotFound, codes.PermissionDenied, codes.InvalidArgument:
		return true
	case codes.Unauthenticated:
		return !noToken(err) || loginOver(err)
	}
	return nativeMode(err)
}

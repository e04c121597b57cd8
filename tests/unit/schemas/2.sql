-- The database that sparkles 0.1.0 makes (schema 2), with a row in each table. Saved once; never edited.

CREATE TABLE migrations (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    sparkles TEXT NOT NULL, -- the version that applied it
    applied_at_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE runs (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, -- newest = greatest: the wall clock may jump
    id TEXT NOT NULL UNIQUE,
    workflow TEXT NOT NULL,
    args TEXT NOT NULL, -- canonical JSON
    seed INTEGER NOT NULL,
    driver TEXT, -- model.ProcessId as canonical JSON; NULL where nobody drives it
    created_at_ms INTEGER NOT NULL,
    ended_at_ms INTEGER,
    error TEXT NOT NULL,
    workflow_digest TEXT NOT NULL,
    beat_ms INTEGER NOT NULL,
    forked_from TEXT NOT NULL -- an id, which may outlive its run; '' where it is no fork
, state TEXT NOT NULL DEFAULT 'running'
    CHECK (state IN ('running', 'succeeded', 'failed', 'interrupted', 'cancelled'))) STRICT;

CREATE TABLE steps (
    run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    strand TEXT NOT NULL,
    kind TEXT NOT NULL,
    digest TEXT NOT NULL,
    occurrence INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('started', 'done')),
    parts TEXT NOT NULL, -- canonical JSON
    position TEXT NOT NULL,
    value TEXT, -- canonical JSON
    error INTEGER NOT NULL,
    started_at_ms INTEGER NOT NULL,
    ended_at_ms INTEGER,
    UNIQUE (digest, run, occurrence, kind, strand) -- digest first: it tells steps apart at the first comparison
) STRICT;

CREATE TABLE jobs (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    pool TEXT NOT NULL,
    held INTEGER NOT NULL,
    open INTEGER NOT NULL, -- 0 only where no task is pending; a claim that finds none clears it
    priority INTEGER NOT NULL,
    parallelism INTEGER,
    max_failures INTEGER,
    count INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    spec BLOB NOT NULL -- model.JobSpec as JSON
) STRICT;

CREATE TABLE tasks (
    job INTEGER NOT NULL REFERENCES jobs (sequence) ON DELETE CASCADE,
    idx INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'claimed', 'succeeded', 'failed', 'cancelled')),
    fingerprint TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,
    origin_job TEXT, -- an id, which may outlive its job; NULL where the outcome is this task's own
    origin_idx INTEGER,
    origin_attempt INTEGER, -- NULL where there is no outcome
    failure TEXT,
    exit_code INTEGER,
    reason TEXT NOT NULL DEFAULT '',
    worker TEXT NOT NULL DEFAULT '',
    token TEXT,
    started INTEGER NOT NULL DEFAULT 0, -- of a claimed task: 1 once its worker has said that its program was started
    not_before_ms INTEGER NOT NULL DEFAULT 0,
    memory_bytes INTEGER,
    name TEXT NOT NULL,
    PRIMARY KEY (job, idx)
) STRICT, WITHOUT ROWID;

CREATE TABLE specs ( -- apart from tasks: counting and claiming read no specs
    job INTEGER NOT NULL REFERENCES jobs (sequence) ON DELETE CASCADE,
    idx INTEGER NOT NULL,
    spec BLOB NOT NULL, -- model.TaskSpec as JSON, without params
    params TEXT NOT NULL, -- canonical JSON
    PRIMARY KEY (job, idx)
) STRICT, WITHOUT ROWID;

CREATE TABLE attempts (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL, -- an id: the record may outlive the job while other tasks reuse it
    idx INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    fingerprint TEXT, -- NULL where it did not succeed
    record BLOB NOT NULL, -- model.Attempt as JSON
    UNIQUE (job, idx, attempt)
) STRICT;

CREATE TABLE workers (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    pool TEXT NOT NULL,
    host TEXT NOT NULL,
    process TEXT NOT NULL, -- model.ProcessId as canonical JSON
    beat INTEGER NOT NULL,
    cpu REAL NOT NULL,
    memory_bytes INTEGER NOT NULL,
    waiting INTEGER NOT NULL,
    started_at_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE cleaned ( -- what `clean` removed, so that it can be said
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('run', 'job')),
    name TEXT NOT NULL,
    cleaned_at_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX runs_by_identity ON runs (workflow, args, sequence);

CREATE INDEX steps_by_strand ON steps (run, strand, sequence);

CREATE INDEX jobs_by_owner ON jobs (owner, sequence);

CREATE INDEX jobs_to_serve ON jobs (pool, priority DESC, sequence) WHERE open = 1 AND held = 0;

CREATE INDEX tasks_pending ON tasks (job, state, not_before_ms, idx) WHERE state = 'pending';

CREATE INDEX tasks_claimed ON tasks (worker, state, job) WHERE state = 'claimed';

CREATE INDEX tasks_bad ON tasks (job, state) WHERE state IN ('failed', 'cancelled');

CREATE INDEX tasks_reused ON tasks (job, origin_job) WHERE origin_job IS NOT NULL;

CREATE INDEX tasks_by_origin ON tasks (origin_job, origin_idx, origin_attempt) WHERE origin_job IS NOT NULL;

CREATE INDEX attempts_reusable ON attempts (fingerprint, sequence) WHERE fingerprint IS NOT NULL;

INSERT INTO "attempts" VALUES(1,'j-1',1,1,'f1',X'7B22657869745F636F6465223A302C22726566223A7B22617474656D7074223A312C22696E646578223A312C226A6F62223A226A2D31227D2C22746F6B656E223A2274222C22776F726B6572223A22772D31227D');
INSERT INTO "cleaned" VALUES(1,'r-0','run','w.lua',1);
INSERT INTO "jobs" VALUES(1,'j-1','r-1','p',0,1,0,NULL,NULL,2,1,X'7B226E616D65223A226A227D');
INSERT INTO "migrations" VALUES(1,'runs, steps, jobs, tasks, attempts, workers','0.1.0',1700000000000);
INSERT INTO "migrations" VALUES(2,'interrupted runs; what was cleaned','0.1.0',1700000000000);
INSERT INTO "runs" VALUES(1,'r-1','w.lua','{}',7,'{"boot_id":"b","host":"h","pid":1,"started":1.5}',1,NULL,'','',2,'','running');
INSERT INTO "specs" VALUES(1,1,X'7B22636F6D6D616E64223A2274727565227D','{"n":1}');
INSERT INTO "specs" VALUES(1,2,X'7B22636F6D6D616E64223A2274727565227D','{"n":2}');
INSERT INTO "steps" VALUES('r-1','main','now','d',1,1,'done','[]','w.lua:1','1.5',0,1,2);
INSERT INTO "tasks" VALUES(1,1,'succeeded','f1',1,1,0,NULL,NULL,1,NULL,0,'','w-1',NULL,0,0,NULL,'');
INSERT INTO "tasks" VALUES(1,2,'pending','f2',0,0,0,NULL,NULL,NULL,NULL,NULL,'','',NULL,0,0,NULL,'');
INSERT INTO "workers" VALUES(1,'w-1','p','h','{"boot_id":"b","host":"h","pid":2,"started":1.5}',3,1.0,0,0,1);

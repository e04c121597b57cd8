"""The database's schema as append-only migrations. Imports nothing of sparkles.

A migration that has been released is never edited: a test upgrades a saved database of every past version.
"""

from __future__ import annotations

MIGRATIONS: tuple[tuple[int, str, str], ...] = (
    (
        1,
        "runs, jobs and workers",
        """
        CREATE TABLE runs (
            id TEXT PRIMARY KEY,
            workflow TEXT NOT NULL,
            args TEXT NOT NULL,
            state TEXT NOT NULL,
            seed INTEGER NOT NULL,
            driver TEXT,
            created_at_ms INTEGER NOT NULL,
            ended_at_ms INTEGER,
            error TEXT NOT NULL,
            workflow_digest TEXT NOT NULL,
            beat_ms INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX runs_by_workflow ON runs (workflow, args);

        CREATE TABLE steps (
            run TEXT NOT NULL,
            strand TEXT NOT NULL,
            kind TEXT NOT NULL,
            digest TEXT NOT NULL,
            occurrence INTEGER NOT NULL,
            state TEXT NOT NULL,
            sequence INTEGER NOT NULL,
            parts TEXT NOT NULL,
            position TEXT NOT NULL,
            value TEXT,
            error INTEGER NOT NULL,
            started_at_ms INTEGER NOT NULL,
            ended_at_ms INTEGER,
            PRIMARY KEY (run, strand, kind, digest, occurrence)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX steps_by_sequence ON steps (run, sequence);

        CREATE TABLE jobs (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            owner TEXT NOT NULL,
            pool TEXT NOT NULL,
            held INTEGER NOT NULL,
            priority INTEGER NOT NULL,
            parallelism INTEGER,
            count INTEGER NOT NULL,
            created_at_ms INTEGER NOT NULL,
            spec TEXT NOT NULL
        ) STRICT;
        CREATE INDEX jobs_by_owner ON jobs (owner);
        CREATE INDEX jobs_by_pool ON jobs (pool, priority DESC, sequence);

        CREATE TABLE tasks (
            job INTEGER NOT NULL REFERENCES jobs (sequence),
            idx INTEGER NOT NULL,
            state TEXT NOT NULL,
            fingerprint TEXT NOT NULL,
            attempt INTEGER NOT NULL,
            tries INTEGER NOT NULL,
            losses INTEGER NOT NULL,
            reused INTEGER NOT NULL,
            origin_job TEXT,
            origin_idx INTEGER,
            origin_attempt INTEGER,
            failure TEXT,
            exit_code INTEGER,
            reason TEXT NOT NULL,
            worker TEXT NOT NULL,
            token TEXT,
            not_before_ms INTEGER NOT NULL,
            memory_bytes INTEGER,
            name TEXT NOT NULL,
            spec TEXT NOT NULL,
            PRIMARY KEY (job, idx)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX tasks_by_state ON tasks (job, state, idx);
        CREATE INDEX tasks_claimed ON tasks (worker) WHERE state = 'claimed';
        CREATE INDEX tasks_by_fingerprint ON tasks (fingerprint, reused, job) WHERE state = 'succeeded';
        CREATE INDEX tasks_reused ON tasks (origin_job, job) WHERE reused = 1;
        CREATE INDEX tasks_reusing ON tasks (job) WHERE reused = 1;

        CREATE TABLE attempts (
            job TEXT NOT NULL,
            idx INTEGER NOT NULL,
            attempt INTEGER NOT NULL,
            record TEXT NOT NULL,
            PRIMARY KEY (job, idx, attempt)
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE workers (
            id TEXT PRIMARY KEY,
            pool TEXT NOT NULL,
            process TEXT NOT NULL,
            host TEXT NOT NULL,
            beat INTEGER NOT NULL,
            cpu REAL NOT NULL,
            memory_bytes INTEGER NOT NULL,
            waiting INTEGER NOT NULL,
            started_at_ms INTEGER NOT NULL
        ) STRICT;
        """,
    ),
)

"""Datastore as sparkles uses it: look up, query, insert, compare-and-set; each entity has a document and a few indexed properties.

May import errors and wire. Speaks the v1 API by its generated messages: the high-level client hides base_version and the conflict
resolution that every write here depends on (docs/wire.md). Surprise: a commit whose answer was lost is not an error; the entity is looked
up again, and it was ours if it holds the very bytes that were sent.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
from google.cloud.datastore_v1.types import datastore as api
from google.cloud.datastore_v1.types import query as query_types

from sparkles.backends.google.entities import Entity, entity_of, message_of, stamp_ms, value_of
from sparkles.backends.google.failures import code_of, retryable, translate
from sparkles.backends.google.parallel import each_of
from sparkles.backends.google.patience import CHECK_S, PATIENCE_S, TOLD_AFTER_S, Patience
from sparkles.errors import BackendError

COMMIT_ENTITIES = 500
COMMIT_BYTES = 7 << 19
"""Most of one commit. The API takes 10 MiB a request, Google's emulators 4 MiB (gRPC's default); the reference asks for no more than 500
mutations (latency, retries)."""

_AROUND_BYTES = 1_000
"""At most: an entity's key and indexed properties, lists aside."""

LOOKUP_KEYS = 500
"""The API takes 1,000 keys; answers of half of that stay small."""

CALL_S = 20.0

CLOCKS_MS = 1_000
"""Clocks that are kept by NTP are closer to each other than this."""

_SERVICE = "/google.datastore.v1.Datastore/"
_FAIL = 3  # Mutation.ConflictResolutionStrategy.FAIL
_OPERATORS = {"=": 5, "<": 1, "<=": 2, ">": 3, ">=": 4}
_NOT_FINISHED = 1
_LOST = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND)

_CommitRequest = api.CommitRequest.pb()
_CommitResponse = api.CommitResponse.pb()
_LookupRequest = api.LookupRequest.pb()
_LookupResponse = api.LookupResponse.pb()
_QueryRequest = api.RunQueryRequest.pb()
_QueryResponse = api.RunQueryResponse.pb()
_Mutation = api.Mutation.pb()
_Query = query_types.Query.pb()

T = TypeVar("T")
R = TypeVar("R")


class Datastore:
    """One namespace of one database."""

    def __init__(
        self,
        channel: grpc.Channel,
        *,
        project: str,
        database: str,
        namespace: str,
        say: Callable[[str], None] = lambda line: None,
        patience_s: float = PATIENCE_S,
        told_after_s: float = TOLD_AFTER_S,
        call_s: float = CALL_S,
        threads: int = 8,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`say` is told once when the service has not answered for 5 s, and once when it answers again.

        Args:
            call_s: After this long without an answer a call is made anew.
            now: This machine's clock, in seconds since the epoch.
        """
        self._project, self._namespace = project, namespace
        self._database = "" if database == "(default)" else database
        self._patience = Patience(
            "Datastore",
            say,
            errors=(grpc.RpcError,),
            can_help=retryable,
            patience_s=patience_s,
            told_after_s=told_after_s,
        )
        self.answers_for_s = self._patience.answers_for_s
        self._call_s = call_s
        self._now = now
        self.ahead_ms = 0
        """How much later it is by the server's clock than by this machine's; 0 within CLOCKS_MS, and where the server does not say. What
        several machines compare with their present is written by the server's clock."""

        self._channel = channel
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="datastore")
        metadata = f"project_id={project}" + (f"&database_id={self._database}" if self._database else "")
        self._metadata = (("x-goog-request-params", metadata),)
        self._commit = self._stub("Commit", _CommitRequest, _CommitResponse)
        self._lookup = self._stub("Lookup", _LookupRequest, _LookupResponse)
        self._query = self._stub("RunQuery", _QueryRequest, _QueryResponse)

    def _stub(self, method: str, request: Any, response: Any) -> Callable[..., Any]:
        found: Callable[..., Any] = self._channel.unary_unary(
            _SERVICE + method, request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
        return found

    def close(self) -> None:
        """Ends its threads and its connection."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        self._channel.close()

    # Reading

    def check(self) -> None:
        """Raises NotFound or BackendError where the database cannot be used; within about CHECK_S."""
        request = _LookupRequest(
            project_id=self._project, database_id=self._database, keys=[self._key("SparklesCounter", "jobs")]
        )
        call = lambda: self._lookup(request, timeout=min(self._call_s, CHECK_S), metadata=self._metadata)  # noqa: E731
        self._trying(call, "look whether the database is there", CHECK_S)

    def get(self, kind: str, name: str) -> Entity | None:
        """The entity, or None."""
        return self.lookup(kind, [name]).get(name)

    def lookup(self, kind: str, names: Sequence[str]) -> dict[str, Entity]:
        """Those of `names` that exist, in parallel where they are many."""
        pieces = [names[at : at + LOOKUP_KEYS] for at in range(0, len(names), LOOKUP_KEYS)]
        found: dict[str, Entity] = {}
        for piece in (
            self.pool.map(lambda each: self._lookup_piece(kind, each), pieces)
            if len(pieces) > 1
            else [self._lookup_piece(kind, each) for each in pieces]
        ):
            found.update(piece)
        return found

    def _lookup_piece(self, kind: str, names: Sequence[str]) -> dict[str, Entity]:
        found: dict[str, Entity] = {}
        keys = [self._key(kind, name) for name in names]
        while keys:
            request = _LookupRequest(project_id=self._project, database_id=self._database, keys=keys)
            answer = self._call(self._lookup, request, f"look up {kind}", lambda answer: answer.read_time)
            read_ms = stamp_ms(answer.read_time)
            for result in answer.found:
                entity = entity_of(kind, result, read_ms)
                found[entity.name] = entity
            keys = list(answer.deferred)
        return found

    def query(
        self,
        kind: str,
        *filters: tuple[str, str, str | int],
        order: str = "",
        after: str = "",
        limit: int | None = None,
        keys_only: bool = False,
    ) -> Iterator[Entity]:
        """Entities that pass all `filters` (property, operator, value); strongly consistent.

        Args:
            order: The property to sort by, "-" before it for the greatest first; default: by key.
            after: Only keys greater than this name.
            keys_only: Without documents and properties.
        """
        query = _Query(kind=[{"name": kind}])
        parts = []
        for name, operator, value in filters:
            parts.append(
                {"property_filter": {"property": {"name": name}, "op": _OPERATORS[operator], "value": value_of(value)}}
            )
        if after:
            key = self._key(kind, after)
            parts.append({"property_filter": {"property": {"name": "__key__"}, "op": 3, "value": {"key_value": key}}})
        if parts:
            query.filter.composite_filter.op = 1
            query.filter.composite_filter.filters.extend(query_types.Filter.pb()(**part) for part in parts)
        if order:
            query.order.add(property={"name": order.lstrip("-")}, direction=2 if order.startswith("-") else 1)
        if keys_only:
            query.projection.add(property={"name": "__key__"})
        left = limit
        while left is None or left > 0:
            if left is not None:
                query.limit.value = left
            request = _QueryRequest(
                project_id=self._project,
                database_id=self._database,
                partition_id={"project_id": self._project, "database_id": self._database, "namespace_id": self._namespace},
                query=query,
            )
            batch = self._call(self._query, request, f"query {kind}", lambda answer: answer.batch.read_time).batch
            read_ms = stamp_ms(batch.read_time)
            for result in batch.entity_results:
                yield entity_of(kind, result, read_ms)
            if left is not None:
                left -= len(batch.entity_results)
            if batch.more_results != _NOT_FINISHED:
                return
            query.start_cursor = batch.end_cursor

    # Writing

    def insert(self, entity: Entity) -> bool:
        """Writes a new entity; False where the key exists already (and does not hold these very bytes)."""
        mutation = _Mutation(insert=message_of(entity, self._key(entity.kind, entity.name)))
        return self._write(entity, mutation, (grpc.StatusCode.ALREADY_EXISTS,)) is not None

    def replace(self, entity: Entity, base: int, applied: Callable[[Entity], bool] = lambda current: False) -> Entity | None:
        """Writes over version `base` of the entity; None where that is not the current version.

        Args:
            applied: Asked where the answer was lost and others may have written since: whether `entity` is in what the current one became.

        Returns:
            The entity with its new version; where others wrote since, what they made of it.
        """
        mutation = _Mutation(
            update=message_of(entity, self._key(entity.kind, entity.name)),
            base_version=base,
            conflict_resolution_strategy=_FAIL,
        )
        return self._write(entity, mutation, _LOST, applied)

    def delete(self, entity: Entity) -> bool:
        """Removes the entity; False where the version that was read is not the current one."""
        key = self._key(entity.kind, entity.name)
        mutation = _Mutation(delete=key, base_version=entity.version, conflict_resolution_strategy=_FAIL)
        return self._write(entity, mutation, _LOST) is not None

    def update(self, kind: str, name: str, change: Callable[[Entity | None], Entity | None]) -> Entity | None:
        """Reads, changes and writes until nobody else wrote in between. `change` returns None to leave all as it is.

        Returns:
            What was written, with its version; None where `change` declined.
        """
        return self.change(self.get(kind, name), kind, name, change)

    def change(
        self,
        known: Entity | None,
        kind: str,
        name: str,
        change: Callable[[Entity | None], Entity | None],
        applied: Callable[[Entity], bool] = lambda current: False,
    ) -> Entity | None:
        """As `update`, starting from what is `known` of the entity; `applied` as for `replace`."""
        pause = 0.05
        while True:
            wanted = change(known)
            if wanted is None:
                return None
            if known is None:
                if self.insert(wanted):
                    return self.get(kind, name)
            else:
                written = self.replace(wanted, known.version, applied)
                if written is not None:
                    return written
            time.sleep(random.uniform(0, pause))  # noqa: S311  a pause, no secret
            pause = min(2 * pause, 2.0)
            known = self.get(kind, name)

    def put_all(self, entities: Iterable[Entity]) -> None:
        """Writes entities in parallel commits, whatever the keys hold. The order is not defined. Raises StorageFull."""
        each_of(self.pool, self._put_batch, self._batches(entities))

    def _put_batch(self, batch: list[Entity]) -> None:
        self._call(
            self._commit,
            self._commit_request([_Mutation(upsert=message_of(each, self._key(each.kind, each.name))) for each in batch]),
            "write",
        )

    def insert_all(self, entities: Iterable[Entity]) -> list[Entity]:
        """Writes new entities in parallel commits. Returns those whose keys exist already; these were not written."""
        return [each for some in each_of(self.pool, self._insert_batch, self._batches(entities)) for each in some]

    def _insert_batch(self, batch: list[Entity]) -> list[Entity]:
        there: list[Entity] = []
        while batch:
            try:
                self._call(
                    self._commit,
                    self._commit_request(
                        [_Mutation(insert=message_of(each, self._key(each.kind, each.name))) for each in batch]
                    ),
                    "write",
                )
                return there
            except BackendError as error:
                if code_of(error.__cause__) != "ALREADY_EXISTS":
                    raise
            # Some of them are there: what an earlier, unanswered try wrote, or somebody else's.
            found = self.lookup(batch[0].kind, [each.name for each in batch])
            there += [each for each in batch if each.name in found and found[each.name].document != each.document]
            batch = [each for each in batch if each.name not in found]
        return there

    def delete_all(self, kind: str, names: Iterable[str]) -> None:
        """Removes entities; harmless where there are none."""
        mutations = [_Mutation(delete=self._key(kind, name)) for name in names]
        pieces = [mutations[at : at + COMMIT_ENTITIES] for at in range(0, len(mutations), COMMIT_ENTITIES)]
        each_of(self.pool, lambda piece: self._call(self._commit, self._commit_request(piece), f"delete {kind}"), pieces)

    def _batches(self, entities: Iterable[Entity]) -> Iterator[list[Entity]]:
        batch: list[Entity] = []
        size = 0
        for entity in entities:
            length = len(entity.document) + _AROUND_BYTES
            length += sum(len(each) + 8 for value in entity.properties.values() if isinstance(value, list) for each in value)
            if batch and (len(batch) == COMMIT_ENTITIES or size + length > COMMIT_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(entity)
            size += length
        if batch:
            yield batch

    def _write(
        self,
        entity: Entity,
        mutation: Any,
        lost: tuple[grpc.StatusCode, ...],
        applied: Callable[[Entity], bool] = lambda current: False,
    ) -> Entity | None:
        """One commit of one entity. None where it was refused with a code of `lost`, and is not what an earlier, unanswered try wrote."""
        request = self._commit_request([mutation])
        unanswered = False

        def call() -> Any:
            nonlocal unanswered
            try:
                return self._commit(request, timeout=self._call_s, metadata=self._metadata)
            except grpc.RpcError as error:
                code = error.code()
                if code in lost or (code is grpc.StatusCode.ABORTED and not unanswered):
                    return None
                unanswered = unanswered or code not in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED)
                raise

        answer = self._trying(call, f"write {entity.kind} {entity.name}")
        if answer is not None and not answer.mutation_results[0].conflict_detected:  # set by a server that does not know FAIL
            return Entity(entity.kind, entity.name, entity.document, entity.properties, answer.mutation_results[0].version)
        if unanswered:
            current = self.get(entity.kind, entity.name)
            if current is not None and (current.document == entity.document or applied(current)):
                return current
        return None

    def _commit_request(self, mutations: list[Any]) -> Any:
        return _CommitRequest(project_id=self._project, database_id=self._database, mode=2, mutations=mutations)

    # Calls

    def _call(self, stub: Callable[..., Any], request: Any, what: str, read_time: Callable[[Any], Any] | None = None) -> Any:
        """The answer; `read_time` finds the server's time in it."""
        asked = 0.0

        def call() -> Any:
            nonlocal asked
            asked = self._now()
            return stub(request, timeout=self._call_s, metadata=self._metadata)

        answer = self._trying(call, what)
        read_ms = stamp_ms(read_time(answer)) if read_time is not None else None
        if read_ms is not None:
            # It was read between the question and the answer: within that time no difference can be told.
            earliest_ms, latest_ms = int(asked * 1000) - CLOCKS_MS, int(self._now() * 1000) + CLOCKS_MS
            self.ahead_ms = min(read_ms - earliest_ms, 0) + max(read_ms - latest_ms, 0)
        return answer

    def _trying(self, call: Callable[[], Any], what: str, patience_s: float | None = None) -> Any:
        failed = lambda error: translate(error, f"Datastore: {what}", self._project)  # noqa: E731
        return self._patience.trying(call, failed, patience_s=patience_s)

    # Messages

    def _key(self, kind: str, name: str) -> Any:
        return {
            "partition_id": {"project_id": self._project, "database_id": self._database, "namespace_id": self._namespace},
            "path": [{"kind": kind, "name": name}],
        }

"""Datastore as sparkles uses it: look up, query, insert, compare-and-set; each entity has a document and a few indexed properties.

May import errors and wire. Speaks the v1 API by its generated messages: the high-level client hides base_version and the conflict
resolution that every write here depends on (docs/wire.md). Surprise: a commit whose answer was lost is not an error; the entity is looked
up again, and it was ours if it holds the very bytes that were sent.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.cloud.datastore_v1.types import datastore as api
from google.cloud.datastore_v1.types import entity as entity_types
from google.cloud.datastore_v1.types import query as query_types

from sparkles.backends.google.failures import retryable, translate
from sparkles.errors import Conflict

COMMIT_ENTITIES = 500
COMMIT_BYTES = 8 << 20
"""Most of one commit. The API takes 10 MiB a request, and the reference asks for no more than 500 mutations (latency, retries)."""

LOOKUP_KEYS = 500
"""The API takes 1,000 keys; answers of half of that stay small."""

CALL_S = 20.0
PATIENCE_S = 300.0
"""How long a call is tried again before it fails, where trying again can help."""

CHECK_S = 10.0
"""How long a check before any work goes on trying: who has just typed a command sits there and waits."""

TOLD_AFTER_S = 5.0

_SERVICE = "/google.datastore.v1.Datastore/"
_FAIL = 3  # Mutation.ConflictResolutionStrategy.FAIL
_OPERATORS = {"=": 5, "<": 1, "<=": 2, ">": 3, ">=": 4}
_NOT_FINISHED = 1

_CommitRequest = api.CommitRequest.pb()
_CommitResponse = api.CommitResponse.pb()
_LookupRequest = api.LookupRequest.pb()
_LookupResponse = api.LookupResponse.pb()
_QueryRequest = api.RunQueryRequest.pb()
_QueryResponse = api.RunQueryResponse.pb()
_Mutation = api.Mutation.pb()
_Entity = entity_types.Entity.pb()
_Query = query_types.Query.pb()

Property = str | int | list[str] | None


@dataclass(frozen=True, slots=True)
class Entity:
    """One entity. `version` is what a compare-and-set is based on; a property that is None is absent.

    `age_s`: how long ago it was written by the server's own clock at the time it was read; None where the server does not say.
    """

    kind: str
    name: str
    document: bytes = b""
    properties: Mapping[str, Property] = field(default_factory=dict)
    version: int = 0
    age_s: float | None = None


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
        threads: int = 8,
    ) -> None:
        """`say` is told once when the service has not answered for 5 s, and once when it answers again."""
        self._project, self._namespace = project, namespace
        self._database = "" if database == "(default)" else database
        self._say = say
        self._patience_s = patience_s
        self._channel = channel
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="datastore")
        metadata = f"project_id={project}" + (f"&database_id={self._database}" if self._database else "")
        self._metadata = (("x-goog-request-params", metadata),)
        self._commit = self._stub("Commit", _CommitRequest, _CommitResponse)
        self._lookup = self._stub("Lookup", _LookupRequest, _LookupResponse)
        self._query = self._stub("RunQuery", _QueryRequest, _QueryResponse)
        self._lock = threading.Lock()
        self._troubled = False

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
        call = lambda timeout: self._lookup(request, timeout=timeout, metadata=self._metadata)  # noqa: E731
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
            answer = self._call(self._lookup, request, f"look up {kind}")
            read_ms = _stamp_ms(answer.read_time)
            for result in answer.found:
                entity = _entity(kind, result, read_ms)
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
            parts.append({"property_filter": {"property": {"name": name}, "op": _OPERATORS[operator], "value": _value(value)}})
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
            batch = self._call(self._query, request, f"query {kind}").batch
            read_ms = _stamp_ms(batch.read_time)
            for result in batch.entity_results:
                yield _entity(kind, result, read_ms)
            if left is not None:
                left -= len(batch.entity_results)
            if batch.more_results != _NOT_FINISHED:
                return
            query.start_cursor = batch.end_cursor

    # Writing

    def insert(self, entity: Entity) -> bool:
        """Writes a new entity; False where the key exists already (and does not hold these very bytes)."""
        mutation = _Mutation(insert=self._message(entity))
        return self._write(entity, mutation, (grpc.StatusCode.ALREADY_EXISTS,)) is not None

    def replace(self, entity: Entity, base: int) -> int | None:
        """Writes over version `base` of the entity; None where that is not the current version. Returns the new version."""
        mutation = _Mutation(update=self._message(entity), base_version=base, conflict_resolution_strategy=_FAIL)
        lost = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND)
        return self._write(entity, mutation, lost)

    def update(self, kind: str, name: str, change: Callable[[Entity | None], Entity | None]) -> Entity | None:
        """Reads, changes and writes until nobody else wrote in between. `change` returns None to leave all as it is.

        Returns:
            What was written, with its version; None where `change` declined.
        """
        return self.change(self.get(kind, name), kind, name, change)

    def change(
        self, known: Entity | None, kind: str, name: str, change: Callable[[Entity | None], Entity | None]
    ) -> Entity | None:
        """As `update`, starting from what is `known` of the entity."""
        pause = 0.05
        while True:
            wanted = change(known)
            if wanted is None:
                return None
            if known is None:
                if self.insert(wanted):
                    return self.get(kind, name)
            else:
                version = self.replace(wanted, known.version)
                if version is not None:
                    return Entity(kind, name, wanted.document, wanted.properties, version)
            time.sleep(random.uniform(0, pause))  # noqa: S311  a pause, no secret
            pause = min(2 * pause, 2.0)
            known = self.get(kind, name)

    def put_all(self, entities: Iterable[Entity]) -> None:
        """Writes new entities in parallel commits, whatever the keys hold. The order is not defined."""
        list(self.pool.map(self._put_batch, self._batches(entities)))

    def _put_batch(self, batch: list[Any]) -> None:
        self._call(self._commit, self._commit_request(batch), "write")

    def delete_all(self, kind: str, names: Iterable[str]) -> None:
        """Removes entities; harmless where there are none."""
        mutations = [_Mutation(delete=self._key(kind, name)) for name in names]
        pieces = [mutations[at : at + COMMIT_ENTITIES] for at in range(0, len(mutations), COMMIT_ENTITIES)]
        list(self.pool.map(self._put_batch, pieces))

    def _batches(self, entities: Iterable[Entity]) -> Iterator[list[Any]]:
        batch: list[Any] = []
        size = 0
        for entity in entities:
            mutation = _Mutation(upsert=self._message(entity))
            length = mutation.ByteSize()
            if batch and (len(batch) == COMMIT_ENTITIES or size + length > COMMIT_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(mutation)
            size += length
        if batch:
            yield batch

    def _write(self, entity: Entity, mutation: Any, lost: tuple[grpc.StatusCode, ...]) -> int | None:
        """One commit of one entity. None where it was refused with a code of `lost`, and is not what an earlier, unanswered try wrote."""
        request = self._commit_request([mutation])
        unanswered = False

        def call(timeout: float) -> Any:
            nonlocal unanswered
            try:
                return self._commit(request, timeout=timeout, metadata=self._metadata)
            except grpc.RpcError as error:
                code = error.code()
                if code in lost or (code is grpc.StatusCode.ABORTED and not unanswered):
                    return None
                unanswered = unanswered or code is not grpc.StatusCode.RESOURCE_EXHAUSTED
                raise

        answer = self._trying(call, f"write {entity.kind} {entity.name}")
        if answer is not None:
            result = answer.mutation_results[0]
            if result.conflict_detected:  # a server that does not know FAIL
                return None
            return int(result.version)
        if unanswered:
            current = self.get(entity.kind, entity.name)
            if current is not None and current.document == entity.document:
                return current.version
        return None

    def _commit_request(self, mutations: list[Any]) -> Any:
        return _CommitRequest(project_id=self._project, database_id=self._database, mode=2, mutations=mutations)

    # Calls

    def _call(self, stub: Callable[..., Any], request: Any, what: str) -> Any:
        return self._trying(lambda timeout: stub(request, timeout=timeout, metadata=self._metadata), what)

    def _trying(self, call: Callable[[float], Any], what: str, patience_s: float | None = None) -> Any:
        """Calls again while that can help, for `patience_s`; the user is told after 5 s. Raises BackendError."""
        patience_s = self._patience_s if patience_s is None else patience_s
        began = time.monotonic()
        pause = 0.1
        while True:
            try:
                answer = call(min(CALL_S, max(patience_s, 1.0)))
            except grpc.RpcError as error:
                waited = time.monotonic() - began
                if not retryable(error) or waited + pause > patience_s:
                    raise translate(error, f"Datastore: {what}", self._project) from error
                if waited > TOLD_AFTER_S:
                    self._tell(troubled=True, why=error)
                time.sleep(random.uniform(pause / 2, pause))  # noqa: S311  a pause, no secret
                pause = min(2 * pause, 5.0)
                continue
            if self._troubled:
                self._tell(troubled=False)
            return answer

    def _tell(self, *, troubled: bool, why: Any = None) -> None:
        with self._lock:
            if troubled == self._troubled:
                return
            self._troubled = troubled
        if troubled:
            reason = why.details() or why.code().name
            self._say(
                f"Datastore does not answer ({reason}); trying for up to {self._patience_s:g} s. Nothing is lost meanwhile."
            )
        else:
            self._say("Datastore answers again")

    # Messages

    def _key(self, kind: str, name: str) -> Any:
        return {
            "partition_id": {"project_id": self._project, "database_id": self._database, "namespace_id": self._namespace},
            "path": [{"kind": kind, "name": name}],
        }

    def _message(self, entity: Entity) -> Any:
        message = _Entity(key=self._key(entity.kind, entity.name))
        properties = message.properties
        for name, value in entity.properties.items():
            if value is not None:
                properties[name].CopyFrom(entity_types.Value.pb()(**_value(value)))
        document = properties["document"]
        document.blob_value = entity.document
        document.exclude_from_indexes = True
        return message


def taken(what: str, name: str) -> Conflict:
    """The error for a name that somebody else has."""
    return Conflict(f"{what} {name} exists already", "create", name)


def _value(value: str | int | list[str]) -> dict[str, Any]:
    if isinstance(value, int):
        return {"integer_value": value}
    if isinstance(value, list):
        return {"array_value": {"values": [{"string_value": each} for each in value]}}
    return {"string_value": value}


def _entity(kind: str, result: Any, read_ms: int | None) -> Entity:
    message = result.entity
    properties: dict[str, Property] = {}
    document = b""
    for name, value in message.properties.items():
        if name == "document":
            document = value.blob_value
        elif value.WhichOneof("value_type") == "integer_value":
            properties[name] = value.integer_value
        elif value.WhichOneof("value_type") == "array_value":
            properties[name] = [each.string_value for each in value.array_value.values]
        else:
            properties[name] = value.string_value
    written_ms = _stamp_ms(result.update_time)
    age_s = (read_ms - written_ms) / 1000 if read_ms is not None and written_ms is not None else None
    return Entity(kind, message.key.path[0].name, document, properties, result.version, age_s)


def _stamp_ms(stamp: Any) -> int | None:
    ms = stamp.seconds * 1000 + stamp.nanos // 1_000_000
    return ms or None

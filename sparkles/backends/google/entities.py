"""Entities as the rest of this backend sees them, and as Datastore's messages. Pure; may import errors.

Each has a document, which is not indexed, and a few indexed properties.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from google.cloud.datastore_v1.types import entity as entity_types

from sparkles.errors import StorageFull

MOST_BYTES = 1_048_572
"""Most of one entity (documented limit)."""

_Entity = entity_types.Entity.pb()
_Value = entity_types.Value.pb()

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


def message_of(entity: Entity, key: Any) -> Any:
    """The message to send. Raises StorageFull where Datastore would not take it."""
    message = _Entity(key=key)
    properties = message.properties
    for name, value in entity.properties.items():
        if value is not None:
            properties[name].CopyFrom(_Value(**value_of(value)))
    document = properties["document"]
    document.blob_value = entity.document
    document.exclude_from_indexes = True
    if message.ByteSize() > MOST_BYTES:
        raise StorageFull(
            f"Datastore: {entity.kind} {entity.name} has {message.ByteSize()} bytes; one entity takes {MOST_BYTES}: put large values"
            " into files",
            f"write {entity.kind}",
            entity.name,
        )
    return message


def value_of(value: str | int | list[str]) -> dict[str, Any]:
    """The fields of a Value message."""
    if isinstance(value, int):
        return {"integer_value": value}
    if isinstance(value, list):
        return {"array_value": {"values": [{"string_value": each} for each in value]}}
    return {"string_value": value}


def entity_of(kind: str, result: Any, read_ms: int | None) -> Entity:
    """What an answer holds; `read_ms` is when the server read it."""
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
    written_ms = stamp_ms(result.update_time)
    age_s = (read_ms - written_ms) / 1000 if read_ms is not None and written_ms is not None else None
    return Entity(kind, message.key.path[0].name, document, properties, result.version, age_s)


def stamp_ms(stamp: Any) -> int | None:
    """A Timestamp message in ms; None where it is not filled in."""
    ms = stamp.seconds * 1000 + stamp.nanos // 1_000_000
    return ms or None

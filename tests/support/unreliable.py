"""A Pub/Sub in front of the emulator that treats messages badly: drops each, or delivers each twice, late and out of order.

It stands where PUBSUB_EMULATOR_HOST points, so drivers and workers in both languages are tested as they are. Everything but Publish goes
through as it is; a publisher is told that all is well.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.pubsub_v1.types import pubsub as api

KINDS = ("drop", "shuffle")
LATE_S = 0.1

_Request, _Response = api.PublishRequest.pb(), api.PublishResponse.pb()


class Unreliable(grpc.GenericRpcHandler):
    """The server; `at` is host:port. `taken` counts the messages that came, `delivered` those that were handed on."""

    def __init__(self, emulator: str, kind: str) -> None:
        if kind not in KINDS:
            raise ValueError(f"expected one of {', '.join(KINDS)}, found {kind!r}")
        self.taken = self.delivered = 0
        self._kind = kind
        self._channel = grpc.insecure_channel(emulator)
        self._held: list[tuple[str, object]] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._random = random.Random(7)
        self._numbers = itertools.count(1)
        self._server = grpc.server(ThreadPoolExecutor(64), handlers=[self])  # a stream keeps a thread
        self.at = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
        self._server.stop(0).wait()
        self._channel.close()

    def service(self, details):
        """See grpc: requests and answers are bytes."""
        method = details.method
        if method.endswith("/Publish"):
            return grpc.unary_unary_rpc_method_handler(self._publish)
        if method.endswith("/StreamingPull"):
            return grpc.stream_stream_rpc_method_handler(lambda requests, context: self._stream(method, requests, context))
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self._pass_on(method, request, context))

    def _publish(self, data: bytes, context) -> bytes:
        request = _Request.FromString(data)
        with self._lock:
            self.taken += len(request.messages)
            if self._kind == "shuffle":
                self._held += [(request.topic, message) for message in request.messages for _ in range(2)]
                if self._timer is None:
                    self._timer = threading.Timer(LATE_S, self._deliver)
                    self._timer.daemon = True
                    self._timer.start()
        return _Response(message_ids=[f"m{next(self._numbers)}" for _ in request.messages]).SerializeToString()

    def _deliver(self) -> None:
        with self._lock:
            held, self._held, self._timer = self._held, [], None
            self.delivered += len(held)
        self._random.shuffle(held)
        publish = self._channel.unary_unary("/google.pubsub.v1.Publisher/Publish")
        for topic, message in held:
            try:
                publish(_Request(topic=topic, messages=[message]).SerializeToString(), timeout=5)
            except grpc.RpcError:
                return  # no topic, or the emulator is gone: then it is lost, as messages may be

    def _pass_on(self, method: str, request: bytes, context) -> bytes:
        try:
            return self._channel.unary_unary(method)(request, timeout=10)
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())
            raise

    def _stream(self, method: str, requests, context):
        call = self._channel.stream_stream(method)(_until_gone(requests))
        context.add_callback(call.cancel)
        try:
            yield from call
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                context.abort(error.code(), error.details())


def _until_gone(requests):
    """What a reader sends, up to its leaving."""
    with contextlib.suppress(grpc.RpcError):
        yield from requests

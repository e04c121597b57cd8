"""Between the commands under test and an emulator: a connection that stalls, is refused or breaks, and services that answer with errors.

Each listens on loopback, and the emulator's usual variable leads there. `Link` knows bytes; `GrpcFaults` and `HttpFaults` know requests.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from concurrent import futures

import grpc

from tests.support.faults import Faults


class Link:
    """Bytes to `target` (host:port) and back. `address` is where to connect."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._going = threading.Event()
        self._going.set()
        self._mutex = threading.Lock()
        self._open: set[socket.socket] = set()
        self._server = self._listen(0)
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"

    def _listen(self, port: int) -> socket.socket:
        server = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()
        return server

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._begin(server.accept()[0])

    def _begin(self, near: socket.socket) -> None:
        far = socket.create_connection(self._target)
        with self._mutex:
            self._open |= {near, far}
        for source, sink, answers in ((near, far, False), (far, near, True)):
            threading.Thread(target=self._copy, args=(source, sink, answers), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._going.wait()
                if not self._passes(data, source, sink, answers):
                    break
                sink.sendall(data)
        self._end(source, sink)

    def _passes(self, data: bytes, source: socket.socket, sink: socket.socket, answers: bool) -> bool:
        """Whether these bytes go on; where not, the connection ends."""
        return True

    def _end(self, *sockets: socket.socket) -> None:
        with self._mutex:
            self._open -= set(sockets)
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def pause(self) -> None:
        """Nothing goes through any more, and nobody is told: a server that disappeared."""
        self._going.clear()

    def resume(self) -> None:
        """All of it goes through, what waited first."""
        self._going.set()

    def cut(self) -> None:
        """Ends all connections in the middle."""
        with self._mutex:
            now = list(self._open)
        self._end(*now)

    def refuse(self) -> None:
        """Connections are refused from now on, and those that are open end."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    def accept(self) -> None:
        """Connections are accepted again, at the same address."""
        self._server = self._listen(int(self.address.rpartition(":")[2]))

    def close(self) -> None:
        """Ends all of it."""
        self._going.set()
        self.refuse()


class Breaking(Link):
    """A link whose connections break: of each answer's pieces, `chance` end their connection instead, so that the answer is lost."""

    def __init__(self, target: str, chance: float, seed: int = 0) -> None:
        self._chance, self._random = chance, random.Random(seed)
        self.made = 0
        super().__init__(target)

    def _passes(self, data: bytes, source: socket.socket, sink: socket.socket, answers: bool) -> bool:
        if answers and self._random.random() < self._chance:
            self.made += 1
            return False
        return True


class HttpFaults(Link):
    """Requests to `target` of which `chance` are answered with one of CODES, and never reach it."""

    CODES = ("429 Too Many Requests", "503 Service Unavailable", "500 Internal Server Error")
    _METHODS = (b"GET ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"HEAD ")

    def __init__(self, target: str, chance: float, seed: int = 0) -> None:
        self._chance, self._random = chance, random.Random(seed)
        self.made: list[str] = []
        super().__init__(target)

    def _passes(self, data: bytes, source: socket.socket, sink: socket.socket, answers: bool) -> bool:
        if answers or not data.startswith(self._METHODS) or self._random.random() >= self._chance:
            return True
        code = self._random.choice(self.CODES)
        self.made.append(code)
        body = b'{"error": {"code": %s, "message": "made by a test"}}' % code[:3].encode()
        head = f"HTTP/1.1 {code}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        with contextlib.suppress(OSError):
            source.sendall(head.encode() + body)
            source.shutdown(socket.SHUT_WR)
            source.settimeout(1)
            while source.recv(1 << 16):  # the rest of the request: an unread byte would turn the answer into a reset
                continue
        return False


class GrpcFaults:
    """Unary calls to `target` of which some fail as Faults has it: before the service does it, or after."""

    def __init__(self, target: str, method: str, chance: float, seed: int = 0) -> None:
        self.faults = Faults(method, chance=chance, seed=seed)
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(target, options=unlimited)
        self._server = grpc.server(futures.ThreadPoolExecutor(16), options=unlimited)
        self._server.add_generic_rpc_handlers((_Forward(grpc.intercept_channel(self._channel, self.faults)),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        """Ends all of it."""
        self._server.stop(None).wait()
        self._channel.close()


class _Forward(grpc.GenericRpcHandler):
    """Any unary call, as bytes."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def service(self, details):
        call = self._channel.unary_unary(details.method)

        def forward(request, context):
            try:
                return call(request, timeout=context.time_remaining())
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())

        return grpc.unary_unary_rpc_method_handler(forward)

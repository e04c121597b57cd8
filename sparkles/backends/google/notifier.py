"""The Notifier on Pub/Sub: hints and events between drivers and workers of an installation. May import pubsub, wakeup and wire.

Nothing here is needed for anything to be right: a message may come twice, late, out of order or never. A thread keeps the subscription and
its stream; nothing is subscribed before somebody waits. Surprise: after every gap `take` says None once, also when the stream is up again,
so that what was missed meanwhile is read.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc

from sparkles import wire
from sparkles.backends.google import pubsub
from sparkles.backends.google.failures import retryable, translate
from sparkles.backends.google.pubsub import Topic
from sparkles.backends.wakeup import WakeupPipe
from sparkles.errors import BackendError
from sparkles.ports import Notifier
from sparkles.wire import Event

POLLING = "notifications off: polling every 2 s to 30 s"

CLOSE_S = 2.0
_MOST_EVENTS = 100_000
_MOST_WAITING = 10_000
_BATCH = 500
_HEARTBEAT_S = 30.0
"""Google's own client sends something this often, or the server ends the stream."""


class PubsubNotifier:
    """One process's notifier. `topic` None: there is no Pub/Sub, because of `why`; hints stay in this process."""

    def __init__(self, topic: Topic | None, say: Callable[[str], None] = lambda line: None, *, why: str = "") -> None:
        self._topic, self._say, self._why = topic, say, why
        self._pipe = WakeupPipe(*os.pipe())
        self._lock = threading.Lock()
        self._events: deque[Event] = deque(maxlen=_MOST_EVENTS)
        self._gap = True
        self._live = threading.Event()
        self._settled = threading.Event()
        self._closing = threading.Event()
        self._listener: threading.Thread | None = None
        self._subscription = ""
        self._call: Any = None
        self._told_off = False
        self._doubted = False
        self._unannounced = ""
        self._outbox = _Outbox(topic, self._publish_failed) if topic is not None else None

    # The port

    def notify(self) -> None:
        """See ports.Notifier."""
        if self._closing.is_set():
            return
        self._pipe.hint()
        if self._outbox is not None:
            self._outbox.hint()

    def wait(self, timeout_s: float) -> bool:
        """See ports.Notifier. The first one begins to listen."""
        if self._closing.is_set():
            time.sleep(max(timeout_s, 0.0))
            return False
        self.start()
        return self._pipe.wait(timeout_s) or False

    def fileno(self) -> int:
        """See ports.Notifier."""
        if self._closing.is_set():
            return -1
        self.start()
        return self._pipe.reader

    def close(self) -> None:
        """Sends what waits, removes the subscription; within about 4 s whatever happens."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self._outbox is not None:
            self._outbox.close(CLOSE_S)
        self._tell_unannounced()
        with self._lock:
            call = self._call
        if call is not None:
            call.cancel()
        if self._listener is not None:
            self._listener.join(CLOSE_S)
        self._live.clear()
        if self._topic is not None:
            if self._subscription:
                try:
                    self._topic.unsubscribe(self._subscription, CLOSE_S)
                except grpc.RpcError:
                    pass  # it goes by itself after a day, or with `sparkles clean`
            self._topic.close()
        self._pipe.close()

    def tidy(self) -> int:
        """For `clean`: removes subscriptions that killed processes of this machine left. Returns how many; says why where that cannot be
        known. Those of other machines go by themselves, a day after their last use."""
        if self._topic is None:
            return 0
        try:
            left = self._topic.leftovers()
            for name in left:
                self._topic.unsubscribe(name)
        except grpc.RpcError as error:
            self._say(
                f"old subscriptions were not looked for ({translate(error, 'Pub/Sub: list subscriptions', self._name())})"
            )
            return 0
        return len(left)

    # Events

    def publish(self, event: Event) -> None:
        """Tells others that a shard was written, within 2 s or not at all; never raises, never blocks."""
        if self._closing.is_set():
            return
        self._deliver([event])
        if self._outbox is not None:
            self._outbox.put(wire.encode(event), event.job)

    def take(self) -> list[Event] | None:
        """The events since it was last called. None where some may be missing, because none can come now, or because none could
        come for a while since the last call: then shards are to be read."""
        with self._lock:
            events = list(self._events)
            self._events.clear()
            gap, self._gap = self._gap, self._doubted or not self._live.is_set()
        return None if gap else events

    # Listening

    def start(self) -> None:
        """Begins to listen in a thread of its own, if it does not yet."""
        if self._listener is not None or self._closing.is_set():
            return
        if self._topic is None:
            self._settled.set()
            self._tell_off(self._why)
            return
        self._listener = threading.Thread(target=self._listen, name="notifications", daemon=True)
        self._listener.start()

    def ready(self, timeout_s: float) -> bool:
        """Listens, and waits until that works or is known not to; whether it works."""
        self.start()
        self._settled.wait(timeout_s)
        return self._live.is_set()

    def _listen(self) -> None:
        pause = 0.2
        while not self._closing.is_set():
            began = time.monotonic()
            try:
                self._stream()
            except grpc.RpcError as error:
                self._lose()
                if self._closing.is_set():
                    return
                if time.monotonic() - began > 10:
                    pause = 0.2  # a stream that lived; Google ends each after a while
                else:
                    self._tell_off(str(translate(error, "Pub/Sub: listen", self._name())))
                self._settled.set()
                if not retryable(error) and error.code() not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.CANCELLED):
                    return
            else:
                self._lose()
            self._closing.wait(pause)
            pause = min(2 * pause, 30.0)

    def _stream(self) -> None:
        """Listens until the stream ends. Raises grpc.RpcError."""
        topic = self._topic
        if topic is None:
            return
        # Asked again each time: it may have been removed, and the answer shows that the service can be reached.
        if not self._subscription or not topic.is_subscribed(self._subscription):
            self._subscription = topic.subscribe()
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        call = topic.stream(self._requests(answers), self._subscription)
        with self._lock:
            self._call = call
        try:
            if self._closing.is_set():
                call.cancel()
            self._found()
            for response in call:
                answers.put([each.ack_id for each in response.received_messages])
                self._receive([each.message for each in response.received_messages])
        finally:
            answers.put(None)
            call.cancel()

    def _requests(self, answers: queue.SimpleQueue[Any]) -> Iterator[Any]:
        yield pubsub.pull_request(self._subscription)
        while True:
            try:
                acknowledged = answers.get(timeout=_HEARTBEAT_S)
            except queue.Empty:
                acknowledged = ()
            if acknowledged is None:
                return
            yield pubsub.pull_request(acknowledged=acknowledged)

    def _found(self) -> None:
        self._live.set()
        if self._told_off:
            self._told_off = False
            self._say("notifications on")
        self._tell_unannounced()
        self._pipe.hint()
        self._settled.set()

    def _lose(self) -> None:
        with self._lock:
            self._live.clear()
            self._gap = True
            self._events.clear()

    def _receive(self, messages: Sequence[Any]) -> None:
        """What came over the wire; a double of a test changes it."""
        topic = self._topic
        events = []
        self._doubted = False
        for message in messages:
            if topic is None or not topic.concerns_us(message):
                continue
            if not message.data:
                self._pipe.hint()
                continue
            try:
                events.append(wire.decode(message.data, Event, "a message of Pub/Sub"))
            except BackendError:
                # A newer worker's, or nobody's: that something changed is all that it says.
                with self._lock:
                    self._gap = True
                self._pipe.hint()
        if events:
            self._deliver(events)

    def _deliver(self, events: Sequence[Event]) -> None:
        with self._lock:
            if len(self._events) + len(events) > _MOST_EVENTS:
                self._events.clear()
                self._gap = True
            self._events.extend(events)
        self._pipe.hint()

    # Talk

    def _name(self) -> str:
        return self._topic.name if self._topic is not None else ""

    def _tell_off(self, why: str) -> None:
        with self._lock:
            if self._told_off:
                return
            self._told_off = True
            self._unannounced = ""
        self._say(f"{POLLING} ({why})" if why else POLLING)

    def _publish_failed(self, error: grpc.RpcError) -> None:
        """Where no message can be sent, a stream that looks alive may bring none: shards are read again until one comes."""
        with self._lock:
            first, self._doubted, self._gap = not self._doubted, True, True
        if not first or self._told_off:
            return
        said = translate(error, "Pub/Sub: publish", self._name())
        self._unannounced = f"a change could not be announced, others see it up to 30 s later ({said})"
        if self._live.is_set():
            self._tell_unannounced()

    def _tell_unannounced(self) -> None:
        """Waits for the first who listens, who may have the same to say of all notifications."""
        said, self._unannounced = self._unannounced, ""
        if said:
            self._say(said)


class _Outbox:
    """Messages on their way: one request at a time, with all that came meanwhile in the next."""

    def __init__(self, topic: Topic, failed: Callable[[grpc.RpcError], None]) -> None:
        self._topic, self._failed = topic, failed
        self._lock = threading.Condition()
        self._waiting: deque[tuple[float, Any]] = deque(maxlen=_MOST_WAITING)
        self._hinted = False
        self._sending = False

    def hint(self) -> None:
        """A message without data; one that waits already is enough."""
        with self._lock:
            if self._hinted:
                return
            self._hinted = True
        self.put(b"", "")

    def put(self, data: bytes, job: str) -> None:
        with self._lock:
            self._waiting.append((time.monotonic(), self._topic.message(data, job)))
            if self._sending:
                return
            self._sending = True
        self._send()

    def close(self, timeout_s: float) -> None:
        """Waits until everything was sent or given up, at most so long."""
        with self._lock:
            self._lock.wait_for(lambda: not self._sending, timeout_s)

    def _send(self) -> None:
        oldest = time.monotonic() - pubsub.PUBLISH_S
        batch: list[Any] = []
        with self._lock:
            while self._waiting and len(batch) < _BATCH:
                since, message = self._waiting.popleft()
                if since >= oldest:
                    batch.append(message)
            self._hinted = any(not message.data for _, message in self._waiting)
            if not batch:
                self._sending = False
                self._lock.notify_all()
                return
        try:
            self._topic.publish(batch).add_done_callback(self._sent)
        except ValueError:  # the channel is closed
            with self._lock:
                self._sending = False
                self._lock.notify_all()

    def _sent(self, future: Any) -> None:
        error = future.exception() if not future.cancelled() else None
        # Where there is no topic nobody listens: the first who does makes it.
        if isinstance(error, grpc.RpcError) and error.code() is not grpc.StatusCode.NOT_FOUND:
            self._failed(error)
        self._send()


def _conforms(notifier: PubsubNotifier) -> Notifier:
    return notifier

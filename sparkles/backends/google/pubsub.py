"""One topic of Pub/Sub as sparkles uses it: publish, a watcher's own subscription, its stream. May import projects.

Speaks the v1 API by its generated messages, as datastore.py does: the high-level subscriber keeps ten threads and retries without a word.
Every call has a limit and raises grpc.RpcError. Surprise: the emulator ignores filters, so readers check the
attribute again; and it takes no names of less than 3 characters.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from google.pubsub_v1.types import pubsub as api

from sparkles.backends.google.projects import Place
from sparkles.backends.local.process import liveness, this_process
from sparkles.model import ProcessId

CALL_S = 5.0
PUBLISH_S = 2.0
RETENTION_S = 600
"""Least that Pub/Sub takes: who was away for longer reads everything again anyway."""

EXPIRATION_S = 86_400
"""Least that Pub/Sub takes: what a killed watcher left is gone a day later by itself."""

ACK_S = 30

_Publish, _Message = api.PublishRequest.pb(), api.PubsubMessage.pb()
_Topic, _GetTopic, _Subscription = api.Topic.pb(), api.GetTopicRequest.pb(), api.Subscription.pb()
_Pull, _Pulled = api.StreamingPullRequest.pb(), api.StreamingPullResponse.pb()
_Get, _Delete = api.GetSubscriptionRequest.pb(), api.DeleteSubscriptionRequest.pb()
_List, _Listed = api.ListSubscriptionsRequest.pb(), api.ListSubscriptionsResponse.pb()


class Topic:
    """The topic of one installation."""

    def __init__(self, channel: grpc.Channel, place: Place) -> None:
        self._channel = channel
        self._project = f"projects/{place.project}"
        self.name = f"{self._project}/topics/{place.topic}"
        self._installation = place.namespace
        self._sender = secrets.token_hex(8)
        # Labels take less than namespaces do.
        self._label = hashlib.sha256(place.namespace.encode()).hexdigest()[:20]
        publisher, subscriber = "/google.pubsub.v1.Publisher/", "/google.pubsub.v1.Subscriber/"
        self._publish = self._unary(publisher + "Publish", _Publish, api.PublishResponse.pb())
        self._create_topic = self._unary(publisher + "CreateTopic", _Topic, _Topic)
        self._get_topic = self._unary(publisher + "GetTopic", _GetTopic, _Topic)
        self._create = self._unary(subscriber + "CreateSubscription", _Subscription, _Subscription)
        self._get = self._unary(subscriber + "GetSubscription", _Get, _Subscription)
        self._list = self._unary(subscriber + "ListSubscriptions", _List, _Listed)
        self._delete = self._unary(subscriber + "DeleteSubscription", _Delete, None)
        self._pull = channel.stream_stream(
            subscriber + "StreamingPull",
            request_serializer=_Pull.SerializeToString,
            response_deserializer=_Pulled.FromString,
        )

    def _unary(self, method: str, request: Any, response: Any) -> Any:
        return self._channel.unary_unary(
            method,
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString if response is not None else bytes,  # None would count as a failure
        )

    def message(self, data: bytes, job: str) -> Any:
        """A message; without data it is a bare hint."""
        return _Message(data=data, attributes={"installation": self._installation, "job": job, "sender": self._sender})

    def concerns_us(self, message: Any) -> bool:
        """Whether it is of this installation, and from somebody else."""
        attributes = message.attributes
        return bool(attributes.get("installation") == self._installation and attributes.get("sender") != self._sender)

    def publish(self, messages: Iterable[Any]) -> grpc.Future:
        """Sends messages in one request; the future ends within PUBLISH_S."""
        request = _Publish(topic=self.name, messages=messages)
        return self._publish.future(request, timeout=PUBLISH_S, metadata=_routed("topic", self.name))

    def is_there(self) -> bool:
        """Whether the topic exists."""
        request = _GetTopic(topic=self.name)
        try:
            self._get_topic(request, timeout=CALL_S, metadata=_routed("topic", self.name))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return False
            raise
        return True

    def create(self) -> None:
        """Makes the topic; harmless where it is there."""
        try:
            self._create_topic(_Topic(name=self.name), timeout=CALL_S, metadata=_routed("name", self.name))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise

    def subscribe(self) -> str:
        """Makes a subscription for this process, and the topic where it is missing; what is published from now on is kept for it."""
        name = f"{self._project}/subscriptions/{_short(self.name)}-{self._label[:8]}-{secrets.token_hex(8)}"
        me = this_process()
        subscription = _Subscription(
            name=name,
            topic=self.name,
            ack_deadline_seconds=ACK_S,
            filter=f'attributes.installation = "{self._installation}"',
            labels={
                "sparkles": self._label,
                "host": _label(me.host),
                "pid": str(me.pid),
                "ticks": str(me.ticks),
                "started": repr(me.started).replace(".", "_"),
                "boot": _label(me.boot_id),
            },
        )
        subscription.message_retention_duration.seconds = RETENTION_S
        subscription.expiration_policy.ttl.seconds = EXPIRATION_S
        try:
            self._create(subscription, timeout=CALL_S, metadata=_routed("name", name))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            self.create()
            self._create(subscription, timeout=CALL_S, metadata=_routed("name", name))
        return name

    def is_subscribed(self, name: str) -> bool:
        """Whether the subscription is still there."""
        try:
            self._get(_Get(subscription=name), timeout=CALL_S, metadata=_routed("subscription", name))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return False
            raise
        return True

    def unsubscribe(self, name: str, timeout_s: float = CALL_S) -> None:
        """Removes a subscription; harmless where it is gone."""
        try:
            self._delete(_Delete(subscription=name), timeout=timeout_s, metadata=_routed("subscription", name))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise

    def stream(self, requests: Iterator[Any], subscription: str) -> Any:
        """Opens a streaming pull: a call that gives responses and can be cancelled. `requests` are what `pull_request` makes."""
        return self._pull(requests, metadata=_routed("subscription", subscription))

    def leftovers(self) -> list[str]:
        """Subscriptions of this installation whose process is known to be dead: it ran on this machine and does not any more."""
        found, token = [], ""
        while True:
            request = _List(project=self._project, page_size=1000, page_token=token)
            page = self._list(request, timeout=CALL_S, metadata=_routed("project", self._project))
            found += [each.name for each in page.subscriptions if self._is_left(each)]
            token = page.next_page_token
            if not token:
                return found

    def _is_left(self, subscription: Any) -> bool:
        labels = subscription.labels
        if subscription.topic != self.name or labels.get("sparkles") != self._label:
            return False
        host = os.uname().nodename
        if labels.get("host") != _label(host):
            return False  # it goes by itself a day after its last use
        try:
            owner = ProcessId(
                host=host,
                pid=int(labels["pid"]),
                started=float(labels["started"].replace("_", ".")),
                boot_id=labels["boot"],
                ticks=int(labels["ticks"]),
            )
        except (KeyError, ValueError):
            return False
        me = this_process()
        if owner.boot_id == _label(me.boot_id):
            owner = ProcessId(owner.host, owner.pid, owner.started, me.boot_id, owner.ticks)
        return liveness(owner) == "dead"

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()


def pull_request(subscription: str = "", acknowledged: Iterable[str] = ()) -> Any:
    """The first request of a stream names the subscription; later ones acknowledge, or only keep it open."""
    if subscription:
        return _Pull(subscription=subscription, stream_ack_deadline_seconds=ACK_S, max_outstanding_messages=10_000)
    return _Pull(ack_ids=acknowledged)


def _short(name: str) -> str:
    return name.rpartition("/")[2][:200]


def _label(text: str) -> str:
    """As much of a text as a label's value takes."""
    return re.sub(r"[^a-z0-9_-]", "-", text.lower())[:63]


def _routed(field: str, name: str) -> tuple[tuple[str, str], ...]:
    return (("x-goog-request-params", f"{field}={name}"),)

"""What `doctor` finds out about the cloud: which installation is meant and why, whose login, whether each service answers. May import every
module of this folder.

Nothing here raises what a user can mend: each part carries its problem as a sentence, so that one mistake does not hide the next.
Surprise: a topic that is missing, or no Pub/Sub at all, is a note and no problem, for everything works without, only later.
"""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import grpc

from sparkles.backends.google import connect, names
from sparkles.backends.google.credentials import Login, log_in
from sparkles.backends.google.failures import translate
from sparkles.backends.google.fleet import BUILT, find_consume, version_of
from sparkles.backends.google.logins import LoginFile, find_login, gcloud_account
from sparkles.backends.google.projects import Place, find_place, find_project
from sparkles.backends.google.pubsub import Topic
from sparkles.config import Settings
from sparkles.errors import BackendError, ConfigError, SparklesError

_Question = tuple[str, str, str, Callable[[], str | None]]
"""A service's short name, its name for people, what of it is asked for, and how; the answer is a note."""


@dataclass(frozen=True)
class Named:
    """One name of the installation. `source` says where it was found."""

    key: str
    value: str
    source: str


@dataclass(frozen=True)
class Answer:
    """How a service answered. `at` is where it was asked; `ms` is None where it did not answer. `note` is no problem."""

    service: str
    resource: str
    at: str
    ms: float | None = None
    problem: str = ""
    note: str = ""


@dataclass(frozen=True)
class LoginFound:
    """The login. `needed` is False where emulators stand for everything; `account` is "" where it does not say."""

    needed: bool
    kind: str = ""
    account: str = ""
    source: str = ""
    problem: str = ""
    note: str = ""


@dataclass(frozen=True)
class ConsumeFound:
    """The worker's program. `needed` is False where workers are started by hand."""

    needed: bool
    program: str = ""
    source: str = ""
    version: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Checkup:
    """Everything together. `problems` are those of the parts, in the order in which they are to be mended."""

    names: Sequence[Named]
    login: LoginFound
    services: Sequence[Answer]
    consume: ConsumeFound
    problems: Sequence[str]


def check_up(settings: Settings, version: str) -> Checkup:
    """Looks at everything; takes about as long as the slowest service, at most 10 s for each and 15 s for the login.

    Args:
        version: This program's, which the worker's is to agree with.
    """
    problems: list[str] = []
    place: Place | None = None
    used: dict[str, str] = {}
    try:
        used = connect.emulators(settings.environ)
        place = find_place(settings)
    except ConfigError as error:
        problems.append(str(error))
    login, found = _login(settings, used)
    consume = _consume(settings, version)
    services: Sequence[Answer] = ()
    if place is not None and (login is not None or not found.needed):
        services = _services(place, used, login)
    parts = [found.problem, *(each.problem for each in services), consume.problem]
    problems += [problem for problem in parts if problem]
    return Checkup(_names(settings), found, services, consume, problems)


def _names(settings: Settings) -> list[Named]:
    project, source = find_project(settings)
    prefix = settings.sources.get("google.prefix", "")
    found = [
        Named("project", project, source),
        Named("database", settings.google_database, settings.sources.get("google.database", "")),
        Named("namespace", names.namespace(settings.google_prefix), f"follows from the prefix ({prefix})"),
        Named("bucket", settings.google_bucket, settings.sources.get("google.bucket", "") if settings.google_bucket else ""),
        Named("prefix", settings.google_prefix, prefix),
        Named("topic", settings.google_topic, settings.sources.get("google.topic", "")),
    ]
    emulators = [(name, settings.environ.get(name, "")) for name in connect.EMULATORS.values()]
    return found + [Named("emulator", value, name) for name, value in emulators if value]


def _login(settings: Settings, used: dict[str, str]) -> tuple[Login | None, LoginFound]:
    if {"datastore", "storage"} <= set(used):
        return None, LoginFound(needed=False, note="none is needed: emulators take anybody")
    there = find_login(settings.environ)
    try:
        login = log_in(settings.environ)
    except SparklesError as error:
        return None, LoginFound(True, there.kind, there.account, there.source, str(error), _other_login(settings, there))
    return login, LoginFound(True, there.kind, there.account or login.principal, there.source)


def _other_login(settings: Settings, there: LoginFile) -> str:
    """The classic confusion: gcloud's own login is another one than that of programs."""
    account = gcloud_account(settings.environ)
    if not account or there.kind:
        return ""
    return f"gcloud itself is logged in as {account} (`gcloud auth login`); that login is not for programs"


def _services(place: Place, used: dict[str, str], login: Login | None) -> list[Answer]:
    with ExitStack() as opened:
        datastore = opened.enter_context(closing(connect.open_datastore(place, used.get("datastore"), login)))
        bucket = opened.enter_context(closing(connect.open_bucket(place, used.get("storage"), login)))
        topic = connect.open_topic(place, used, login)
        questions: list[_Question] = [
            ("datastore", "Datastore", f"database {place.database} of {place.project}", datastore.check),
            ("storage", "Cloud Storage", f"gs://{place.bucket}/{place.prefix}", bucket.check),
        ]
        if topic is not None:
            opened.enter_context(closing(topic))
            questions.append(("pubsub", "Pub/Sub", topic.name, functools.partial(_look_at_topic, topic)))
        with ThreadPoolExecutor(len(questions)) as pool:
            answers = list(pool.map(lambda question: _ask(question, used), questions))
    if topic is None:
        why = f"{connect.EMULATORS['pubsub']} is not set, other emulators are: changes are polled for"
        answers.append(Answer("Pub/Sub", place.topic, "", note=why))
    return answers


def _ask(question: _Question, used: dict[str, str]) -> Answer:
    name, service, resource, ask = question
    at = used.get(name, f"{name}.googleapis.com")
    try:
        ask()  # the first call connects, which takes longer than any later one
        began = time.monotonic()
        note = ask()
    except BackendError as error:
        hint = connect.hint_of_emulator(error, name, used)
        return Answer(service, resource, at, problem=f"{error} {hint}".rstrip())
    return Answer(service, resource, at, (time.monotonic() - began) * 1000, note=note or "")


def _look_at_topic(topic: Topic) -> str:
    try:
        return "" if topic.is_there() else "not there yet: whoever watches a job first makes it"
    except grpc.RpcError as error:
        raise translate(error, "Pub/Sub: look whether the topic is there", topic.name) from error


def _consume(settings: Settings, version: str) -> ConsumeFound:
    needed = settings.fleet == "processes"
    try:
        program = find_consume(settings.consume)
    except ConfigError as error:
        return ConsumeFound(needed, problem=str(error) if needed else "")
    source = settings.sources.get("consume", "") if settings.consume else "PATH" if shutil.which("consume") else "built here"
    found, why = version_of(program)
    mend = (
        "`make consume` builds it"
        if Path(program) == BUILT
        else "take the one of this version, or build it with `make consume`"
    )
    problem = ""
    if not found:
        problem = f"consume: {program} cannot be run ({why}); {mend}"
    elif found != version:
        problem = f"consume: {program} is of version {found}, expected {version} as sparkles; {mend}"
    return ConsumeFound(needed, program, source, found, problem if needed else "")

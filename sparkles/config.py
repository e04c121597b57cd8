"""Settings: the one reader of environment variables and settings files. May import errors, model, suggest and units.

Later wins: the built-in value, ~/.config/sparkles/config.toml, sparkles.toml at the project root, `[profile.NAME]` of either, the
SPARKLES_ variable of the key, the command line. Unknown keys are refused with the nearest right one.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from sparkles.errors import ConfigError
from sparkles.suggest import did_you_mean
from sparkles.units import parse_cpu, parse_duration, parse_size, shown

STATE_FOLDER = ".sparkles"

SETTINGS_FILE = "sparkles.toml"


class Settings(msgspec.Struct, frozen=True):
    """What a command works with. `sources` maps each key to where its value came from, for `sparkles doctor`.

    cpu and memory_bytes: what local tasks may use together; None: the machine's. `lease_s`: how long a worker's heartbeat may stand
    still before it counts as frozen. `google_prefix` ends with "/" or is empty; a `google_project` that is "" is looked for where Google's
    own tools keep it (backends.google.projects).
    """

    root: Path
    state: Path
    backend: str = "local"
    fleet: str = "processes"
    consume: str = ""
    google_project: str = ""
    google_bucket: str = ""
    google_database: str = "(default)"
    google_topic: str = "sparkles"
    google_prefix: str = "sparkles/"
    cpu: float | None = None
    memory_bytes: int | None = None
    lease_s: float = 60.0
    default_cpu: float = 1.0
    default_memory_bytes: int | None = None
    default_timeout_s: float | None = None
    default_image: str = ""
    profile: str = ""
    environ: Mapping[str, str] = {}
    sources: Mapping[str, str] = {}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a string, found {shown(value)}")
    return value


def _backend(value: Any) -> str:
    if value not in ("local", "cloud"):
        raise ValueError(f"expected 'local' or 'cloud', found {shown(value)}")
    return str(value)


def _fleet(value: Any) -> str:
    if value == "kubernetes":
        raise ValueError(
            "'kubernetes' is not part of this version; use 'processes' (workers on this machine), or 'none' and start consume yourself"
            " on any machine"
        )
    if value not in ("processes", "none"):
        raise ValueError(f"expected 'processes' or 'none', found {shown(value)}")
    return str(value)


def _named(pattern: str, expected: str) -> Callable[[Any], str]:
    compiled = re.compile(pattern)

    def convert(value: Any) -> str:
        if not compiled.fullmatch(_text(value)):
            raise ValueError(f"expected {expected}, found {shown(value)}")
        return str(value)

    return convert


def _prefix(value: Any) -> str:
    parts = [part for part in _text(value).split("/") if part]
    if any(part in (".", "..") or not re.fullmatch(r"[A-Za-z0-9._-]+", part) for part in parts) or len(value) > 100:
        raise ValueError(f"expected up to 100 of A-Z a-z 0-9 . _ - and / between them, found {shown(value)}")
    return "".join(f"{part}/" for part in parts)


def _duration(value: Any) -> float:
    seconds = parse_duration(value)
    if seconds <= 0:
        raise ValueError(f"expected a duration above 0, found {shown(value)}")
    return seconds


KEYS: dict[str, tuple[str, Any]] = {
    "backend": ("backend", _backend),
    "fleet": ("fleet", _fleet),
    "consume": ("consume", _text),
    # A project's id is 6 to 30 letters, digits and hyphens, an old one with its domain before a colon.
    "google.project": (
        "google_project",
        _named(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", "the id of a project, not its name"),
    ),
    "google.bucket": (
        "google_bucket",
        _named(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", "a bucket's name without gs:// and folders"),
    ),
    "google.database": (
        "google_database",
        _named(r"\(default\)|[a-z][a-z0-9-]{2,61}[a-z0-9]", "'(default)' or a database's id"),
    ),
    "google.topic": (
        "google_topic",
        _named(r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}", "a topic's id without projects/.../topics/"),
    ),
    "google.prefix": ("google_prefix", _prefix),
    "local.cpu": ("cpu", parse_cpu),
    "local.memory": ("memory_bytes", parse_size),
    "local.lease": ("lease_s", _duration),
    "defaults.cpu": ("default_cpu", parse_cpu),
    "defaults.memory": ("default_memory_bytes", parse_size),
    "defaults.timeout": ("default_timeout_s", _duration),
    "defaults.image": ("default_image", _text),
}
"""Settings key -> (field of Settings, what turns a file's or a variable's value into the field's; raises ValueError)."""


def variable(key: str) -> str:
    """The environment variable of a settings key: local.cpu -> SPARKLES_LOCAL_CPU."""
    return "SPARKLES_" + key.upper().replace(".", "_")


def find_root(start: Path) -> tuple[Path, str]:
    """The nearest folder from `start` upwards that holds .sparkles/ or sparkles.toml, and which; `start` itself and "" where there is
    none."""
    for folder in (start, *start.parents):
        if (folder / SETTINGS_FILE).is_file():
            return folder, SETTINGS_FILE
        if (folder / STATE_FOLDER).is_dir():
            return folder, STATE_FOLDER
    return start, ""


def load(
    *,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    state: str | None = None,
    profile: str | None = None,
    options: Mapping[str, str | None] | None = None,
) -> Settings:
    """Reads the settings for a command that was started in `cwd` (default: here, with this process's environment). `options` are the
    settings that have an option of their own (--bucket is that of google.bucket), by key; None is one that was not given.

    Raises:
        ConfigError: A file is not TOML, a key is unknown, or a value is not what its key takes; with the file and the key.
    """
    environ = os.environ if environ is None else environ
    cwd = Path.cwd() if cwd is None else cwd
    chosen = state or environ.get("SPARKLES_HOME")
    root, mark = find_root(cwd)
    folder = Path(os.path.normpath(cwd / os.path.expanduser(chosen))) if chosen else root / STATE_FOLDER
    values: dict[str, Any] = {}
    sources: dict[str, str] = dict.fromkeys(KEYS, "built in")
    sources["root"] = f"it has {mark}" if mark else "the current folder"
    sources["state"] = "--state" if state else "SPARKLES_HOME" if chosen else "in the project root"
    profile = profile or environ.get("SPARKLES_PROFILE") or ""
    home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "/") / ".config") / "sparkles" / "config.toml"
    known_profile = not profile
    for path in (home, root / SETTINGS_FILE):
        tables = _read(path)
        for name, source in ((None, str(path)), (profile, f"{path} [profile.{profile}]")):
            table = tables if name is None else _profile(tables, name, path) if name else None
            if table is None:
                continue
            known_profile = known_profile or name is not None
            for key, value in _flatten(table, source, top=name is None):
                _set(values, sources, key, value, source)
    if not known_profile:
        raise ConfigError(f"profile {profile!r} is in neither {home} nor {root / SETTINGS_FILE}")
    for key in KEYS:
        name = variable(key)
        if environ.get(name):
            _set(values, sources, key, environ[name], name)
    for key, given in (options or {}).items():
        if given is not None:
            _set(values, sources, key, given, f"--{key.rpartition('.')[2]}")
    return Settings(root=root, state=folder, profile=profile, environ=environ, sources=sources, **values)


def _profile(tables: dict[str, Any], name: str, path: Path) -> dict[str, Any] | None:
    profiles = tables.get("profile", {})
    found = profiles.get(name) if isinstance(profiles, dict) else profiles
    if found is not None and not isinstance(found, dict):
        raise ConfigError(f"{path}: profile {name!r}: expected a table, [profile.{name}], found {shown(found)}")
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: expected text in UTF-8, found the byte 0x{error.object[error.start]:02x}") from None
    except ValueError:
        # What a date or a number of thousands of digits cannot be: tomllib hands Python's own words through.
        raise ConfigError(f"{path}: not TOML: a date that does not exist, or a number with too many digits") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _flatten(table: dict[str, Any], source: str, *, top: bool) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    sections = {key.split(".")[0] for key in KEYS if "." in key}
    for name, value in table.items():
        if top and name == "profile":
            continue
        if name in sections and isinstance(value, dict):
            found.extend((f"{name}.{inner}", each) for inner, each in value.items())
        else:
            found.append((name, value))
    for key, value in found:
        if key in sections and key not in KEYS:
            raise ConfigError(f"{source}: {key}: expected a table, [{key}], found {shown(value)}")
        if key not in KEYS:
            near = did_you_mean(key, KEYS) or did_you_mean(key, sections)
            raise ConfigError(f"{source}: unknown key {key!r}.{near}")
    return found


def _set(values: dict[str, Any], sources: dict[str, str], key: str, value: Any, source: str) -> None:
    field, convert = KEYS[key]
    try:
        values[field] = convert(value)
    except ValueError as error:
        raise ConfigError(f"{source}: {key}: {error}") from None
    sources[key] = source

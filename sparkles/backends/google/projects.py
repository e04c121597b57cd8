"""Which project, database, bucket and topic are meant, and where that was found: settings first, then where Google's own tools keep a
project. May import config, names and errors.

gcloud's files are read as they are: asking gcloud itself takes a second. Surprise: gcloud has several configurations, and the active one
need not be `default`.
"""

from __future__ import annotations

import configparser
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sparkles.backends.google import names
from sparkles.config import Settings, variable
from sparkles.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """An installation in the cloud (docs/wire.md). `project_source` says where the project was found."""

    project: str
    database: str
    bucket: str
    topic: str
    prefix: str
    project_source: str

    @property
    def namespace(self) -> str:
        """Of its entities in Datastore; also the attribute `installation` of its messages."""
        return names.namespace(self.prefix)


def find_place(settings: Settings) -> Place:
    """Raises ConfigError where a project or a bucket is named nowhere; with every way to name it."""
    project, source = find_project(settings)
    missing = []
    if not project:
        missing.append(
            "- a project, none of these names one: --project, [google] project in sparkles.toml or ~/.config/sparkles/config.toml,"
            f" {variable('google.project')}, GOOGLE_CLOUD_PROJECT, the login (`gcloud auth application-default login`),"
            " gcloud's configuration (`gcloud config set project PROJECT`)"
        )
    if not settings.google_bucket:
        missing.append(
            "- a bucket, none of these names one: --bucket, [google] bucket in sparkles.toml or ~/.config/sparkles/config.toml,"
            f" {variable('google.bucket')}. To make one: `gcloud storage buckets create gs://NAME --location=REGION`"
        )
    if missing:
        chosen = settings.sources.get("backend", "")
        raise ConfigError(f'backend = "cloud" ({chosen}) needs\n' + "\n".join(missing))
    return Place(
        project, settings.google_database, settings.google_bucket, settings.google_topic, settings.google_prefix, source
    )


def find_project(settings: Settings) -> tuple[str, str]:
    """The project and where it was found; two empty strings where it was not."""
    if settings.google_project:
        return settings.google_project, settings.sources.get("google.project", "")
    environ = settings.environ
    if environ.get("GOOGLE_CLOUD_PROJECT"):
        return environ["GOOGLE_CLOUD_PROJECT"], "GOOGLE_CLOUD_PROJECT"
    for project, source in (_of_login(environ), _of_gcloud(environ)):
        if project:
            return project, source
    return "", ""


def gcloud_folder(environ: Mapping[str, str]) -> Path:
    """Where gcloud keeps its files."""
    chosen = environ.get("CLOUDSDK_CONFIG")
    return Path(chosen) if chosen else Path(environ.get("HOME") or os.path.expanduser("~")) / ".config" / "gcloud"


def login_file(environ: Mapping[str, str]) -> Path:
    """Where the application default credentials are, if they are a file."""
    chosen = environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    return Path(chosen) if chosen else gcloud_folder(environ) / "application_default_credentials.json"


def _of_login(environ: Mapping[str, str]) -> tuple[str, str]:
    path = login_file(environ)
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return "", ""  # a login that is missing or damaged is said when somebody logs in with it
    if not isinstance(found, dict):
        return "", ""
    for key in ("project_id", "quota_project_id"):
        if isinstance(found.get(key), str) and found[key]:
            return found[key], f"{key} of {path}"
    return "", ""


def _of_gcloud(environ: Mapping[str, str]) -> tuple[str, str]:
    if environ.get("CLOUDSDK_CORE_PROJECT"):
        return environ["CLOUDSDK_CORE_PROJECT"], "CLOUDSDK_CORE_PROJECT"
    return gcloud_value(environ, "project")


def gcloud_value(environ: Mapping[str, str], key: str) -> tuple[str, str]:
    """What gcloud's active configuration holds as core/KEY, and which configuration that is; two empty strings where it holds nothing."""
    folder = gcloud_folder(environ)
    name, chosen_by = _configuration(environ, folder)
    if "/" in name:
        return "", ""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string((folder / "configurations" / f"config_{name}").read_text(encoding="utf-8"))
    except (OSError, ValueError, configparser.Error):
        return "", ""
    value = parser.get("core", key, fallback="")
    return value, f"gcloud's configuration {name} ({chosen_by})" if value else ""


def _configuration(environ: Mapping[str, str], folder: Path) -> tuple[str, str]:
    """The active configuration, and what makes it that."""
    chosen = environ.get("CLOUDSDK_ACTIVE_CONFIG_NAME")
    if chosen:
        return chosen, "CLOUDSDK_ACTIVE_CONFIG_NAME"
    path = folder / "active_config"
    try:
        active = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        active = ""
    return (active, str(path)) if active else ("default", "no other is active")

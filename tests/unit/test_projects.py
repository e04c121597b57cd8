"""Which project is meant: the first of flag, variable, settings files, GOOGLE_CLOUD_PROJECT, login, gcloud's active configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from sparkles import config
from sparkles.backends.google.projects import find_place, find_project
from sparkles.errors import ConfigError


class Home:
    """A user's files, and a project folder beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gcloud = folder / "home" / ".config" / "gcloud"
        self.project = folder / "project"
        (self.gcloud / "configurations").mkdir(parents=True)
        self.project.mkdir()

    def settings(
        self, environ: Mapping[str, str], options: Mapping[str, str] | None = None, profile: str = ""
    ) -> config.Settings:
        variables = {"HOME": str(self.folder / "home"), **environ}
        return config.load(cwd=self.project, environ=variables, options=options, profile=profile)

    def configure(self, name: str, text: str) -> None:
        (self.gcloud / "configurations" / f"config_{name}").write_text(text)

    def log_in(self, **fields: str) -> None:
        (self.gcloud / "application_default_credentials.json").write_text(json.dumps(fields))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_each_goes_before_the_next(home: Home) -> None:
    """Everything names a project; what is first is taken away step by step, and each time the next one is found and named."""
    user_file = home.folder / "home" / ".config" / "sparkles" / "config.toml"
    user_file.parent.mkdir(parents=True)
    user_file.write_text('[google]\nproject = "of-the-users-file"\n')
    own_file = home.project / "sparkles.toml"
    own_file.write_text('[google]\nproject = "of-the-file"\n[profile.p.google]\nproject = "of-the-profile"\n')
    home.log_in(quota_project_id="of-the-login")
    home.configure("default", "[core]\nproject = of-gcloud\n")
    environ = {"SPARKLES_GOOGLE_PROJECT": "of-sparkles", "GOOGLE_CLOUD_PROJECT": "of-google", "CLOUDSDK_CORE_PROJECT": "of-sdk"}
    found = []

    def find(options: Mapping[str, str] | None = None, profile: str = "") -> None:
        found.append(find_project(home.settings(environ, options, profile)))

    find({"google.project": "of-the-flag"}, "p")
    find(None, "p")
    del environ["SPARKLES_GOOGLE_PROJECT"]
    find(None, "p")
    find()
    own_file.unlink()
    find()
    user_file.unlink()
    find()
    del environ["GOOGLE_CLOUD_PROJECT"]
    find()
    home.log_in()
    find()
    del environ["CLOUDSDK_CORE_PROJECT"]
    find()
    home.configure("default", "")
    find()
    login = home.gcloud / "application_default_credentials.json"
    assert found == [
        ("of-the-flag", "--project"),
        ("of-sparkles", "SPARKLES_GOOGLE_PROJECT"),
        ("of-the-profile", f"{own_file} [profile.p]"),
        ("of-the-file", str(own_file)),
        ("of-the-users-file", str(user_file)),
        ("of-google", "GOOGLE_CLOUD_PROJECT"),
        ("of-the-login", f"quota_project_id of {login}"),
        ("of-sdk", "CLOUDSDK_CORE_PROJECT"),
        ("of-gcloud", "gcloud's configuration default (no other is active)"),
        ("", ""),
    ]


def test_gclouds_active_configuration(home: Home) -> None:
    """The one that is active, by its file or by gcloud's variable; not always `default`."""
    home.configure("default", "[core]\nproject = not-this\n")
    home.configure("work", "[core]\naccount = me@example.com\nproject = the-work\n")
    home.configure("other", "[core]\nproject = the-other\n")
    (home.gcloud / "active_config").write_text("work\n")
    assert find_project(home.settings({})) == ("the-work", f"gcloud's configuration work ({home.gcloud / 'active_config'})")
    found = find_project(home.settings({"CLOUDSDK_ACTIVE_CONFIG_NAME": "other"}))
    assert found == ("the-other", "gcloud's configuration other (CLOUDSDK_ACTIVE_CONFIG_NAME)")


def test_gclouds_folder_can_be_elsewhere(home: Home, tmp_path: Path) -> None:
    """CLOUDSDK_CONFIG names it; the login is looked for there too."""
    (tmp_path / "elsewhere" / "configurations").mkdir(parents=True)
    (tmp_path / "elsewhere" / "configurations" / "config_default").write_text("[core]\nproject = its-project\n")
    home.configure("default", "[core]\nproject = not-this\n")
    home.log_in(quota_project_id="nor-this")
    environ = {"CLOUDSDK_CONFIG": str(tmp_path / "elsewhere")}
    assert find_project(home.settings(environ))[0] == "its-project"


@pytest.mark.parametrize(
    "text", ["", "project = x\n", "[core\n", "[compute]\nzone = a\n", "[core]\naccount = me\n", "[core]\nproject =\n"]
)
def test_configurations_that_name_no_project(home: Home, text: str) -> None:
    """Nothing found and nothing raised, whatever is in the file."""
    home.configure("default", text)
    assert find_project(home.settings({})) == ("", "")


@pytest.mark.parametrize("active", ["../../secret", "nowhere", "\x00", ""])
def test_an_active_configuration_that_is_none(home: Home, active: str) -> None:
    """A name is a name and no path; one that does not exist names nothing."""
    (home.gcloud / "secret").write_text("[core]\nproject = secret-one\n")
    (home.gcloud / "active_config").write_text(active)
    assert find_project(home.settings({})) == ("", "")


@pytest.mark.parametrize("text", ["{", "[]", "7", '{"project_id": 3}', '{"project_id": ""}', "\x80"])
def test_logins_that_name_no_project(home: Home, text: str) -> None:
    """A damaged login is told when somebody logs in with it, not here."""
    (home.gcloud / "application_default_credentials.json").write_bytes(text.encode("latin-1"))
    assert find_project(home.settings({})) == ("", "")


def test_a_service_accounts_own_project(home: Home, tmp_path: Path) -> None:
    """The key file that GOOGLE_APPLICATION_CREDENTIALS names goes before the user's login."""
    home.log_in(quota_project_id="of-the-user")
    key = tmp_path / "key.json"
    key.write_text(json.dumps({"project_id": "of-the-key"}))
    found = find_project(home.settings({"GOOGLE_APPLICATION_CREDENTIALS": str(key)}))
    assert found == ("of-the-key", f"project_id of {key}")


def test_what_is_named_nowhere(home: Home) -> None:
    """Both are asked for at once, with every way to name them."""
    with pytest.raises(ConfigError) as raised:
        find_place(home.settings({"SPARKLES_BACKEND": "cloud"}))
    said = str(raised.value)
    assert said.startswith('backend = "cloud" (SPARKLES_BACKEND) needs\n- a project, none of these names one: --project, ')
    assert "\n- a bucket, none of these names one: --bucket, " in said
    for way in ("SPARKLES_GOOGLE_PROJECT", "GOOGLE_CLOUD_PROJECT", "gcloud config set project", "SPARKLES_GOOGLE_BUCKET"):
        assert way in said


def test_a_place(home: Home) -> None:
    """Everything of an installation, with the namespace that follows from the prefix."""
    environ = {"SPARKLES_GOOGLE_BUCKET": "mine", "SPARKLES_GOOGLE_PREFIX": "team/a", "GOOGLE_CLOUD_PROJECT": "proj-1"}
    place = find_place(home.settings(environ))
    assert (place.project, place.project_source) == ("proj-1", "GOOGLE_CLOUD_PROJECT")
    assert (place.database, place.bucket, place.topic) == ("(default)", "mine", "sparkles")
    assert (place.prefix, place.namespace) == ("team/a/", "team.a")

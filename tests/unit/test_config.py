"""Settings: where they come from, who wins, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkles import config
from sparkles.errors import ConfigError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with an empty home beside it."""
    (tmp_path / "home" / ".config" / "sparkles").mkdir(parents=True)
    project = tmp_path / "project"
    (project / "deep" / "er").mkdir(parents=True)
    return project


def load(project: Path, *, cwd: Path | None = None, **kwargs):
    environ = {"HOME": str(project.parent / "home"), **kwargs.pop("environ", {})}
    return config.load(cwd=cwd or project, environ=environ, **kwargs)


def test_nothing_is_needed(project: Path) -> None:
    """Without files and variables: the current folder is the root and every value is built in."""
    settings = load(project)
    assert (settings.root, settings.state) == (project, project / ".sparkles")
    assert (settings.cpu, settings.lease_s, settings.default_cpu) == (None, 60.0, 1.0)
    assert {settings.sources[key] for key in config.KEYS} == {"built in"}
    assert not settings.state.exists()


@pytest.mark.parametrize("mark", [".sparkles/", "sparkles.toml"])
def test_the_root_is_found_upwards(project: Path, mark: str) -> None:
    """The nearest folder with .sparkles/ or sparkles.toml."""
    if mark.endswith("/"):
        (project / mark).mkdir()
    else:
        (project / mark).write_text("")
    assert load(project, cwd=project / "deep" / "er").root == project


def test_the_nearest_root_wins(project: Path) -> None:
    """A project inside a project is a project of its own; a file named .sparkles marks nothing."""
    (project / "sparkles.toml").write_text("")
    (project / "deep" / ".sparkles").mkdir()
    (project / "deep" / "er" / ".sparkles").write_text("")
    assert load(project, cwd=project / "deep" / "er").root == project / "deep"


def test_later_wins(project: Path) -> None:
    """Built in, the user's file, the project's, a variable; sources say which."""
    home = project.parent / "home" / ".config" / "sparkles" / "config.toml"
    home.write_text('[local]\ncpu = 2\nmemory = "1Gi"\nlease = "30s"\n')
    (project / "sparkles.toml").write_text('[local]\nmemory = "2Gi"\nlease = "40s"\n')
    settings = load(project, environ={"SPARKLES_LOCAL_LEASE": "50"})
    assert (settings.cpu, settings.memory_bytes, settings.lease_s) == (2.0, 2 << 30, 50.0)
    assert settings.sources["local.cpu"] == str(home)
    assert settings.sources["local.memory"] == str(project / "sparkles.toml")
    assert settings.sources["local.lease"] == "SPARKLES_LOCAL_LEASE"
    assert settings.sources["backend"] == "built in"


def test_a_profile_wins_over_the_rest_of_its_file(project: Path) -> None:
    """[profile.NAME] by --profile or SPARKLES_PROFILE, its sections included."""
    (project / "sparkles.toml").write_text('[defaults]\ncpu = 1\n[profile.big.defaults]\ncpu = 8\ntimeout = "2h"\n')
    plain, big = load(project), load(project, profile="big")
    assert (plain.default_cpu, plain.default_timeout_s) == (1.0, None)
    assert (big.default_cpu, big.default_timeout_s) == (8.0, 7200.0)
    assert big.sources["defaults.cpu"].endswith("[profile.big]")
    assert load(project, environ={"SPARKLES_PROFILE": "big"}).default_cpu == 8.0


def test_the_state_folder(project: Path) -> None:
    """--state wins over SPARKLES_HOME; relative ones start at the current folder; the root stays where it is."""
    (project / "sparkles.toml").write_text("")
    deep = project / "deep"
    settings = load(project, cwd=deep, environ={"SPARKLES_HOME": "elsewhere/state"})
    assert (settings.state, settings.root) == (deep / "elsewhere" / "state", project)
    assert (settings.sources["state"], settings.sources["root"]) == ("SPARKLES_HOME", "it has sparkles.toml")
    settings = load(project, cwd=deep, state="../../s", environ={"SPARKLES_HOME": "elsewhere/state"})
    assert (settings.state, settings.root) == (project.parent / "s", project)
    assert settings.sources["state"] == "--state"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[local]\ncpus = 2\n", "unknown key 'local.cpus'. Did you mean 'local.cpu'?"),
        ("bakend = 'local'\n", "unknown key 'bakend'. Did you mean 'backend'?"),
        ("[loacl]\ncpu = 2\n", "unknown key 'loacl'. Did you mean 'local'?"),
        ("backend = 'aws'\n", "backend: expected 'local' or 'cloud', found 'aws'"),
        (
            "fleet = 'kubernetes'\n",
            "fleet: 'kubernetes' is not part of this version; use 'processes' (workers on this machine), or",
        ),
        ("fleet = 'pods'\n", "fleet: expected 'processes' or 'none', found 'pods'"),
        ("[google]\nprojekt = 'mine-42'\n", "unknown key 'google.projekt'. Did you mean 'google.project'?"),
        (
            "[google]\nproject = 'My Project'\n",
            "google.project: expected the id of a project, not its name, found 'My Project'",
        ),
        (
            "[google]\nbucket = 'gs://mine'\n",
            "google.bucket: expected a bucket's name without gs:// and folders, found 'gs://mine'",
        ),
        ("[google]\ndatabase = 'My'\n", "google.database: expected '(default)' or a database's id, found 'My'"),
        (
            "[google]\ntopic = 'projects/p/topics/t'\n",
            "google.topic: expected a topic's id without projects/.../topics/, found",
        ),
        ("[google]\nprefix = 'a/../b'\n", "google.prefix: expected up to 100 of A-Z a-z 0-9 . _ - and / between them, found"),
        ("[defaults]\nimage = 3\n", "defaults.image: expected a string, found 3"),
        ("[local]\ncpu = 0\n", "local.cpu: expected a number of cores above 0, found 0"),
        ("[local]\ncpu = true\n", "local.cpu: expected a number of cores above 0, found true"),
        ("[local]\ncpu = 'many'\n", "local.cpu: expected a number of cores such as 2, 0.5 or 500m, found 'many'"),
        ("[local]\ncpu = [1]\n", "local.cpu: expected a number of cores above 0, found a list"),
        ("[local]\ncpu = {a = 1}\n", "local.cpu: expected a number of cores above 0, found a table"),
        ("[local]\ncpu = inf\n", "local.cpu: expected a number of cores above 0, found inf"),
        (
            f"[local]\ncpu = 1{'0' * 400}\n",
            "local.cpu: expected a number of cores above 0, found an integer of more than 30 digits",
        ),
        (f"[local]\ncpu = 1{'0' * 5000}\n", "not TOML: a date that does not exist, or a number with too many digits"),
        ("[defaults]\nmemory = true\n", "defaults.memory: expected a size in bytes above 0, found true"),
        ("[defaults]\ntimeout = 2020-01-01\n", "defaults.timeout: expected a number of seconds above 0, found 2020-01-01"),
        (
            f"[defaults]\ntimeout = '{'9' * 400}'\n",
            "defaults.timeout: expected a duration such as 90s, 1.5m or 24h, found '999",
        ),
        ("[local]\nlease = 0\n", "local.lease: expected a duration above 0, found 0"),
        ("[local]\nlease = '0s'\n", "local.lease: expected a duration above 0, found '0s'"),
        ("backend = true\n", "backend: expected 'local' or 'cloud', found true"),
        ("fleet = ['none']\n", "fleet: expected 'processes' or 'none', found a list"),
        ("consume = {}\n", "consume: expected a string, found a table"),
        ("local = 4\n", "local: expected a table, [local], found 4"),
        ("d = 2020-13-01\n", "not TOML: "),
        (b"backend = 'local'\n# caf\xe9\n", ":2: expected text in UTF-8, found the byte 0xe9"),
        ("[local]\nmemory = '4Gx'\n", "local.memory: expected a size such as 4Gi or 800M, found '4Gx'"),
        ("[defaults]\ntimeout = 'soon'\n", "defaults.timeout: expected a duration such as 90s, 1.5m or 24h, found 'soon'"),
        ("[local\n", "not TOML: "),
        ("[profile.big]\nmemry = 1\n", "unknown key 'memry'."),
    ],
)
def test_mistakes_name_the_file_and_the_key(project: Path, text: str | bytes, message: str) -> None:
    """A wrong file is refused with its path, the key, what was expected and what was found, in no programming language's words."""
    path = project / "sparkles.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as raised:
        load(project, profile="big" if "profile" in str(text) else None)
    said = str(raised.value)
    assert said.startswith(f"{path}")
    assert message in said
    for word in ("True", "False", "None", "float", "dict", "datetime", "codec"):
        assert word not in said


def test_mistakes_of_variables_and_profiles(project: Path) -> None:
    """A wrong variable is named; a profile that no file has is refused."""
    with pytest.raises(ConfigError, match=r"^SPARKLES_LOCAL_CPU: local\.cpu: "):
        load(project, environ={"SPARKLES_LOCAL_CPU": "many"})
    with pytest.raises(ConfigError, match=r"^profile 'huge' is in neither .*config\.toml nor .*sparkles\.toml$"):
        load(project, profile="huge")


def test_the_cloud_is_set_in_every_way(project: Path) -> None:
    """A file's table, a variable and an option of the command line, the last one given wins; a prefix gets its slash."""
    text = 'backend = "cloud"\n[google]\nproject = "proj-one"\nbucket = "one"\nprefix = "/mine"\n[profile.two.google]\nbucket = "two"\n'
    (project / "sparkles.toml").write_text(text)
    environ = {"SPARKLES_GOOGLE_PROJECT": "proj-two", "SPARKLES_FLEET": "processes", "SPARKLES_DEFAULTS_IMAGE": "python:3.12"}
    settings = load(project, profile="two", environ=environ, options={"fleet": "none", "backend": None})
    assert (settings.backend, settings.fleet, settings.default_image) == ("cloud", "none", "python:3.12")
    assert (settings.google_project, settings.google_bucket, settings.google_prefix) == ("proj-two", "two", "mine/")
    assert (settings.google_database, settings.google_topic) == ("(default)", "sparkles")
    assert settings.sources["fleet"] == "--fleet"
    assert settings.sources["google.bucket"].endswith("sparkles.toml [profile.two]")
    assert settings.sources["google.project"] == "SPARKLES_GOOGLE_PROJECT"
    assert settings.sources["google.topic"] == "built in"
    with pytest.raises(ConfigError, match=r"^--fleet: fleet: 'kubernetes' is not part of this version"):
        load(project, options={"fleet": "kubernetes"})

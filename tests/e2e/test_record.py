"""What is recorded, through the real command: replay against it, runs forked from it, show."""

import json

import pytest

from tests.support.site import Site

pytestmark = pytest.mark.e2e


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.clear()


def script(site, text):
    (site.folder / "workflow.lua").write_text(text)


def value(site, *arguments, code=0):
    return json.loads(site.sparkles(*arguments, "--json", code=code).stdout)


# replay


@pytest.mark.parametrize("step", ['run(JobBuilder("bad"):setCommandTemplate("exit 3"))', 'shell("exit 3")'])
def test_a_run_that_failed_replays_as_it_was(site, step):
    script(site, f'{step}\nwriteText("out.txt", "x")\n')
    site.sparkles("run", "workflow.lua", code=1)
    text = site.sparkles("replay", "LAST").stdout
    assert "the script replays to its end" in text
    assert "it ends with an error, as recorded or now: workflow.lua:1: " in text


def test_a_step_is_compared_with_the_recorded_one_most_like_it(site):
    commands = ['shell("echo alpha beta gamma")', 'shell("wc -l /dev/null")', 'shell("echo delta")']
    script(site, "\n".join(commands))
    site.sparkles("run", "workflow.lua")
    script(site, "\n".join([commands[0], commands[2], 'shell("wc -c /dev/null")']))
    error = site.sparkles("replay", "LAST", code=1).stderr
    assert "workflow.lua:3: after 2 steps the script asks for shell wc -c /dev/null" in error
    assert "it differs from the one at workflow.lua:2" in error
    assert "-wc -l /dev/null" in error


def test_a_step_like_none_that_is_recorded_never_ran(site):
    script(site, 'shell("echo alpha")')
    site.sparkles("run", "workflow.lua")
    script(site, 'shell("true")')
    assert "it never ran" in site.sparkles("replay", "LAST", code=1).stderr


@pytest.mark.parametrize(("call", "named"), [("sleep(0.03)", "sleep 0.03 s,"), ("now()", "now,"), ("random()", "random,")])
def test_a_step_is_named_once(site, call, named):
    script(site, 'shell("true")')
    site.sparkles("run", "workflow.lua")
    script(site, f'shell("true")\n{call}')
    assert f"after 1 step the script asks for {named} which run" in site.sparkles("replay", "LAST", code=1).stderr


def test_steps_that_are_not_asked_for_are_listed(site):
    script(site, 'shell("true")\nlog("hello")\nwriteText("o.txt", "x")\n')
    site.sparkles("run", "workflow.lua")
    assert "not asked for" not in site.sparkles("replay", "LAST").stdout
    script(site, 'shell("true")\n')
    assert "1 recorded step is not asked for: write at workflow.lua:3" in site.sparkles("replay", "LAST").stdout
    assert value(site, "replay", "LAST")["notAsked"] == [{"kind": "write", "position": "workflow.lua:3"}]

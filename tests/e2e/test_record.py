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


def values(site, *arguments):
    return [json.loads(line) for line in site.sparkles(*arguments, "--json").stdout.splitlines()]


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
    script(site, 'log("x")\nshell("true")')
    error = site.sparkles("replay", "LAST", code=1).stderr
    assert "workflow.lua:2: after " in error
    assert "it never ran, and the shell at workflow.lua:1 is not asked for so far" in error
    script(site, 'readText("workflow.lua")')
    assert "does not hold: it never ran\n" in site.sparkles("replay", "LAST", code=1).stderr


JOB = """run(JobBuilder("j"):setCommandTemplate("echo {x}"):createTasksFor{{x = 1}, {x = 2}})
shell("echo " .. random(1, 5))
"""


@pytest.mark.parametrize(
    ("before", "after", "sentences"),
    [
        # Its only task has its result, yet no step submitted it.
        ('"j"', '"k"', ("is not asked for so far", "submit spec name\n    -j\n    +k")),
        ("{x = 1}, ", "", ("it differs from the one at workflow.lua:1", "submit count\n    -2\n    +1")),
        ("echo {x}", "echo x{x}", ("it differs from the one at workflow.lua:1", "-echo 1")),
        ("(1, 5)", "(1, 6)", ("the random at workflow.lua:2 is not asked for so far", "random high\n    -5\n    +6")),
    ],
)
def test_a_divergence_names_both_lines(site, before, after, sentences):
    script(site, JOB)
    site.sparkles("run", "workflow.lua")
    (site.folder / "e.lua").write_text("\n" + JOB.replace(before, after))
    error = site.sparkles("replay", "LAST", "e.lua", code=1).stderr
    assert "e.lua:" in error
    for each in (*sentences, "at workflow.lua:"):
        assert each in error


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


# fork

LOOP = """for k = 1, 3 do run(JobBuilder("round"):setCommandTemplate("echo " .. k)) end
local n = step("double", function() return 2 end)
"""


def attempts(site):
    return site.query("SELECT count(*) FROM attempts")[0][0]


def test_a_fork_says_that_it_is_a_new_run_and_show_says_of_which(site):
    script(site, LOOP)
    site.sparkles("run", "workflow.lua")
    (source,) = site.query("SELECT id FROM runs")[0]
    said = site.sparkles("run", "--fork", source).stderr
    forked = value(site, "runs", "-n", "1")["run"]
    assert f"run {forked}: a new run that starts from {source} with 4 steps of it" in said
    assert "goes on" not in said
    assert f"forked from  {source}" in site.sparkles("show", forked).stdout
    assert (value(site, "show", forked)["forkedFrom"], value(site, "show", source)["forkedFrom"]) == (source, None)
    site.sparkles("clean", source, "--yes")
    assert f"{source} (its record was cleaned on " in site.sparkles("show", forked).stdout


def test_a_fork_that_is_resumed_goes_on(site):
    script(site, 'writeText("a.txt", "a")\nif not fileExists("go") then fail("stop") end\n')
    site.sparkles("run", "workflow.lua", code=1)
    site.sparkles("run", "--fork", "LAST", code=1)
    (site.folder / "go").touch()
    said = site.sparkles("run", "workflow.lua").stderr
    assert "goes on: 2 steps recorded" in said


def test_a_fork_reruns_every_job_of_a_name_or_the_one_of_an_id(site):
    script(site, LOOP)
    site.sparkles("run", "workflow.lua")
    source, first = site.query("SELECT owner, id FROM jobs ORDER BY sequence")[0]
    assert attempts(site) == 3
    site.sparkles("run", "--fork", source, "--rerun", "round")
    assert attempts(site) == 6
    site.sparkles("run", "--fork", source, "--rerun", first)
    assert attempts(site) == 7


def test_a_fork_that_is_resumed_still_reruns_what_was_named(site):
    one, two, three = (f'run(JobBuilder("{each}"):setCommandTemplate("echo {each}"))' for each in ("one", "two", "three"))
    script(site, f"{one}\nif fileExists('stop') then fail('stop') end\n{two}\n{three}\n")
    site.sparkles("run", "workflow.lua")
    (third,) = site.query("SELECT id FROM jobs WHERE id LIKE 'three-%'")[0]
    (site.folder / "stop").touch()
    site.sparkles("run", "--fork", "LAST", "--rerun", "one", "--rerun", "two", "--rerun", third, code=1)
    assert attempts(site) == 4
    (site.folder / "stop").unlink()
    planned = {
        each["what"].partition("-")[0]: each for each in values(site, "plan", "workflow.lua") if each["kind"] == "submit"
    }
    assert [planned[name]["tasksNew"] for name in ("one", "two", "three")] == [0, 1, 1]
    site.sparkles("resume", site.query("SELECT id FROM runs ORDER BY sequence DESC")[0][0])
    assert attempts(site) == 6


def test_the_command_that_goes_on_repeats_no_cache(site):
    script(site, 'shell("false")\n')
    said = site.sparkles("run", "--no-cache", "workflow.lua", code=1).stderr
    assert "sparkles run workflow.lua --no-cache" in said
    run = site.query("SELECT id FROM runs")[0][0]
    assert f"sparkles resume {run} --no-cache" in site.sparkles("resume", run, "--no-cache", code=1).stderr


def test_a_fork_draws_as_the_run_that_it_starts_from(site):
    script(
        site,
        """
        local rows = {}
        for i = 1, 3 do rows[i] = {x = math.random(1, 100000)} end
        run(JobBuilder("draw"):setCommandTemplate("true {x}"):createTasksFor(rows))
        shell("echo paid " .. rows[1].x .. " >> paid.txt")
        run(JobBuilder("post"):setCommandTemplate("true"))
        """,
    )
    site.sparkles("run", "workflow.lua")
    site.sparkles("run", "--fork", "LAST", "--rerun", "post")
    assert (attempts(site), (site.folder / "paid.txt").read_text().count("paid")) == (5, 1)


def test_a_fork_reruns_a_step_by_its_name(site):
    script(site, LOOP)
    site.sparkles("run", "workflow.lua")
    said = site.sparkles("run", "--fork", "LAST", "--rerun", "double").stderr
    assert "with 3 steps of it" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--new",), "--fork RUN begins a new run already"),
        (("--rerun", "roudn"), "no such job or step in run r-"),
        (("--rerun", "roudn"), "Did you mean 'round'?"),
        (("--rerun", "xyz"), "(its jobs: round; its steps: double). Every step has a number: sparkles show r-"),
    ],
)
def test_mistakes_of_a_fork_get_a_sentence(site, options, message):
    script(site, LOOP)
    site.sparkles("run", "workflow.lua")
    assert message in site.sparkles("run", "--fork", "LAST", *options, code=2).stderr
    assert site.query("SELECT count(*) FROM runs") == [(1,)]


# show

STRANDS = """map({"x", "y"}, function(item) shell("echo " .. item) end)
pcall(parallel, {a = function() fail("stop") end})
"""


def lines(site):
    (run,) = site.query("SELECT id FROM runs ORDER BY sequence DESC LIMIT 1")[0]
    return run, site.sparkles("show", run).stdout.splitlines()


def test_show_says_how_a_join_ended_and_which_item_a_strand_has(site):
    script(site, STRANDS.replace('fail("stop")', 'shell("exit 3")'))
    site.sparkles("run", "workflow.lua")
    _, shown = lines(site)
    joins = [line for line in shown if "  join  " in line]
    assert "all 2 ended well" in joins[0]
    assert "ended by the error of main/a" in joins[1]
    assert not any("decided" in line for line in shown)
    of = {place: next(line for line in shown if f"main/[{place}] " in line) for place in (1, 2)}
    assert "echo x" in of[1]
    assert "echo y" in of[2]


ITEMS = """
local function work(item) shell("echo " .. (type(item) == "table" and item.n or item)) end
map({"x", {n = 1, text = ("long "):rep(20)}, "x", 2.5}, work)
map({"x"}, work)
fail("stop")
"""


def test_show_has_the_text_of_an_item(site):
    """Of unfinished runs too; equal items are told apart by their place, and a long item is cut."""
    script(site, ITEMS)
    site.sparkles("run", "workflow.lua", code=1)
    run, shown = lines(site)
    strands = [line.split("  main/")[1].split("  ")[0] for line in shown if "  shell  " in line]
    long = '[2] {"n":1,"text":"long long long long lo...'
    assert sorted(strands) == ["[1] x", "[1] x", long, "[3] x", "[4] 2.5"]
    (first, second) = [step["value"]["items"] for step in value(site, "show", run)["steps"] if step["kind"] == "join"]
    assert (len(first), second) == (4, ["x"])
    # That the items stand there before the strands have ended: the script fails while they are open.
    script(site, 'map({"first", "second"}, function(item) if item == "second" then fail("stop") end sleep(600) end)')
    site.sparkles("run", "workflow.lua", "--new", code=1)
    _, shown = lines(site)
    assert any("  main/[1] first  " in line and "  sleep  " in line for line in shown)


def test_show_says_where_steps_stand_in_the_edited_script(site):
    """Where the script asked for them last, whether they were performed then or reused; also after a failure."""
    text = 'shell("true")\nlog("hello")\nlocal found = fileExists("go")\n'
    script(site, text + 'fail("stop")\n')
    site.sparkles("run", "workflow.lua", code=1)
    run = value(site, "runs")["run"]

    def positions():
        return [step["position"].partition(":")[2] for step in value(site, "show", run)["steps"]]

    assert positions() == ["1", "2", "3"]
    script(site, "-- One.\n-- Two.\n\n" + text + 'log("more")\nfail("stop")\n')
    site.sparkles("run", "workflow.lua", code=1)
    assert positions() == ["4", "5", "6", "7"]
    script(site, "-- One.\n" + text + 'log("more")\n')
    site.sparkles("run", "workflow.lua")
    assert positions() == ["2", "3", "4", "5"]


def test_a_fork_shows_whose_the_jobs_of_copied_steps_are(site):
    """A step that the fork did not ask for names the run whose job it is, and is marked; nothing was cleaned."""
    script(site, 'local p = params{k = {default = "a"}}\nrun(JobBuilder("fit"):setCommandTemplate("echo " .. p.k))\n')
    site.sparkles("run", "workflow.lua")
    (source,) = site.query("SELECT id FROM runs")[0]
    (job,) = site.query("SELECT id FROM jobs")[0]
    site.sparkles("run", "--fork", source, "-p", "k=b")
    run, shown = lines(site)
    assert [line for line in shown if "not asked for any more" in line] == [line for line in shown if job in line]
    (copied,) = (line for line in shown if job in line)
    assert copied.endswith(f"{job} (1 task; of run {source}) (not asked for any more)")
    assert not any("cleaned" in line for line in shown)
    assert [step["stale"] for step in value(site, "show", run)["steps"]] == [True, False, False]
    site.sparkles("clean", source, "--yes")
    assert any(f"{job} (1 task; its record was cleaned on " in line for line in site.sparkles("show", run).stdout.splitlines())


def test_show_marks_what_an_edited_script_does_not_ask_for(site):
    script(site, 'shell("echo a")\nwriteText("o.txt", "x")\n')
    site.sparkles("run", "workflow.lua")
    run, shown = lines(site)
    assert not any("not asked for" in line for line in shown)
    script(site, 'writeText("o.txt", "x")\n')
    _, shown = lines(site)
    assert [line for line in shown if "(not asked for any more)" in line] == [line for line in shown if "echo a" in line]
    assert [step["stale"] for step in value(site, "show", run)["steps"]] == [True, False]
    script(site, "this is no Lua")
    assert [step["stale"] for step in value(site, "show", run)["steps"]] == [None, None]


def test_cleaned_jobs_are_named(site):
    script(site, 'local r = run(JobBuilder("one"):setCommandTemplate("echo a"))\nprint(r.tasks[1].exitCode)\n')
    site.sparkles("run", "workflow.lua")
    (job,) = site.query("SELECT id FROM jobs")[0]
    site.sparkles("clean", job, "--yes")
    run, shown = lines(site)
    assert any(f"{job} (1 task; its record was cleaned on " in line for line in shown)
    assert f"the record of {job} was cleaned, and its results with it" in site.sparkles("replay", run, code=1).stderr


# Errors


RAISED_AGAIN = [
    'local ok, e = pcall(shell, "test -e ready") if not ok then log("after: %s", e.kind) error(e) end',
    'local ok, e = pcall(shell, "test -e ready") writeText("status.txt", tostring(ok)) assert(ok, e)',
    'local ok, e = pcall(run, JobBuilder("j"):setCommandTemplate("test -e ROOT/ready")) if not ok then log("x") error(e, 0) end',
    'local f = {a = function() shell("test -e ready") end, b = function() sleep(9) end}\n'
    'local ok, e = pcall(parallel, f) log("x") if not ok then error(e) end',
    'map({1}, function() local ok, e = pcall(shell, "test -e ready") log("x") if not ok then error(e) end end)',
    'local ok, e = pcall(shell, "test -e ready") log("x") if not ok then error("stage 1: " .. e) end',
    'local r = run(JobBuilder("j"):setCommandTemplate("test -e ROOT/ready"), {allowFailures = true})\n'
    'if r.failedCount > 0 then fail("too many failed") end',
]


@pytest.mark.parametrize("text", RAISED_AGAIN)
def test_an_error_that_was_raised_again_is_tried_again(site, text):
    script(site, text.replace("ROOT", str(site.folder)))
    for _ in range(2):
        assert "can go on" in site.sparkles("run", "workflow.lua", code=1).stderr
    (site.folder / "ready").touch()
    site.sparkles("run", "workflow.lua")


# Files that the run itself made


def test_what_the_run_wrote_or_fetched_later_is_no_input_of_an_earlier_job(site):
    (site.folder / "data").mkdir()
    (site.folder / "data/in.csv").write_text("x\n1\n")
    script(
        site,
        """local count = JobBuilder("count"):setCommandTemplate("cat *.csv | wc -l"):addFiles("data/**")
local job = submit(count)
wait(job)
writeCsv("data/best.csv", {{a = 1}})
fetch(job, "data/res")
shell("test -e go")
""",
    )
    site.sparkles("run", "workflow.lua", code=1)
    (site.folder / "go").touch()
    plan = [json.loads(line) for line in site.sparkles("plan", "workflow.lua", "--json").stdout.splitlines()]
    assert [(each["kind"], each["verdict"]) for each in plan if each.get("kind")] == [
        *((kind, "reused") for kind in ("submit", "wait", "write", "fetch")),
        ("shell", "would run"),
    ]
    site.sparkles("run", "workflow.lua")
    assert "the script replays to its end" in site.sparkles("replay", "LAST").stdout
    said = site.sparkles("run", "--fork", "LAST").stderr
    assert "1 task reused" in said

"""Command templates: what is a placeholder, what a value becomes, and that /bin/sh gives every value back."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkles.errors import TemplateError
from sparkles.template import escape, parse, shell_quote
from tests.support.pace import quiet_s

VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40) | st.text(
    "'\"\\$`\n! #~*-a", max_size=30
)


def through_shell(values: list[str]) -> list[bytes]:
    """What `printf %s {value}` prints for each value, by one /bin/sh that reads all the commands from its standard input."""
    commands = [parse("printf %s {value}; printf '\\0'\n").expand({"value": value}) for value in values]
    done = subprocess.run(["/bin/sh"], input="".join(map(str, commands)).encode(), capture_output=True, timeout=60, check=True)
    assert not done.stderr
    return done.stdout.split(b"\0")[:-1]


@settings(max_examples=25, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=80))
def test_the_shell_gives_every_value_back(values: list[str]) -> None:
    """Byte for byte, whatever is in it."""
    assert through_shell(values) == [value.encode() for value in values]


HARD = {
    "empty": "",
    "leading dash": "-n",
    "option": "--help",
    "single quotes": "it's 'quoted'",
    "only single quotes": "''''",
    "double quotes": 'say "hi"',
    "both quotes": "'\"'\"\\'",
    "dollar": "$HOME ${HOME} $(id) $$",
    "backticks": "`id`",
    "backslashes": "\\n\\\\\\",
    "backslash and newline": "a\\\nb",
    "newlines": "\n\na\n\n",
    "carriage return and tab": "\r\n\t",
    "unicode": "Größe 数据 😀 \u202e \ufeff",
    "controls": "".join(map(chr, range(1, 32))) + "\x7f",
    "glob": "* ? [a-z] {a,b}",
    "tilde": "~root",
    "comment": "# not a comment",
    "history": "!!",
    "percent": "%s %d %%",
    "words": "a; rm -rf b && c | d > e &",
    "looks like a placeholder": "{value} {{value}} {^value}",
    "100 kB": "0123456789" * 10_240,
    "100 kB of quotes": "'" * 102_400,
    "100 kB of all": "'\"$`\\\n {}" * 11_378,
}


@pytest.mark.parametrize("value", HARD.values(), ids=HARD)
def test_the_shell_gives_hard_values_back(value: str) -> None:
    """The values that break other tools, each by name."""
    assert through_shell([value, "next"]) == [value.encode(), b"next"]


def test_a_long_value_of_quotes_does_not_multiply() -> None:
    """The better kind of quotes is chosen: a command's length has limits."""
    assert len(shell_quote("'" * 100_000)) == 100_002
    assert len(shell_quote('"$' * 50_000)) == 100_002
    assert shell_quote("plain-1.0/x") == "plain-1.0/x"


PARAMS = {"name": "a b", "n": 3, "x": 0.1, "tiny": 1e-05, "big": 1e16, "whole": 3.0, "yes": True, "no": False, "_u1": "u"}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        pytest.param("run {name}", "run 'a b'", id="quoted"),
        pytest.param("run {name:raw}", "run a b", id="raw"),
        pytest.param("{n} {x} {tiny} {big} {whole}", "3 0.1 1e-05 1e+16 3.0", id="numbers as written"),
        pytest.param("{yes} {no}", "true false", id="booleans"),
        pytest.param("--n={n},{n}{_u1}", "--n=3,3u", id="inside a word"),
        pytest.param("{{name}} {{n:raw}} {{^n}}", "{name} {n:raw} {^n}", id="doubled braces"),
        pytest.param("{{{n}}}", "{{n}}", id="tripled braces"),
        pytest.param("${n} ${{n}} $${n}", "${n} ${{n}} $${n}", id="dollar before the brace"),
        pytest.param("${HOME:-{n}}", "${HOME:-3}", id="inside a shell expansion"),
        pytest.param("awk '{print $1}' | awk '{ n }'", "awk '{print $1}' | awk '{ n }'", id="awk"),
        pytest.param("""echo '{"k": {"n": 1, "x": []}}'""", """echo '{"k": {"n": 1, "x": []}}'""", id="JSON"),
        pytest.param("{} {1} {a,b} {n.x} {n-x} {n :raw} {n:}", "{} {1} {a,b} {n.x} {n-x} {n :raw} {n:}", id="no identifiers"),
        pytest.param("{n", "{n", id="open"),
        pytest.param("}{n}{", "}3{", id="stray braces"),
        pytest.param("", "", id="empty"),
        pytest.param("echo # {name} {name:raw}\necho {name}", "echo # 'a b' a b\necho 'a b'", id="in a comment"),
        pytest.param(
            "jq '{n:.n}' | jq '{n:1}' | f'{i:03d}' ${n:03d}", "jq '{n:.n}' | jq '{n:1}' | f'{i:03d}' ${n:03d}", id="jq"
        ),
        pytest.param("echo a # don't\necho {name}", "echo a # don't\necho 'a b'", id="apostrophe in a comment"),
        pytest.param("cat <<E\ndon't {name}\nE", "cat <<E\ndon't 'a b'\nE", id="here-document"),
        pytest.param('echo "$(cat {name})" "{n}"', 'echo "$(cat \'a b\')" "3"', id="substitution inside quotes"),
        pytest.param("awk '{print}' {name}".replace("{print}", "{{print}}"), "awk '{print}' 'a b'", id="after quotes"),
        pytest.param("echo \\' {name} \\'", "echo \\' 'a b' \\'", id="escaped quotes"),
        pytest.param("echo 'a\\' {name}", "echo 'a\\' 'a b'", id="backslash inside single quotes"),
        pytest.param('echo "{name:raw}"', 'echo "a b"', id="raw inside quotes"),
    ],
)
def test_expand(template: str, expected: str) -> None:
    """What is replaced, and what stays."""
    assert parse(template).expand(PARAMS) == expected


@pytest.mark.parametrize(
    ("template", "params", "message"),
    [
        pytest.param(
            "{smaple}",
            {"sample": "s", "reads": "r"},
            "{smaple} is not a task parameter (parameters: sample, reads). Did you mean {sample}?",
            id="misspelt",
        ),
        pytest.param(
            "awk '{print}' {x}",
            {"x": 1},
            "{print} is not a task parameter (parameters: x). Write {{print}} for the text {print}.",
            id="not meant as a parameter",
        ),
        pytest.param("{x}", {}, "{x} is not a task parameter (parameters: none). Write {{x}} for the text {x}.", id="none"),
        pytest.param(
            "{^raeds}",
            {"reads": "r"},
            "{^raeds} is not a task parameter (parameters: reads). Did you mean {^reads}?",
            id="file",
        ),
        pytest.param("{x}", {"x": None}, "parameter x: expected text, a number or a boolean, found nil", id="nil"),
        pytest.param("{x}", {"x": {"a": 1}}, "parameter x: expected text, a number or a boolean, found a table", id="table"),
        pytest.param("{x:raw}", {"x": [1]}, "parameter x: expected text, a number or a boolean, found a list", id="list"),
        pytest.param("{x}", {"x": b"\xff"}, "parameter x: expected text in UTF-8, found other bytes: b'\\xff'", id="bytes"),
        pytest.param("{x}", {"x": "ab\0c"}, "parameter x: a command cannot hold a NUL (character 3 of the value)", id="NUL"),
        pytest.param(
            "{x:raw}", {"x": "\0"}, "parameter x: a command cannot hold a NUL (character 1 of the value)", id="raw NUL"
        ),
        pytest.param(
            "{x}",
            {"x": "a\ud800"},
            "parameter x: expected text, found half a character: a lone surrogate (character 2 of the value)",
            id="lone surrogate",
        ),
        pytest.param(
            "{x:rwa}",
            {"x": 1},
            "{x:rwa}: 'rwa' is not a format of a placeholder (formats: raw). Did you mean 'raw'? Write {{x:rwa}} for the text {x:rwa}.",
            id="format",
        ),
        pytest.param("{^x:raw}", {"x": 1}, "{^x:raw}: the path of a file takes no format; write {^x}", id="format of a file"),
        pytest.param(
            'echo "{x}"',
            {"x": "$(id)"},
            "{x} stands between \" quotes, and its value '$(id)' needs quotes of its own. "
            "sparkles quotes each value: write {x} without quotes around it",
            id="double quotes",
        ),
        pytest.param(
            "echo 'x={x}'",
            {"x": "a b"},
            "{x} stands between ' quotes, and its value 'a b' needs quotes of its own. "
            "sparkles quotes each value: write {x} without quotes around it",
            id="single quotes",
        ),
    ],
)
def test_errors(template: str, params: dict[str, Any], message: str) -> None:
    """Each names the parameter, what was expected and what was found."""
    with pytest.raises(TemplateError) as caught:
        parse(template).expand(params)
    assert str(caught.value) == message


def test_arguments_are_not_quoted() -> None:
    """No shell reads them: a value stays one argument as it is, and an element stays one argument."""
    template = parse(("prog", "--x={x}", "{y:raw}", "a {x} b", "{{x}}", ""))
    assert template.expand({"x": "it's $HOME", "y": ""}) == ("prog", "--x=it's $HOME", "", "a it's $HOME b", "{x}", "")
    with pytest.raises(TemplateError, match="parameter x: a command cannot hold a NUL"):
        template.expand({"x": "\0", "y": ""})


def test_arguments_reach_the_program_as_they_are() -> None:
    """The real thing: a program prints what it was given."""
    value = HARD["both quotes"] + HARD["newlines"] + HARD["dollar"]
    argv = parse(("printf", "%s", "{value}")).expand({"value": value})
    assert subprocess.run(argv, capture_output=True, timeout=10, check=True).stdout == value.encode()


def test_names() -> None:
    """In order of appearance, each once; files apart."""
    template = parse("{b} {a:raw} {b} {^f} {{c}} ${d} {^b}")
    assert template.names == ("b", "a", "f")
    assert template.file_names == ("f", "b")
    assert parse(("{x}", "{^y}")).names == ("x", "y")


def test_files() -> None:
    """`{^name}` becomes the path that the caller gives, quoted where it needs to be; `{name}` stays the value."""
    assert parse("cat {^f} {f}").expand({"f": "d/a b"}, {"f": "inputs/a b"}) == "cat 'inputs/a b' 'd/a b'"


def test_check() -> None:
    """Names are checked before any task is expanded; a parameter that no placeholder can name is noticed."""
    template = parse("run {x} {learning-rate}")
    template.check(["x", "y"])
    with pytest.raises(TemplateError, match=r"\{x\} is not a task parameter \(parameters: y\)"):
        template.check(["y"])
    with pytest.raises(TemplateError, match=r"^\{learning-rate\} is not a placeholder: expected letters, digits and _"):
        template.check(["x", "learning-rate"])


def test_a_long_list_of_parameters_is_cut() -> None:
    """A message stays readable for a table of hundreds of columns."""
    with pytest.raises(TemplateError, match=r"p0, p1, .*, p19 and 280 more\)"):
        parse("{zzz}").expand({f"p{i}": 1 for i in range(300)})


def test_10_000_expansions_are_fast() -> None:
    """Parsed once, expanded many: 5 us each are wanted, and twice that is allowed."""
    template = parse("align {sample} --alpha {alpha} -o out/{sample}.bam")

    def expand() -> None:
        for number in range(10_000):
            template.expand({"sample": "NA 12878", "alpha": number})

    assert quiet_s(expand) < 0.1


LITERALS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="{}$"), max_size=10)


@given(st.lists(st.tuples(LITERALS, st.sampled_from(["a", "b"])), max_size=5), LITERALS)
def test_literals_stay(parts: list[tuple[str, str]], end: str) -> None:
    """What stands around placeholders is not touched."""
    source = "".join(f"{literal}{{{name}:raw}}" for literal, name in parts) + end
    assert (
        parse(source).expand({"a": "1", "b": "x y"})
        == "".join(literal + {"a": "1", "b": "x y"}[name] for literal, name in parts) + end
    )


@given(st.text("{}$^:ab ", max_size=30))
def test_any_text_is_a_template_or_a_clear_error(source: str) -> None:
    """No text makes the parser fail in another way."""
    try:
        expanded = parse(source).expand({"a": 1, "b": 2}, {"a": "f", "b": "f"})
    except TemplateError as error:
        assert "{" in str(error)  # noqa: PT017 - which texts are refused is the business of the tables above
    else:
        assert isinstance(expanded, str)


@given(st.text("{}$^:ab 1", max_size=30))
def test_any_text_can_be_escaped(text: str) -> None:
    """A template that gives the text itself, whatever looks like a placeholder in it."""
    parsed = parse(escape(text))
    assert parsed.names == ()
    assert parsed.expand({}) == text


@pytest.mark.parametrize(
    "template",
    [
        "echo hi # sample {x}",
        "# {x}",
        "echo a;#{x}\necho",
        "echo hi # {x}\ncat <<E\nE",
        "echo `id` # {x}",
        'echo "$(a # {x}\n)"',
    ],
)
def test_a_line_break_does_not_end_a_comment(template: str) -> None:
    """Quotes mean nothing in a comment: what follows the line break would run."""
    parsed = parse(template)
    assert "one two" in str(parsed.expand({"x": "one two"}))
    with pytest.raises(
        TemplateError, match=r"\{x\} stands in a comment of the command, and its value 'a\\ntouch pwned #' has a line break"
    ):
        parsed.expand({"x": "a\ntouch pwned #"})


def test_a_number_sign_that_begins_no_comment() -> None:
    """Inside a word, or quoted."""
    assert parse("echo a#{x} '#' {x}").expand({"x": "a\nb"}) == "echo a#'a\nb' '#' 'a\nb'"


@pytest.mark.parametrize("form", ["03d", ".2f", "5.1f", ">10", "+d", "10s", ",d"])
def test_a_format_of_other_languages_is_refused(form: str) -> None:
    """Where the name is a parameter; a program in the command may mean another one."""
    parsed = parse(f"echo {{x:{form}}}")
    with pytest.raises(TemplateError, match=r"is not a format of a placeholder \(formats: raw\)"):
        parsed.check(["x"])
    parsed.check(["y"])
    parse(f"echo ${{x:{form}}}").check(["x"])

"""The part of `doctor` about the cloud: the checkup's values as JSON and as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparkles.cli import render

if TYPE_CHECKING:
    from sparkles.config import Settings


def look(settings: Settings, problems: list[str]) -> dict[str, Any]:
    """Everything, with stable keys; adds to `problems`."""
    from sparkles import __version__
    from sparkles.backends.google.checkup import check_up

    found = check_up(settings, __version__)
    problems.extend(found.problems)
    login, consume = found.login, found.consume
    return {
        "names": [{"name": each.key, "value": each.value or None, "source": each.source or None} for each in found.names],
        "login": {
            "needed": login.needed,
            "kind": login.kind or None,
            "account": login.account or None,
            "source": login.source or None,
            "problem": login.problem or None,
            "note": login.note or None,
        },
        "services": [
            {
                "service": each.service,
                "resource": each.resource,
                "at": each.at or None,
                "ms": None if each.ms is None else round(each.ms, 1),
                "problem": each.problem or None,
                "note": each.note or None,
            }
            for each in found.services
        ],
        "consume": {
            "needed": consume.needed,
            "program": consume.program or None,
            "source": consume.source or None,
            "version": consume.version or None,
            "problem": consume.problem or None,
        },
    }


def show(found: dict[str, Any]) -> None:
    """For people; the problems themselves stand at the end of `doctor`."""
    rows = [(each["name"], each["value"] or "", each["source"] or "") for each in found["names"]]
    render.table(("CLOUD", "VALUE", "FROM"), rows)
    render.line()
    login, consume = found["login"], found["consume"]
    whose = " ".join(filter(None, (login["kind"], login["account"] and f"({login['account']})")))
    works = "does not work" if login["problem"] else "works"
    program = consume["program"] or ("not found" if consume["needed"] else 'none here, fleet = "none" needs none')
    render.fields(
        (
            ("login", (f"{whose}: {works}" if whose else "none") if login["needed"] else login["note"]),
            ("login from", login["source"]),
            ("note", login["note"] if login["needed"] else None),
            ("consume", " ".join(filter(None, (program, consume["version"], consume["source"] and f"({consume['source']})")))),
        )
    )
    if found["services"]:
        render.line()
        answers = [
            (each["service"], _answer(each), each["resource"], each["at"] or "", each["note"] or "")
            for each in found["services"]
        ]
        render.table(("SERVICE", "ANSWERS", "WHAT", "AT", "NOTE"), answers)


def _answer(service: dict[str, Any]) -> str:
    if service["problem"]:
        return "no"
    return "" if service["ms"] is None else f"in {service['ms']:g} ms"

"""The report: one HTML file that needs nothing else, and pictures of it.

`python -m loadtests.report FOLDER` draws it again from the run.json of an earlier run.
"""

import json
import sys
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from loadtests import APP, HERE, figures
from loadtests.drawings import colour, machines, over_time
from loadtests.markup import dot, number, perhaps, section, share, span, table, tag
from loadtests.pictures import take

Json = dict[str, Any]
SHEET, TOKENS = HERE / "report.css", APP / "jobs" / "static" / "jobs" / "headrace.css"
STAGES = {"submit": "--submit", "queue wait": "--span-wait", "run": "--span-run", "notify": "--span-notify"}


# ---- the head -------------------------------------------------------------------------------------------------------


def header(facts: Json) -> str:
    run, audit = facts["run"], facts["audit"]
    passed = facts["passed"]
    counts = ", ".join(f"{audit[name]} {name}" for name in ("verified", "lost", "double", "wrong"))
    result = f"""<div class="result {"pass" if passed else "fail"}">{"PASS" if passed else "FAIL"}
      <small>{audit["submitted"]} submitted, {counts}</small></div>"""
    known = {
        "Against": escape(run["host"]),
        "Began": run["began"].replace("T", " ").replace("+00:00", " UTC"),
        "Length": span(run["seconds"]),
        "Model": f"{run['model']}, {run['processes']} generator process{'es' if run['processes'] > 1 else ''}",
        "Clock offset": offset(run["clock"]),
    }
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in known.items())
    return f"""<header><div><p class=eyebrow>Headrace load test</p>
      <h1>{escape(run["shape"])}</h1><p class=soft>{escape(run["summary"])}</p>
      <dl class=facts>{items}</dl></div>{result}</header>{"".join(notices(facts))}"""


def offset(clock: Json) -> str:
    if clock["uncertainty"] is None:
        return "not measured"
    return f"{clock['offset'] * 1000:+.1f} ms ± {clock['uncertainty'] * 1000:.1f}"


def notices(facts: Json) -> Iterable[str]:
    """What a reader must know before the figures."""
    if facts["run"]["interrupted"]:
        yield "<p class=notice>Interrupted: the shape was not run to its end.</p>"
    for reason in facts["generator"]["invalid"]:
        yield f"<p class=notice>Invalid: the load generator was too slow to be believed. {escape(reason)}.</p>"
    for sentence, count in facts["audit"]["refused"].items():
        yield f"<p class=notice>Refused {count} times: {escape(sentence)}</p>"


def cards(facts: Json) -> str:
    """One card a lane: what a user of it felt."""
    return f'<div class="cards">{"".join(card(facts, lane) for lane in facts["breakdown"])}</div>'


def card(facts: Json, lane: str) -> str:
    spans, ceiling = facts["breakdown"][lane], facts["ceilings"][lane]
    whole = spans["end to end"]
    cells = {
        "end to end p50": span(whole["p50"]),
        "p95": span(whole["p95"]),
        "p99": span(whole["p99"]),
        "queue wait p95": span(spans["queue wait"]["p95"]),
        "notify p95": span(spans["notify"]["p95"]),
        "jobs/s": number(ceiling["rate"]),
    }
    numbers = "".join(f"<div><span>{name}</span><b>{value}</b></div>" for name, value in cells.items())
    return f'<div class="card"><h3>{dot(colour(facts, lane))}{lane}</h3><div class="numbers">{numbers}</div></div>'


# ---- verdicts -------------------------------------------------------------------------------------------------------

LIMIT = {True: "held", False: "missed", None: "not judged"}


def verdicts(facts: Json) -> str:
    rows = [
        [
            escape(one["lane"]),
            escape(one["measure"]),
            escape(one["limit"]),
            escape(one["measured"]),
            tag(one["ok"], LIMIT),
        ]
        for one in facts["verdicts"]
    ]
    return table(("lane", "measure", "limit", "measured", "verdict"), [rows]) if rows else ""


def exceptions(facts: Json) -> str:
    found = facts["audit"]["exceptions"]
    rows = [
        [tag(False, {False: one["verdict"]}), one["name"], f"<code>{one['id']}</code>", escape(one["why"])]
        for one in found
    ]
    return table(("class", "work", "job", "why"), [rows]) if rows else ""


# ---- where the time goes --------------------------------------------------------------------------------------------


def breakdown(facts: Json) -> str:
    lanes = (
        f'<div class="card"><h3>{dot(colour(facts, lane))}{lane}</h3>{bar(spans, "p50")}{bar(spans, "p95")}</div>'
        for lane, spans in facts["breakdown"].items()
    )
    return f'<div class="cards">{"".join(lanes)}</div>'


def bar(spans: Json, percentile: str) -> str:
    values = {stage: max(0.0, spans[stage][percentile]) for stage in STAGES}
    whole = sum(values.values()) or 1.0
    parts = "".join(
        f'<i style="width:{value / whole:.2%};background:var({STAGES[stage]})"></i>' for stage, value in values.items()
    )
    words = "".join(
        f'<span class=key><i class=block style="background:var({STAGES[stage]})"></i>{stage} <b>{span(at)}</b></span>'
        for stage, at in values.items()
    )
    total = f"<span>{percentile}, end to end <b>{span(spans['end to end'][percentile])}</b></span>"
    return f'<div class="bar">{parts}</div><div class="keys small">{total}{words}</div>'


def stage_table(facts: Json) -> str:
    groups: dict[tuple[str, str], list[list[str]]] = {}
    for one in facts["table"]:
        rows = groups.setdefault((one["lane"], one["kind"]), [])
        name = f"{dot(colour(facts, one['lane']))} {one['lane']}.{one['kind']}" if not rows else ""
        times = [span(one[what]) for what in ("p50", "p95", "p99", "max")]
        rows.append(
            [
                f"<span class=keep>{name}</span>",
                f"<span class=keep>{one['stage']}</span>",
                str(one["count"]),
                number(one["rate"]),
                *times,
            ]
        )
    return table(("work", "stage", "jobs", "jobs/s", "p50", "p95", "p99", "max"), groups.values(), range(2, 8))


STATES = {
    "": tag(True, {True: "keeps up"}),
    "lane": tag(False, {False: "lane saturated"}),
    "way in": tag(False, {False: "way in saturated"}),
}


def shape_table(facts: Json) -> str:
    """Stage by stage of the shape, where there are several."""
    if len(facts["stages"]) < 2:
        return ""
    groups = [
        [
            [
                f"<span class=keep>{escape(stage['name'])}</span>" if at == 0 else "",
                f"<span class=keep>{dot(colour(facts, lane))} {lane}</span>",
                number(one["arrived"]),
                number(one["accepted"]),
                number(one["ended"]),
                perhaps(one["p50"], span),
                perhaps(one["p95"], span),
                str(one["queued"]),
                STATES[figures.state(one)],
            ]
            for at, (lane, one) in enumerate(stage["lanes"].items())
        ]
        for stage in facts["stages"]
    ]
    knees = '<div class="knees">' + "".join(
        f"<p><b>{lane}</b>: {escape(words)}.</p>" for lane, words in facts["knees"].items()
    )
    return f"{knees}</div>" + table(
        ("stage", "lane", "arrived/s", "accepted/s", "ended/s", "p50", "p95", "most queued", ""), groups, range(2, 8)
    )


# ---- plan and fact --------------------------------------------------------------------------------------------------


def plans(facts: Json) -> str:
    """The sizing plan beside what lives, and why it is as it is."""
    return plan_table(facts) + reasons(facts)


def plan_table(facts: Json) -> str:
    rows = [plan_row(facts, lane, one) for lane, one in facts["ceilings"].items()]
    head = (
        "lane",
        "pool",
        "slots: plan",
        "slots: live",
        "service time",
        "predicted ceiling",
        "measured",
        "of the ceiling",
    )
    return table(head, [rows], range(2, 7))


def plan_row(facts: Json, lane: str, one: Json) -> list[str]:
    planned = one["plan"]["slots"] if one["plan"] else None
    slots = perhaps(planned, lambda value: f"{value:.0f}")
    right = planned in (None, one["slots"])
    live = f"{one['slots']}" if right else tag(False, {False: f"{one['slots']}, not as planned"})
    reached = one["efficiency"] if one["efficiency"] is not None else one["used"]
    words = "efficiency" if one["saturated"] else "used, not saturated"
    meter = (
        f'<div class=meter><i style="width:{min(1.0, reached or 0):.1%};background:{colour(facts, lane)}"></i></div>'
    )
    return [
        f"<span class=keep>{dot(colour(facts, lane))} {lane}</span>",
        one["pool"],
        slots,
        live,
        perhaps(one["service"], span),
        perhaps(one["predicted"], lambda value: f"{number(value)}/s"),
        f"{number(one['measured'])}/s",
        f"{meter}<span class='small soft keep'>{perhaps(reached, share)} {words}</span>",
    ]


def reasons(facts: Json) -> str:
    found = {lane: one["plan"]["why"] for lane, one in facts["ceilings"].items() if one["plan"]}
    return "".join(f"<p class='small soft'><b>{lane}</b>: {escape(why)}</p>" for lane, why in found.items())


def ways_table(facts: Json) -> str:
    rows = [
        [one["way"], str(one["count"]), span(one["p50"]), span(one["p95"]), span(one["max"])] for one in facts["ways"]
    ]
    return table(("way", "jobs", "notify p50", "p95", "max"), [rows], range(1, 5)) if len(rows) > 1 else ""


# ---- machines -------------------------------------------------------------------------------------------------------


def generator_words(facts: Json) -> str:
    parts = [
        f"{escape(one['name'])}: {share(one['cpu'])} of a core, late by {span(one['delay_p99'])} (p99) and "
        f"{span(one['delay_max'])} (at most)"
        for one in facts["generator"]["processes"]
    ]
    return "; ".join(parts)


def seen(facts: Json) -> str:
    """What could be looked at, and what could not."""
    hosts = f"By what the processes do. {busy(facts['host'])}"
    if not facts["host"]["known"]:
        hosts = "The server is not on this host, so its processes were not looked at: see the hosts' own monitoring."
    names = {"redis": "Redis", "postgresql": "PostgreSQL"}
    missing = (f"{names[name]} was not asked: {escape(why)}." for name, why in facts["stores"]["missing"].items())
    return " ".join([hosts, *missing, "The generator: "])


def busy(host: Json) -> str:
    """How much of the host was in use, and by whom: a neighbour that takes the cores explains a lot."""
    samples = host["samples"]
    if not samples:
        return ""
    whole = sum(one["busy"] for one in samples) / len(samples)
    ours = sum(sum(one["cpu"].values()) for one in samples) / len(samples)
    return f"Of the host's {host['cores']} cores {whole:.1f} were in use on average, {ours:.1f} by what is drawn here."


def looked_at(facts: Json) -> str:
    """What the charts of machines show, and what they do not."""
    return f"{seen(facts)}{generator_words(facts)}."


# ---- the page -------------------------------------------------------------------------------------------------------


SECTIONS = (
    ("Not as promised", "Every job that was lost, ended twice, or came to a wrong result.", exceptions),
    ("Limits", "What must hold (loadtests/slo.yml), and what was measured.", verdicts),
    (
        "Over time",
        "What arrived is counted at the moment that it was due; what ended, when its client knew. Point at a chart to "
        "read it.",
        over_time,
    ),
    (
        "Stage by stage",
        "A lane is saturated when jobs waited at nearly every look at it, and it ended fewer than arrived. The way in "
        "is, when fewer were accepted than arrived: the web tier, the database, or this generator.",
        shape_table,
    ),
    (
        "Where the time goes",
        "Of jobs that were followed. Submit and notify are seen by the client, queue wait and run by the ledger. Each "
        "is a percentile of its own, so they need not add up to end to end.",
        breakdown,
    ),
    ("Push and poll", "How long after its end a client knows of it, by the way that it asks.", ways_table),
    (
        "Plan and fact",
        "The predicted ceiling is the planned slots divided by the service time, which is the median run time in the "
        "first stage that has one. Efficiency is what a lane reached of it at best: over a stage in which it was "
        "saturated, or while it worked off what was left at the end.",
        plans,
    ),
    ("Machines", looked_at, machines),
    ("Every stage", "All jobs, by lane and kind.", stage_table),
)


def page(facts: Json) -> str:
    """The whole file."""
    title = f"{facts['run']['shape']}: {'PASS' if facts['passed'] else 'FAIL'}"
    sections = (section(name, lead(facts) if callable(lead) else lead, body(facts)) for name, lead, body in SECTIONS)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{sheet()}</style></head>
<body>{header(facts)}{cards(facts)}{"".join(sections)}<footer>{footer(facts)}</footer></body></html>
"""


def footer(facts: Json) -> str:
    work = "; ".join(escape(one) for one in facts["run"]["pieces"])
    return (
        f"Work: {work}. Queue wait and run are of the ledger's clock, submit and end to end of the client's; only "
        "notify spans both, corrected by the measured offset. Drawn by loadtests/report.py from run.json, which "
        "lies beside this file."
    )


def sheet() -> str:
    """The application's colours, then ours."""
    tokens = TOKENS.read_text(encoding="utf-8")
    start = tokens.index(":root")
    return tokens[start : tokens.index("}", start) + 1] + SHEET.read_text(encoding="utf-8")


def write(facts: Json, folder: Path, pictures: bool) -> str:
    """Write the report and its pictures; what there is to say about them."""
    target = folder / "report.html"
    target.write_text(page(facts), encoding="utf-8")
    return take(target) if pictures else ""


if __name__ == "__main__":
    where = Path(sys.argv[1])
    print(write(json.loads((where / "run.json").read_text()), where, True) or where / "report.html")

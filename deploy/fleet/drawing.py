"""How a plan is shown: as text, with bars."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

MOST_MARKS = 48  # of a bar in the drawing

Row = tuple[str, str, int, str]
"""One line of the drawing: a name, instances x slots of each, all slots, a remark."""


def draw_plan(plans: Iterable[Mapping[str, Any]]) -> str:
    """The whole inventory's plan as text: each host, what it runs with a bar of its slots, and why."""
    known = list(plans)
    rows = [row for plan in known for row, _ in _rows(plan)]
    per_mark = max((-(-slots // MOST_MARKS) for _, _, slots, _ in rows), default=1)
    cells = [(len(name), len(shape), -(-slots // per_mark)) for name, shape, slots, _ in rows]
    widths = [max(column) for column in zip(*cells, strict=True)]
    lines = [line for plan in known for line in (_headline(plan), *_drawn(plan, widths, per_mark))]
    return "\n".join([*lines, f"# is {per_mark} slot{'s' if per_mark > 1 else ''}: jobs or requests at the same time"])


def _headline(plan: Mapping[str, Any]) -> str:
    cores = f"{plan['cores']} core{'s' if plan['cores'] != 1 else ''}"
    shares = ", ".join(f"{name} {mb}" for name, mb in plan["shares_mb"].items())
    return f"{plan['host']}: {cores}, {plan['memory_mb']} MB ({shares})"


def _rows(plan: Mapping[str, Any]) -> Iterator[tuple[Row, str]]:
    if web := plan.get("web"):
        slots = web["workers"] * web["threads"]
        yield ("web", f"{web['workers']} x {web['threads']}", slots, f"and {web['push_workers']} for push"), ""
    for lane in plan.get("lanes", []):
        shape = f"{lane['instances']} x {lane['concurrency']}"
        slots = lane["instances"] * lane["concurrency"]
        yield (lane["lane"], shape, slots, f"{lane['pool']}, {lane['memory_max_mb']} MB each"), lane["why"]


def _drawn(plan: Mapping[str, Any], widths: list[int], per_mark: int) -> Iterator[str]:
    for (name, shape, slots, remark), why in _rows(plan):
        marks = "#" * -(-slots // per_mark)
        yield f"  {name:<{widths[0]}}  {shape:<{widths[1]}}  {marks:<{widths[2]}}  {remark}"
        margin = " " * (sum(widths[:2]) + 6)
        yield from textwrap.wrap(why, 110, initial_indent=margin, subsequent_indent=margin)

"""What a person sees besides Ansible's own lines: what a run waits for, and at its end what it did.

A task says how long it may take in its variable `waits`; the preflight says what is deployed (`fleet_release`).
"""

import threading
import time
from typing import Any

from ansible import context
from ansible.executor.stats import AggregateStats
from ansible.playbook.handler import Handler
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: progress
type: aggregate
short_description: What a run waits for, and what it did
description:
  - Says every half minute which hosts a task waits for, and sums the run up at its end.
"""

PATIENCE_S = 30
FACTS_WAIT = "a host that does not answer is tried for two minutes"


class CallbackModule(CallbackBase):
    """Ansible calls it as the run goes on."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "progress"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.playing = False  # and not `ansible`, whose output programs read
        self.began = time.monotonic()
        self.task, self.since, self.hosts = "", self.began, set[str]()
        self.waits = ""
        self.known: dict[str, str] = {}
        self.done: dict[str, list[str]] = {}
        self.over = threading.Event()

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self.playing = playbook._file_name.endswith((".yml", ".yaml"))
        if self.playing:
            threading.Thread(target=self._watch, daemon=True).start()

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self.task, self.since, self.hosts = task.get_name(), time.monotonic(), set()
        self.waits = FACTS_WAIT if task.action.endswith(("setup", "gather_facts")) else str(task.vars.get("waits", ""))

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self.v2_playbook_on_task_start(task, is_conditional=False)

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self.hosts.add(host.get_name())

    def v2_runner_on_ok(self, result: Any) -> None:
        self.hosts.discard(result.host.get_name())
        facts = result.result.get("ansible_facts") or {}
        self.known |= {
            name: str(facts[name]) for name in ("fleet_release", "fleet_site", "fleet_next") if name in facts
        }
        if result.result.get("changed") and isinstance(result.task, Handler):
            self.done.setdefault(result.task.get_name(), []).append(result.host.get_name())

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self.hosts.discard(result.host.get_name())

    def v2_runner_on_skipped(self, result: Any) -> None:
        self.hosts.discard(result.host.get_name())

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self.hosts.discard(result.host.get_name())

    def v2_playbook_on_stats(self, stats: AggregateStats) -> None:
        self.over.set()
        if self.playing and self.known:
            self._display.display("\n".join(self._summary(stats)))

    def _watch(self) -> None:
        told = self.since
        while not self.over.wait(1):
            now, hosts = time.monotonic(), sorted(self.hosts)
            if hosts and now - max(told, self.since) >= PATIENCE_S:
                told = now
                why = f" ({self.waits})" if self.waits else ""
                self._display.display(
                    f"waiting for {', '.join(hosts)} since {now - self.since:.0f} s: {self.task}{why}"
                )

    def _summary(self, stats: AggregateStats) -> list[str]:
        dry = context.CLIARGS.get("check", False)
        hosts = sorted(stats.processed)
        changed = [host for host in hosts if stats.changed.get(host)]
        what = "would change" if dry else "changed"
        site, release = self.known["fleet_site"], self.known["fleet_release"]
        some = f"{', '.join(changed) or 'none'} of {len(hosts)} host{'s' if len(hosts) > 1 else ''} {what}"
        lines = [f"{site} {release}: {some}, in {time.monotonic() - self.began:.0f} s"]
        lines += [f"  {name}: {', '.join(hosts)}" for name, hosts in self.done.items()]
        failed, away = sorted(stats.failures), sorted(stats.dark)
        if away:
            lines.append(f"  not reached: {', '.join(away)}: run this again once they answer")
        if failed:
            lines.append(f"  ended early on {', '.join(failed)}: mend what it says above, and run this again")
        elif not dry and changed:
            lines.append(f"  next: {self.known['fleet_next']}")
        return lines

#!/usr/bin/env python3
"""More hosts like cpu1: HEADRACE_CPU_WORKERS=3 adds cpu2 and cpu3. An inventory source; Ansible calls it with --list.

The number holds until the variable has another value, or the cluster is taken down: it is kept beside its state.
"""

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
try:
    import yaml
except ImportError:  # Ansible calls this with the system's Python; PyYAML is in ours
    python = HERE.parents[2] / ".venv/bin/python"
    if sys.prefix == str(python.parents[1]):
        raise
    os.execv(python, [str(python), __file__])  # noqa: S606

KEPT = HERE.parents[2] / "var/cluster/cpu_workers"
MOST = 40  # addresses between cpu1's and the next machine's


def wanted() -> int:
    """The wanted number of hosts like cpu1, itself included."""
    said = os.environ.get("HEADRACE_CPU_WORKERS") or (KEPT.read_text() if KEPT.exists() else "1")
    if not (said.strip().isdecimal() and 1 <= int(said) <= MOST):
        raise SystemExit(f"HEADRACE_CPU_WORKERS is {said!r}, which must be a number from 1 to {MOST}.")
    return int(said)


def main() -> None:
    """Print what Ansible asks for."""
    inventory = yaml.safe_load((HERE / "hosts.yml").read_text())["all"]
    first = {**inventory["hosts"]["cpu1"], **inventory["children"]["workers"]["hosts"]["cpu1"]}
    number = first["machine_number"]
    more = {f"cpu{n}": {**first, "machine_number": number + n - 1} for n in range(2, wanted() + 1)}
    print(json.dumps({"workers": {"hosts": list(more)}, "_meta": {"hostvars": more}}))  # noqa: T201


if __name__ == "__main__":
    main()

#!/usr/bin/python
"""Facts: the cores and the memory that a host may really use, how Ansible came in, and what runs there already.
Measured by deploy/measure.py and deploy/state.py."""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.measure import measure  # links to deploy/measure.py and deploy/state.py
from ansible.module_utils.state import came_from, deployed

DOCUMENTATION = r"""
module: capacity
short_description: What a host may use, and what it runs
description:
  - Returns the fact C(capacity) with C(cores) and C(memory_mb) - what the machine has, or its cgroup's limit if less -
    and C(came_from) and C(ssh_port) if somebody came in by SSH; and the fact C(deployed), what runs of an application.
author: Headrace
options:
  name:
    description: What the application's units are called by.
    type: str
    required: true
  root:
    description: Where its releases are.
    type: str
    required: true
  files:
    description: Files that must be there already; C(absent) has those that are not.
    type: list
    elements: str
    default: []
"""


def main() -> None:
    spec = {
        "name": {"type": "str", "required": True},
        "root": {"type": "str", "required": True},
        "files": {"type": "list", "elements": "str", "default": []},
    }
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    wanted = module.params
    cores, memory_mb = measure()
    facts = {
        "capacity": {"cores": cores, "memory_mb": memory_mb, **came_from()},
        "deployed": deployed(wanted["name"], wanted["root"]),
        "absent": [path for path in wanted["files"] if not os.path.exists(path)],
    }
    module.exit_json(changed=False, ansible_facts=facts)


if __name__ == "__main__":
    main()

#!/usr/bin/python
"""Facts: the cores and the memory that a host may really use. Measured by deploy/measure.py."""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.measure import measure  # a link to deploy/measure.py

DOCUMENTATION = r"""
module: capacity
short_description: Cores and memory that a host may use
description:
  - Returns the fact C(capacity) with C(cores) and C(memory_mb) - what the machine has, or its cgroup's limit if less.
author: Headrace
options: {}
"""


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    cores, memory_mb = measure()
    module.exit_json(changed=False, ansible_facts={"capacity": {"cores": cores, "memory_mb": memory_mb}})


if __name__ == "__main__":
    main()

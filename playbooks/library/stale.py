#!/usr/bin/python
"""Whether units run what they should, by deploy/state.py: `changed` if one has started before a file that it reads was
written. The task changes nothing itself; it notifies the handler that does."""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.state import shown, stale  # a link to deploy/state.py

DOCUMENTATION = r"""
module: stale
short_description: Units that run something older than their files
description:
  - C(changed) if a unit that runs was started before its unit file, a drop-in, an environment file or one of its other
    files was written; C(stale) has their names.
author: Headrace
options:
  units:
    description: The units, and what each reads besides; of a link counts when it was made.
    type: dict
    required: true
  reloads:
    description: Whether a reload is enough for them to read the files again.
    type: bool
    default: false
"""


def main() -> None:
    spec = {"units": {"type": "dict", "required": True}, "reloads": {"type": "bool", "default": False}}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    units = module.params["units"]
    found = stale(shown(units), units, reloads=module.params["reloads"]) if units else []
    module.exit_json(changed=bool(found), stale=found)


if __name__ == "__main__":
    main()

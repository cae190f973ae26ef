"""A migration does not wait for a lock as long as somebody holds it: what the role app says reaches the database."""

import subprocess
import sys

import pytest
import yaml

from harness import APP, ROOT

ROLE = ROOT / "playbooks/roles/app"


@pytest.mark.usefixtures("database_url")
def test_the_roles_patience_with_locks_reaches_the_migrations(process_env: dict[str, str]) -> None:
    (block,) = [task for task in yaml.safe_load((ROLE / "tasks/migrate.yml").read_text()) if "block" in task]
    asked = (
        "from django.db import connection as c; print('found', c.cursor().execute('SHOW lock_timeout').fetchone()[0])"
    )
    argv = [sys.executable, "manage.py", "shell", "-c", asked]
    env = {**process_env, **block["block"][0]["environment"]}
    done = subprocess.run(argv, cwd=APP, env=env, capture_output=True, text=True, check=True)
    assert "found 3s" in done.stdout
    assert '--setenv=PGOPTIONS="${PGOPTIONS:-}"' in (ROLE / "templates/usr/local/sbin/run.j2").read_text()

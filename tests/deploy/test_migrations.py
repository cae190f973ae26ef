"""Migrations beside a fleet that works: they hold nobody up, and do not give up where they would not."""

import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
import yaml

from harness import APP, ROOT
from harness.waiting import wait_until

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


@pytest.fixture
def before_the_index(database_url: str, process_env: dict[str, str]) -> Iterator[dict[str, str]]:
    """An environment whose database is another one, with the tables from before the newest index."""
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("CREATE DATABASE earlier")
        env = {**process_env, "HEADRACE_DATABASE_URL": database_url.rpartition("/")[0] + "/earlier"}
        subprocess.run([*MIGRATE, "jobs", "0003"], cwd=APP, env=env, check=True)
        yield env
        admin.execute("DROP DATABASE earlier WITH (FORCE)")


MIGRATE = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
WAITED = """SELECT coalesce(max(extract(epoch FROM now() - query_start)), 0) FROM pg_stat_activity
WHERE wait_event_type = 'Lock'"""


def test_an_index_waits_for_who_writes_and_replaces_what_an_earlier_try_left(before_the_index: dict[str, str]) -> None:
    url = before_the_index["HEADRACE_DATABASE_URL"]
    with psycopg.connect(url) as writer, psycopg.connect(url, autocommit=True) as other:
        other.execute("CREATE INDEX job_newest ON jobs_job (id)")
        writer.execute("UPDATE jobs_job SET version = 1")
        with subprocess.Popen([*MIGRATE, "jobs"], cwd=APP, env=before_the_index) as migration:
            wait_until(
                lambda: other.execute(WAITED).fetchone()[0] > 3.5 or migration.poll() is not None, 60, "it waits"
            )
            other.execute("UPDATE jobs_job SET version = 2")
            writer.rollback()
            assert migration.wait(60) == 0
        valid = "SELECT indisvalid, pg_get_indexdef(indexrelid) FROM pg_index WHERE indexrelid = 'job_newest'::regclass"
        found = other.execute(valid).fetchone()
    assert found[0]
    assert "owner_id" in found[1]

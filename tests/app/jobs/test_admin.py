"""The admin: it shows the ledger and changes nothing of it."""

from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

import kinds
from jobs.models import ApiToken, Leader, State
from jobs.tokens import create_token
from tests.app.ledger import job_of, worker

pytestmark = pytest.mark.django_db
KINDS = sorted(name for name, kind in kinds.ALL.items() if not kind.internal)
KEY = "0123456789abcdef" * 2


@pytest.fixture
def admin(user: Any) -> Client:
    user.is_staff = user.is_superuser = True
    user.save()
    client = Client()
    client.force_login(user)
    return client


def test_admin_shows_the_ledger_and_changes_nothing(admin: Client, user: Any) -> None:
    job = job_of(user)
    worker("io-1@host", "io", 6, 2)
    Leader.objects.create(role="sweeper", holder="host:1", until=timezone.now())
    for path, key in (("jobs/job", str(job.pk)), ("fleet/worker", "io-1_40host"), ("jobs/leader", "sweeper")):
        assert admin.get(f"/admin/{path}/").status_code == 200
        shown = admin.get(f"/admin/{path}/{key}/change/")
        assert shown.status_code == 200
        assert 'name="_save"' not in shown.content.decode()
        assert admin.get(f"/admin/{path}/add/").status_code == 403
        assert admin.post(f"/admin/{path}/{key}/change/", {"state": "failed"}).status_code == 403
        assert admin.post(f"/admin/{path}/{key}/delete/", {"post": "yes"}).status_code == 403
    job.refresh_from_db()
    assert job.state == State.QUEUED


def test_admin_finds_jobs_by_id_and_owner(admin: Client, user: Any, other_user: Any) -> None:
    mine, theirs = job_of(user), job_of(other_user)
    for term, found, missed in ((theirs.pk, theirs, mine), (theirs.pk.hex, theirs, mine), ("ada", mine, theirs)):
        content = admin.get("/admin/jobs/job/", {"q": str(term)}).content.decode()
        assert f"/admin/jobs/job/{found.pk}/" in content
        assert f"/admin/jobs/job/{missed.pk}/" not in content
    content = admin.get("/admin/jobs/job/?lane=quick&kind=digest&state__exact=queued").content.decode()
    assert str(mine.pk) in content
    assert str(mine.pk) not in admin.get("/admin/jobs/job/?lane=io").content.decode()


def test_admin_revokes_tokens_and_never_shows_them(admin: Client, user: Any) -> None:
    token = create_token(user, "laptop")
    row = ApiToken.objects.get()
    for path in ("/admin/jobs/apitoken/", f"/admin/jobs/apitoken/{row.pk}/change/"):
        content = admin.get(path).content.decode()
        assert "laptop" in content
        assert row.sha256 not in content
        assert token not in content
    assert admin.get("/admin/jobs/apitoken/add/").status_code == 403
    admin.post(f"/admin/jobs/apitoken/{row.pk}/delete/", {"post": "yes"})
    assert not ApiToken.objects.exists()

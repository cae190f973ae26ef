"""Two views: one submits with `.delay()`, one says how the task stands, for clients that ask every half second."""

import json

from celery.result import AsyncResult
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from benchmarks.baseline.celery import app
from benchmarks.baseline.tasks import work


@csrf_exempt
@require_POST
@login_required
def submit(request: HttpRequest) -> HttpResponse:
    """Hand the work to Celery."""
    asked = json.loads(request.body)
    task = work.delay(asked["kind"], asked["params"])
    return JsonResponse({"id": task.id}, status=202)


@login_required
def status(request: HttpRequest, task_id: str) -> HttpResponse:
    """How a task stands, and its result once there is one."""
    task = AsyncResult(task_id, app=app)
    state = task.status
    if state not in ("SUCCESS", "FAILURE"):
        return JsonResponse({"id": task_id, "status": state})
    result = task.result if state == "SUCCESS" else str(task.result)
    return JsonResponse({"id": task_id, "status": state, "result": result, "finished_at": task.date_done.isoformat()})


urlpatterns = [path("tasks", submit), path("tasks/<str:task_id>", status)]

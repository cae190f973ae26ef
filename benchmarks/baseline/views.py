"""One view submits a task, one says how it stands, for clients that ask every half second, and one submits many.

Which system runs the tasks is in the environment: a module with `submit`, `look`, and `WAYS` to submit many at once.
"""

import json
import os
from importlib import import_module

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

tasks = import_module(os.environ["BASELINE_TASKS"])


@csrf_exempt
@require_POST
@login_required
def submit(request: HttpRequest) -> HttpResponse:
    """Hand the work over."""
    asked = json.loads(request.body)
    return JsonResponse({"id": tasks.submit(asked["kind"], asked["params"])}, status=202)


@csrf_exempt
@require_POST
@login_required
def submit_many(request: HttpRequest, way: str) -> HttpResponse:
    """Hand many over in one request."""
    asked = [(one["kind"], one["params"]) for one in json.loads(request.body)["jobs"]]
    return JsonResponse({"ids": tasks.WAYS[way](asked)}, status=202)


@login_required
def status(request: HttpRequest, task_id: str) -> HttpResponse:
    """How a task stands, and its result once there is one."""
    state, result, ended = tasks.look(task_id)
    answer = {"id": task_id, "status": state}
    return JsonResponse(answer | {"result": result, "finished_at": ended.isoformat()} if ended else answer)


urlpatterns = [path("tasks", submit), path("tasks/<str:task_id>", status), path("many/<str:way>", submit_many)]

"""What a user can get wrong is one sentence, and exit 2, before anything is submitted."""

import pytest

from harness.waiting import free_port
from tests.loadtests.loading import CLOSED, Load, one_sentence

NOWHERE = "http://127.0.0.1:1"


def refused(run):
    """The sentence of a run that was not started."""
    assert run.wait() == 2, run.said
    assert "Traceback" not in run.said
    assert run.out == ""
    return one_sentence(run.err)


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        ((), {}, "HEADRACE_TOKEN is not set"),
        (("--host", NOWHERE, "--shape", "tsunami"), {}, "There is no shape 'tsunami'; choose one of smoke, steady"),
        (("--host", "headrace.example"), {"HEADRACE_TOKEN": "x"}, "--host headrace.example is no address"),
        ((), {"HEADRACE_TOKEN": "x"}, "--host (none) is no address"),
        (("--host", NOWHERE), {"HEADRACE_TOKEN": "x"}, "it refuses the connection"),
        (
            ("--host", "https://127.0.0.1:1", "--ca", "/nowhere.pem"),
            {"HEADRACE_TOKEN": "x"},
            "--ca /nowhere.pem cannot",
        ),
        (("--shapes", "/nowhere.yml"), {}, "/nowhere.yml cannot be read"),
        (("--host", NOWHERE, "--scale", "0"), {"HEADRACE_TOKEN": "x"}, "--scale and --stretch must be above 0"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, arguments, environment, sentence):
    assert sentence in refused(Load(tmp_path).start(*arguments, **environment))


def test_a_token_that_nobody_knows_is_one_sentence(demo, load):
    assert "does not know this token" in refused(load(CLOSED, HEADRACE_TOKEN="hr_wrong"))


def test_a_lane_that_is_not_there_is_one_sentence(demo, load):
    assert "There is no lane attic: the server has cpu, io, quick" in refused(load(CLOSED, "--lanes", "attic,io"))


def test_limits_that_make_no_sense_are_one_sentence(demo, load):
    limits = [{"measure": "happiness p95", "at_most": 1}]
    assert "slo.yml is wrong at limits.0: 'happiness p95' is no measure" in refused(load(CLOSED, limits=limits))


def test_an_open_shape_has_no_batches(demo, load):
    shape = CLOSED | {"model": "open", "ways": {"batch": 1}}
    assert "an open shape has no batches" in refused(load(shape))


def test_a_server_that_is_no_headrace_is_one_sentence(tmp_path, site):
    run = Load(tmp_path).start("--host", site, HEADRACE_TOKEN="x")
    assert "answers, but not as Headrace does" in refused(run)


@pytest.fixture
def site():
    """A web server that answers everything with an empty list."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_):
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", free_port()), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()

"""One run over several processes, and over TLS with a CA of one's own."""

import shutil
import socket
import ssl
import subprocess
import threading

import pytest

from harness.waiting import free_port
from tests.loadtests.loading import CLOSED, OPEN, Load, one_sentence
from tests.loadtests.test_runs import counts

# Three processes start at once here: on a busy machine they may need the first five seconds for that.
LONGER = CLOSED | {"stages": [CLOSED["stages"][0] | {"seconds": 15}]}


@pytest.mark.parametrize(
    ("shape", "options"), [(LONGER, ()), (OPEN, ()), (OPEN, ("--one-socket",))], ids=["closed", "open", "one-socket"]
)
def test_a_master_and_two_workers_make_one_run(demo, load, tmp_path, shape, options):
    port = str(free_port())
    worker = ("--worker", "--master-host", "127.0.0.1", "--master-port", port)
    workers = [Load(tmp_path / str(number)).start(*worker, HEADRACE_TOKEN=demo.token) for number in (1, 2)]
    bind = ("--master-bind-host", "127.0.0.1", "--master-bind-port", port)
    master = load(shape, *options, "--master", *bind, "--expect-workers", "2")
    assert master.wait() == 0, master.said
    assert [one.wait() for one in workers] == [0, 0], workers[0].said
    number, verdict = counts(master)
    assert verdict == "PASS"
    assert number["submitted"] == number["verified"] > 5
    assert master.facts["run"]["processes"] == 2
    assert len([one for one in master.facts["generator"]["processes"] if one["cpu"] > 0]) >= 2
    if shape is OPEN:
        assert number["submitted"] <= 2 * 8 * 4  # two processes share the rate


def pump(source, sink):
    """One direction of a connection."""
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        for one in (source, sink):
            one.close()


def serve(listener, context, port):
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:  # closed: the test is over
            return
        threading.Thread(target=join, args=(plain, context, port), daemon=True).start()


def join(plain, context, port):
    """TLS on our side, none on the other."""
    try:
        client = context.wrap_socket(plain, server_side=True)
    except (OSError, ssl.SSLError):
        return
    server = socket.create_connection(("127.0.0.1", port))
    threading.Thread(target=pump, args=(client, server), daemon=True).start()
    pump(server, client)


@pytest.fixture
def private(demo, tmp_path):
    """The demo behind TLS; its certificate is signed by a CA that nobody else knows."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed; run `make test`, or `apt install openssl` first.")
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.pem"
    made = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test", "-addext"]
    files = ["subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", *made, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener, context, demo.port), daemon=True).start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}", str(certificate)


def test_over_tls_with_a_private_ca(demo, load, private):
    host, ca = private
    run = load(CLOSED, "--host", host, "--ca", ca)
    assert run.wait() == 0, run.said
    assert counts(run)[1] == "PASS"


def test_a_certificate_that_is_not_believed_is_one_sentence(demo, load, private):
    run = load(CLOSED, "--host", private[0])
    assert run.wait() == 2, run.said
    assert "its certificate is not believed" in one_sentence(run.err)

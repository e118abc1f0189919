"""The process: it starts without torch, says what is wrong, finishes what it accepted, and leaves."""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
from waiting import until

import vertebra
from vertebra.errors import UsageError, VertebraError
from vertebra.serve import ServerSettings
from vertebra.serve.model_registry import ModelRegistry
from vertebra.serve.server import Server


def test_it_serves_and_ends_when_it_is_told(started, pngs):
    client, process = started()
    assert client.post("/v1/predict", pngs[0]).status == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) in (0, -signal.SIGTERM)


def test_ctrl_c(started):
    _, process = started()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) in (0, 130, -signal.SIGINT)
    assert "Traceback" not in process.stderr.read()


def test_from_python_it_comes_back_on_ctrl_c(tiny_model):
    code = f"import vertebra; vertebra.serve({str(tiny_model)!r}, port=0, progress=print); print('came back')"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for line in process.stdout:
        if "listening" in line:
            url = line.split()[-1]
            break
    for _ in range(100):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/readyz")
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "came back\n"), err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--max-mb", "inf"), "--max-mb is inf"), (("--max-megapixels", "nan"), "nan"), (("--timeout", "inf"), "timeout")],
)
def test_numbers_that_are_none(tiny_model, options, message):
    done = subprocess.run(
        [sys.executable, "-m", "vertebra", "serve", str(tiny_model), *options], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "expects" not in done.stderr


def test_what_was_accepted_is_finished(serving, held, pngs):
    client = serving()
    gate = held(client)
    batcher = client.service.registry.get(None).batcher
    answers = []

    def ask():
        answers.append(client.files("/v1/predict", *((f"{n}", png) for n, png in enumerate(pngs))).status)

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: batcher.num_busy)
    client.service.stop()
    time.sleep(0.3)
    gate.set()
    thread.join()
    assert answers == [200]
    with pytest.raises(OSError, match=r".*"):
        client.get("/healthz")


def test_the_server_never_loads_torch(tiny_model, pngs, tmp_path):
    (tmp_path / "a.png").write_bytes(pngs[0])
    code = f"""
import sys
for name in ("torch", "torchvision", "onnx", "scipy", "sklearn", "multipart", "jinja2"):
    sys.modules[name] = None
import urllib.request
from vertebra.serve import ServerSettings
from vertebra.serve.server import Server
with Server(ServerSettings(models=({str(tiny_model)!r},), port=0)) as service:
    body = open({str(tmp_path / "a.png")!r}, "rb").read()
    for path in ("/v1/predict", "/v1/embed", "/v1/explain"):
        request = urllib.request.Request(service.url + path, body, {{"Content-Type": "image/png"}})
        print(urllib.request.urlopen(request).status)
    for path in ("/v1/models", "/v1/models/tiny/anatomy", "/docs", "/metrics", "/v2/models/tiny"):
        print(urllib.request.urlopen(service.url + path).status)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["200"] * 8


def test_without_its_packages_it_says_what_to_install(tiny_model):
    code = f"""
import sys
for name in ("fastapi", "uvicorn"): sys.modules[name] = None
import vertebra
try:
    vertebra.serve({str(tiny_model)!r}, port=0)
except vertebra.VertebraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "vertebra serve needs packages that are not installed" in done.stdout, done.stderr
    assert "pip install 'vertebra[serve]'" in done.stdout


def run(*arguments):
    command = [sys.executable, "-m", "vertebra", "serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_files_that_cannot_be_served(tmp_path, write_model):
    (tmp_path / "text.onnx").write_text("text")

    def change(model):
        model.graph.node[4].op_type = "Reluu"

    strange = write_model(tmp_path / "strange.onnx", change=change)
    for path, message, code in (
        (tmp_path / "none.onnx", "no such file", 2),
        (tmp_path / "text.onnx", "not an ONNX file", 1),
        (strange, "needs the operator Reluu", 1),
    ):
        done = run(path, "--port", 0)
        assert done.returncode == code and "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith("vertebra: ") and message in done.stderr


def test_calls_that_are_wrong(tiny_model):
    for arguments, message in (
        ((), "Missing argument"),
        ((tiny_model, "--host", "0.0.0.0"), "--no-auth"),
        ((tiny_model, "--host", "nowhere.invalid", "--no-auth"), "not an address of this machine"),
        ((tiny_model, "--engine", "onnx"), "no engine 'onnx'"),
        ((tiny_model, tiny_model), "two models have the name 'tiny'"),
    ):
        done = run(*arguments)
        assert done.returncode == 2 and message in done.stderr, done.stderr
        assert done.stderr.splitlines()[-1].startswith("vertebra: ")


def test_a_port_that_is_taken(client, tiny_model):
    before = set(threading.enumerate())
    with pytest.raises(UsageError, match=rf"{client.port} cannot be listened on .*--port 0"):
        vertebra.serve(tiny_model, port=client.port)
    # What still loads a model when the process ends aborts it.
    assert set(threading.enumerate()) <= before


def test_the_key_comes_from_the_environment(started, pngs):
    client, _ = started(environment={"VERTEBRA_API_KEY": "from-outside"})
    assert client.post("/v1/predict", pngs[0]).status == 401
    assert client.post("/v1/predict", pngs[0], **{"X-API-Key": "from-outside"}).status == 200


def test_names_and_time_that_the_command_is_given(started, pngs):
    hosts = "--allow-host", "photos.example.org", "--allow-host", "*.example.net"
    client, _ = started(*hosts, "--keep-alive", "1", "--read-timeout", "2")
    for host, status in (("photos.example.org", 200), ("a.example.net", 200), ("evil.example", 403)):
        answer = client.post("/v1/predict", pngs[0], Host=host, Origin=f"https://{host}")
        assert answer.status == status
    assert "--allow-host evil.example" in answer.message
    with socket.create_connection((client.host, client.port), timeout=20) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while connection.recv(65_536):  # it is closed after that second
            pass
    with socket.create_connection((client.host, client.port), timeout=20) as connection:
        head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\n"
        connection.sendall(head + b"slow")
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 408") and b"not complete after 2 seconds" in answer


def test_a_route_that_fails_answers_as_all_do(client, monkeypatch, caplog):
    monkeypatch.setattr(client.service.metrics, "render", lambda: 1 / 0)
    connection = http.client.HTTPConnection(client.host, client.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert answer.status == 500 and answer.getheader("Content-Type") == "application/json"
        assert answer.getheader("X-Content-Type-Options") == "nosniff"
        assert "the server's log has the details" in json.loads(answer.read())["error"]["message"]
        connection.request("GET", "/healthz")  # it was whole, so the connection goes on
        assert connection.getresponse().status == 200
    (record,) = (record for record in caplog.records if record.exc_info)
    assert (record.name, record.getMessage()) == ("vertebra.serve", "GET /metrics failed")


def test_not_ready_while_a_model_is_loading(tiny_model, pngs, monkeypatch, call):
    go_on = threading.Event()
    load = ModelRegistry._watch

    def later(self):
        go_on.wait(10)
        load(self)

    monkeypatch.setattr(ModelRegistry, "_watch", later)
    service = Server(ServerSettings(models=(str(tiny_model),), port=0))
    thread = threading.Thread(target=service.run)
    thread.start()
    client = call(service)
    try:
        assert client.get("/healthz").status == 200
        for path in ("/readyz", "/v2/health/ready", "/v1/models", "/v2/models/tiny"):
            answer = client.get(path)
            assert answer.status == 503 and answer.headers["retry-after"] == "1"
        assert client.post("/v1/predict", pngs[0]).status == 503
        assert b'vertebra_model_current{model="tiny"} 0.0' in client.get("/metrics").body
        go_on.set()
        service.registry.wait(10)
        assert client.get("/readyz").status == 200
    finally:
        go_on.set()
        service.stop()
        thread.join()


def test_a_name_is_exported_by_another_process(tmp_path, monkeypatch, write_model):
    from vertebra.cache import write_sidecar
    from vertebra.card import read_card
    from vertebra.loading import cached_export_path
    from vertebra.serve import model_source

    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path))
    said = []
    with pytest.raises(UsageError, match="Did you mean 'resnet18'"):
        ModelRegistry(ServerSettings(models=("resnet-18",)), said.append)
    assert said == []

    def export(command, **options):
        assert command[-2] == "resnet18"
        path = cached_export_path("resnet18")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_model(path)
        write_sidecar(path, {"weights": "DEFAULT", "told": []})
        return subprocess.CompletedProcess(command, 0, json.dumps({"path": str(path), "notes": ["a note"]}), "")

    monkeypatch.setattr(model_source.subprocess, "run", export)
    registry = ModelRegistry(ServerSettings(models=("resnet18",)), said.append)
    assert registry.models["resnet18"].path == cached_export_path("resnet18")
    assert said == ["exporting resnet18, once", "a note"]
    monkeypatch.setattr(model_source.subprocess, "run", None)
    ModelRegistry(ServerSettings(models=("resnet18",)))  # it is there now
    path = cached_export_path("resnet18")
    path.write_bytes(path.read_bytes()[:-100])
    monkeypatch.setattr(model_source.subprocess, "run", export)
    ModelRegistry(ServerSettings(models=("resnet18",)), said.append)
    assert "onnx is damaged" in said[-3], "at the start, not when the server ends"
    assert said[-2:] == ["exporting resnet18, once", "a note"] and read_card(path).architecture == "tiny"


def test_a_failing_model_is_told_by_start(tmp_path, write_model):
    def change(model):
        model.graph.node[4].op_type = "Reluu"

    path = write_model(tmp_path / "m.onnx", change=change)
    with pytest.raises(VertebraError, match="Reluu"):
        Server(ServerSettings(models=(str(path),), port=0)).start()


def test_from_python(tiny_model, pngs, call, monkeypatch):
    import gc

    from vertebra.serve import server

    services = []
    run = server.Server.run
    monkeypatch.setattr(server.Server, "run", lambda self: (services.append(self), run(self)))
    said = []
    thread = threading.Thread(target=lambda: vertebra.serve(str(tiny_model), port=0, progress=said.append))
    thread.start()
    try:
        while not services or not services[0].registry.wait(0.01):
            time.sleep(0.01)
        assert said == [f"listening on {services[0].url}"] and gc.isenabled()
        assert call(services[0]).post("/v1/predict", pngs[0]).status == 200
    finally:
        services[0].stop()
        thread.join(10)
    assert not thread.is_alive()
    gc.unfreeze()


def test_the_public_name(tiny_model):
    from vertebra.serve import serve

    with pytest.raises(UsageError, match="there is no model to serve"):
        vertebra.serve()
    with pytest.raises(UsageError, match="port is -1"):
        serve(str(tiny_model), port=-1)

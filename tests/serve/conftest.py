"""Servers on loopback, and a client that shows what came back."""

import contextlib
import http.client
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from PIL import Image

from vertebra.synthetic_photos import synthetic_photos

for package in ("fastapi", "uvicorn", "orjson", "prometheus_client"):
    pytest.importorskip(package)

from vertebra.serve import ServerSettings  # noqa: E402
from vertebra.serve.server import Server  # noqa: E402


@dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def message(self):
        return self.json["error"]["message"]


class Client:
    """Calls one server; each call has a connection of its own."""

    def __init__(self, service):
        self.service = service
        self.host, self.port = urlsplit(service.url).hostname, urlsplit(service.url).port

    def __call__(self, method, path, body=None, headers=None, timeout=20):
        with contextlib.closing(http.client.HTTPConnection(self.host, self.port, timeout=timeout)) as connection:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            content = response.read()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, content)

    def get(self, path, **headers):
        return self("GET", path, headers=headers)

    def post(self, path, body, kind="image/png", **headers):
        return self("POST", path, body, {"Content-Type": kind, **headers}, timeout=60)

    def files(self, path, *files, **headers):
        body, kind = form(*files)
        return self("POST", path, body, {"Content-Type": kind, **headers})


def form(*files):
    """(name, bytes) … → a multipart body and its Content-Type."""
    parts = [
        f'--xyz\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode() + data + b"\r\n"
        for name, data in files
    ]
    return b"".join(parts) + b"--xyz--\r\n", "multipart/form-data; boundary=xyz"


@pytest.fixture(scope="session")
def pngs():
    """Eight photos of 60 × 48 pixels, as files are."""
    found = []
    for pixels in synthetic_photos(8, 60):
        file = io.BytesIO()
        Image.fromarray(pixels[:48]).save(file, "PNG")
        found.append(file.getvalue())
    return found


@pytest.fixture(scope="session")
def settings(tiny_model):
    return ServerSettings(
        models=(str(tiny_model),), port=0, max_bytes=200_000, max_images=8, queue=16, max_pixels=1_000_000
    )


@pytest.fixture(scope="session")
def client(settings):
    """A server that all tests share, with one model."""
    with Server(settings) as service:
        yield Client(service)


@pytest.fixture
def call():
    """A client of any service."""
    return Client


@pytest.fixture
def serving(settings):
    """Servers of one's own: `serving(timeout=1)` → a client."""
    with contextlib.ExitStack() as stack:
        yield lambda **changes: Client(stack.enter_context(Server(replace(settings, **changes))))


@pytest.fixture
def started(tiny_model):
    """Servers in processes of their own: `started("--timeout", "5")` → a client and the process."""
    processes = []

    def start(*options, model=tiny_model, environment=None):
        command = [sys.executable, "-m", "vertebra", "serve", str(model), "--port", "0", *options]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
        )
        processes.append(process)
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"listening on (http://\S+)", line):
                break
        else:
            raise AssertionError("".join(lines))
        client = Client(SimpleNamespace(url=found[1]))
        for _ in range(1000):
            if client.get("/readyz").status == 200:
                return client, process
            time.sleep(0.02)
        raise AssertionError("it did not become ready")

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture
def held(monkeypatch):
    """Make a server's network wait: `gate = held(client)`; `gate.set()` lets it go on."""
    gates = []

    def hold(client):
        loaded = client.service.registry.get(None)
        run, gate = loaded.runner.call, threading.Event()
        gates.append(gate)
        monkeypatch.setattr(loaded.runner, "call", lambda *arguments: (gate.wait(20), run(*arguments))[1])
        return gate

    yield hold
    for gate in gates:
        gate.set()

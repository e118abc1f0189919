"""Two servers behind nginx that are given a new model one after the other, under load: no request fails."""

import contextlib
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time

import nginx_proxy
import pytest
from waiting import until

if not nginx_proxy.is_installed():
    pytest.skip("nginx and openssl are not installed (apt-get install nginx-light openssl)", allow_module_level=True)

OLD, NEW = ("cat", "dog", "fish"), ("cow", "hen", "pig")
CLIENTS = 6
FAIL_TIMEOUT = float(re.search(r"fail_timeout=(\d+)s", nginx_proxy.CONFIGURATION)[1])


class Server:
    """A `vertebra serve` process on a port of its own."""

    def __init__(self, model, port):
        self.model, self.port = model, port
        self.start()

    def start(self):
        command = [sys.executable, "-m", "vertebra", "serve", f"m={self.model}", "--port", str(self.port)]
        command += ["--allow-host", nginx_proxy.NAME, "--engine", "onnxruntime"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stop = time.monotonic() + 60
        while self.get("/readyz")[0] != 200:
            assert self.process.poll() is None and time.monotonic() < stop
            time.sleep(0.05)

    def get(self, path):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read()
            except OSError:
                return 0, b""

    def classes(self):
        return tuple(json.loads(self.get("/v1/models/m/classes")[1])["classes"])

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Load:
    """Clients that keep their connections and note each answer: (status, class), or the error."""

    def __init__(self, proxy, photo):
        self.answers, self.stop = [], threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(proxy, photo)) for _ in range(CLIENTS)]

    def ask(self, proxy, photo):
        with proxy.connection() as connection:
            while not self.stop.is_set():
                try:
                    headers = {"Host": nginx_proxy.NAME, "Content-Type": "image/png"}
                    connection.request("POST", "/v1/predict?top=1", photo, headers)
                    answer = connection.getresponse()
                    body = answer.read()
                    found = json.loads(body)["results"][0]["predictions"][0]["class"] if answer.status == 200 else body
                    self.answers.append((answer.status, found))
                except (OSError, http.client.HTTPException) as error:
                    self.answers.append((0, repr(error)))
                    return
                time.sleep(0.005)  # or two cores do nothing else

    def more(self, count=100, seconds=60):
        """Wait for some more answers."""
        wanted, ends = len(self.answers) + count, time.monotonic() + seconds
        while len(self.answers) < wanted:
            assert time.monotonic() < ends and any(thread.is_alive() for thread in self.threads), self.answers[-5:]
            time.sleep(0.02)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def fleet(tmp_path, write_model):
    """Two servers, each with a model file of its own, and nginx in front of them."""
    folder = nginx_proxy.make_certificate(tmp_path)
    with contextlib.ExitStack() as stack:
        servers = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            model = write_model(tmp_path / name / "model.onnx", classes=OLD)
            servers.append(Server(model, nginx_proxy.free_port()))
            stack.callback(servers[-1].kill)
        yield servers, stack.enter_context(nginx_proxy.nginx([s.port for s in servers], folder, tmp_path))


def replace(server, write_model):
    new = server.model.with_suffix(".tmp")
    write_model(new, classes=NEW)
    new.replace(server.model)


def check(load, error_log):
    failed = [answer for answer in load.answers if answer[0] != 200]
    assert not failed, (failed[:3], len(failed), len(load.answers), error_log.read_text()[-500:])
    assert {name for _, name in load.answers} <= {*OLD, *NEW}


@pytest.mark.slow
def test_a_new_file_on_one_server_after_the_other(fleet, write_model, pngs, tmp_path):
    servers, proxy = fleet
    with Load(proxy, pngs[0]) as load:
        load.more()
        for server in servers:
            replace(server, write_model)
            until(lambda server=server: server.classes() == NEW)
            load.more()
        before = len(load.answers)
        load.more(200)
    check(load, tmp_path / "error.log")
    assert {name for _, name in load.answers[:50]} <= set(OLD)
    assert {name for _, name in load.answers[before + CLIENTS :]} <= set(NEW)


@pytest.mark.slow
def test_one_process_after_the_other_is_restarted_with_a_new_model(fleet, write_model, pngs, tmp_path):
    servers, proxy = fleet
    with Load(proxy, pngs[0]) as load:
        load.more()
        for server in servers:
            server.stop()
            load.more(30)  # the other one answers alone
            write_model(server.model, classes=NEW)
            server.start()
            time.sleep(FAIL_TIMEOUT + 0.5)  # until nginx uses it again
            load.more()
        before = len(load.answers)
        load.more(200)
    check(load, tmp_path / "error.log")
    assert {name for _, name in load.answers[before + CLIENTS :]} <= set(NEW)

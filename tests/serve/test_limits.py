"""Who may ask, how much, and how slowly; what happens past that."""

import contextlib
import http.client
import socket
import threading
import time
from dataclasses import replace

import pytest
from waiting import until

from vertebra.errors import UsageError
from vertebra.serve import ServerSettings
from vertebra.serve.server_settings import is_loopback


def talk(client, *parts, pause=0.0, timeout=10):
    """Send raw bytes, and read until the server closes; b"" where it closes without a word."""
    with socket.create_connection((client.host, client.port), timeout=timeout) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        found = b""
        while True:
            try:
                more = connection.recv(65_536)
            except ConnectionResetError:
                return found
            if not more:
                return found
            found += more


HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


# --- size -------------------------------------------------------------------------------------------------------------


def test_a_body_that_is_announced_too_large(client):
    answer = talk(client, HEAD + b"Content-Length: 200001\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413") and b"200,000 bytes" in answer and b"connection: close" in answer


def test_a_body_that_grows_too_large(client):
    chunk = b"c350\r\n" + bytes(50_000) + b"\r\n"
    answer = talk(client, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunk, chunk, chunk, chunk, chunk)
    assert answer.startswith(b"HTTP/1.1 413")
    assert client.service.dispatcher.body_reader.num_bytes == 0


def test_chunks_that_fit(client, pngs):
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (pngs[0][:50], pngs[0][50:]))
    head = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    assert talk(client, head, chunks + b"0\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_a_compressed_body(client):
    answer = client.post("/v1/predict", b"x", **{"Content-Encoding": "gzip"})
    assert answer.status == 415 and "compressed" in answer.message


def test_all_bodies_together(serving, pngs):
    client = serving()
    client.service.dispatcher.body_reader.num_bytes = 4 * 200_000
    answer = client.post("/v1/predict", pngs[0])
    assert answer.status == 503 and "memory" in answer.message and answer.headers["retry-after"]
    client.service.dispatcher.body_reader.num_bytes = 0
    assert client.post("/v1/predict", pngs[0]).status == 200


def test_pixels(serving, pngs, monkeypatch):
    client = serving(max_pixels=1000)
    answer = client.post("/v1/predict", pngs[0])
    assert answer.status == 422 and "has 60 × 48 pixels; at most 1,000" in answer.json["results"][0]["error"]
    # Large ones are decoded one at a time, and all the same.
    monkeypatch.setattr("vertebra.serve.image_decoding.LARGE_PIXELS", 1000)
    assert serving().post("/v1/predict", pngs[0]).status == 200


def test_headers_without_an_end(client):
    lines = b"".join(b"X-Filler-%d: %s\r\n" % (number, b"x" * 1000) for number in range(80))
    answer = talk(client, HEAD + lines)
    assert answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))


def test_what_is_not_http(client):
    answer = talk(client, b"\x16\x03\x01\x02\x00\x01\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400") and b"not valid HTTP" in answer


@pytest.mark.parametrize("address", [b"http://localhost", b"http://localhost?model=m"])
def test_an_address_without_a_path(client, address):
    answer = talk(client, b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % address)
    assert answer.startswith(b"HTTP/1.1 400") and b"no path" in answer


# --- time -------------------------------------------------------------------------------------------------------------


def test_clients_that_are_silent_or_slow_are_cut_off(serving):
    client = serving(read_seconds=0.3)
    assert talk(client) == b""
    assert talk(client, HEAD).startswith(b"HTTP/1.1 408")
    slow = talk(client, HEAD + b"Content-Length: 100\r\n\r\n", b"x", pause=0.1)
    assert slow.startswith(b"HTTP/1.1 408") and b"body was not complete" in slow
    assert 'vertebra_refused_total{reason="slow"} 1.0' in client.get("/metrics").body.decode()


def test_a_body_that_is_refused_unread_does_not_keep_its_connection(serving):
    client = serving(read_seconds=0.2)
    answer = talk(client, b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 404")


def test_a_connection_that_asks_no_more(serving):
    client = serving(keep_alive=1)
    assert talk(client, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_a_client_that_does_not_read(serving):
    client = serving(read_seconds=0.3)
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect((client.host, client.port))
        connection.settimeout(0.1)
        stop = time.monotonic() + 60  # a slow machine needs long to fill the system's buffers with answers
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while time.monotonic() < stop:
                with contextlib.suppress(TimeoutError):
                    connection.send(asked)


def test_a_deadline(serving, held, pngs):
    client = serving()
    held(client)
    answer = client.post("/v1/predict", pngs[0], **{"X-Deadline-Ms": "100"})
    assert answer.status == 503 and "deadline" in answer.message and answer.headers["retry-after"] == "2"
    assert client.post("/v1/predict", pngs[0], **{"X-Deadline-Ms": "0"}).status == 422


def test_a_full_queue(serving, held, pngs):
    client = serving(queue=8)
    gate = held(client)
    batcher = client.service.registry.get(None).batcher
    answers = []

    def ask(count):
        answers.append(client.files("/v1/predict", *((f"{n}.png", pngs[0]) for n in range(count))).status)

    threads = []
    for count, waiting in (*((1, 0) for _ in range(batcher.num_workers)), (8, 8)):
        threads.append(threading.Thread(target=ask, args=(count,)))
        threads[-1].start()
        busy = min(batcher.num_workers, len(threads))
        until(lambda waiting=waiting, busy=busy: len(batcher) == waiting and batcher.num_busy >= busy)
    busy = client.post("/v1/predict", pngs[0])
    assert (
        busy.status == 503
        and "the queue of 'tiny' has 8 images" in busy.message
        and int(busy.headers["retry-after"]) >= 1
    )
    text = client.get("/metrics").body.decode()
    assert 'vertebra_queue_images{model="tiny"} 8.0' in text and 'vertebra_refused_total{reason="queue"} 1.0' in text
    gate.set()
    for thread in threads:
        thread.join()
    assert set(answers) == {200} and len(answers) == batcher.num_workers + 1
    assert client.post("/v1/predict", pngs[0]).status == 200


def test_what_a_client_that_hung_up_wanted_is_not_done(serving, held, pngs):
    client = serving()
    gate = held(client)
    batcher = client.service.registry.get(None).batcher
    connections = []
    for number in range(1, batcher.num_workers + 3):
        connection = http.client.HTTPConnection(client.host, client.port, timeout=10)
        connection.request("POST", "/v1/predict", pngs[0], {"Content-Type": "image/png"})
        connections.append(connection)
        # One after the other: a worker that is free would take two at once.
        busy = min(number, batcher.num_workers)
        until(lambda number=number, busy=busy: (batcher.num_busy, len(batcher)) == (busy, number - busy))
    for connection in connections:
        connection.close()
    gone = f'status="499"}} {batcher.num_workers + 2}.0'
    until(lambda: gone in client.get("/metrics").body.decode())
    gate.set()
    assert client.post("/v1/predict", pngs[0]).status == 200
    text = client.get("/metrics").body.decode()
    # Those that were under way, and the last one; none of those that waited.
    assert f'vertebra_batch_images_sum{{model="tiny"}} {batcher.num_workers + 1}.0' in text


def test_too_many_connections(serving):
    client = serving(connections=2)
    with socket.create_connection((client.host, client.port)), socket.create_connection((client.host, client.port)):
        time.sleep(0.1)
        assert talk(client).startswith(b"HTTP/1.1 503")


# --- who --------------------------------------------------------------------------------------------------------------


def test_a_key(serving, pngs):
    guarded = serving(api_key="correct-horse")
    client = guarded
    for headers in (
        {},
        {"Authorization": "Bearer wrong-horse"},
        {"X-API-Key": "correct-hors"},
        {"Authorization": "correct-horse"},
        {"X-API-Key": "é"},
    ):
        answer = client("POST", "/v1/predict", pngs[0], {"Content-Type": "image/png", **headers})
        assert answer.status == 401 and "API key" in answer.message and answer.headers["www-authenticate"] == "Bearer"
    for headers in ({"Authorization": "Bearer correct-horse"}, {"X-API-Key": "correct-horse"}):
        assert client("POST", "/v1/predict", pngs[0], {"Content-Type": "image/png", **headers}).status == 200
    for path in ("/", "/healthz", "/readyz", "/v1/info", "/docs", "/openapi.json", "/v2/health/live"):
        assert client.get(path).status == 200
    for path in ("/metrics", "/v1/models", "/v1/models/tiny/card", "/v2", "/nowhere"):
        assert client.get(path).status == 401
    assert client.get("/v1/info").json["auth"] is True
    assert "correct-horse" not in repr(guarded.service.settings)


def test_other_names_for_this_machine(client):
    for host, status in (("localhost", 200), ("127.0.0.1:99", 200), ("[::1]:80", 200), ("evil.example", 403)):
        assert client("GET", "/healthz", headers={"Host": host}).status == status


def test_pages_of_other_sites(client, pngs):
    own = f"http://{client.host}:{client.port}"
    assert client.post("/v1/predict", pngs[0], Origin=own).status == 200
    answer = client.post("/v1/predict", pngs[0], Origin="https://evil.example")
    assert answer.status == 403 and "--cors" in answer.message
    assert "access-control-allow-origin" not in answer.headers


def test_pages_that_are_allowed(serving, pngs):
    client = serving(cors=("https://good.example",), api_key="correct-horse")
    asked = {"Origin": "https://good.example", "Access-Control-Request-Method": "POST"}
    answer = client("OPTIONS", "/v1/predict", headers={**asked, "Access-Control-Request-Headers": "x-api-key"})
    assert answer.status == 200 and answer.headers["access-control-allow-origin"] == "https://good.example"
    answer = client.post("/v1/predict", pngs[0], Origin="https://good.example", **{"X-API-Key": "correct-horse"})
    assert answer.status == 200 and answer.headers["access-control-allow-origin"] == "https://good.example"
    assert client.post("/v1/predict", pngs[0], Origin="https://other.example").status == 403


def test_methods(client, pngs):
    """HEAD wherever GET is, and OPTIONS tells which there are."""
    for path in (
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        "/v1/models",
        "/v1/models/tiny/card",
        "/v2/health/ready",
        "/docs",
    ):
        plain, head = client.get(path), client("HEAD", path)
        assert (head.status, head.body) == (200, b"") and head.headers["content-type"] == plain.headers["content-type"]
        if path != "/metrics":
            assert head.headers["content-length"] == str(len(plain.body))
        options = client("OPTIONS", path)
        assert (options.status, options.body, options.headers["allow"]) == (204, b"", "GET, HEAD, OPTIONS")
    assert client("HEAD", "/nowhere").status == 404 and client("OPTIONS", "/nowhere").status == 404
    for method in ("HEAD", "GET", "PUT", "DELETE", "TRACE"):
        answer = client(method, "/v1/predict")
        assert answer.status == 405 and answer.headers["allow"] == "POST, OPTIONS"
    assert "/v1/predict takes POST, OPTIONS alone" in answer.message
    assert client("OPTIONS", "/v1/predict").headers["allow"] == "POST, OPTIONS"
    assert client("POST", "/healthz").headers["allow"] == "GET, HEAD, OPTIONS"
    assert client("OPTIONS", "*").headers["allow"] == "GET, HEAD, POST, OPTIONS"
    assert 'route="/healthz",status="200"' in client.get("/metrics").body.decode()


def test_the_address_that_the_docs_show(client):
    assert f"http://{client.host}:{client.port}/v1/predict" in client.get("/docs").body.decode()
    proxied = client("GET", "/docs", headers={"Host": "localhost", "X-Forwarded-Proto": "https"}).body.decode()
    assert "https://localhost/v1/predict" in proxied
    strange = client("GET", "/docs", headers={"X-Forwarded-Proto": "javascript"}).body.decode()
    assert "javascript" not in strange and f"http://{client.host}" in strange


def test_what_browsers_are_told(client):
    for path in ("/", "/healthz", "/nowhere", "/v1/models"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "script-src 'self'" in headers["content-security-policy"] and "server" not in headers
        assert "unsafe-inline" not in headers["content-security-policy"]


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ()}, "no model to serve"),
        ({"engine": "onnx"}, "no engine 'onnx'"),
        ({"queue": 0}, "queue is 0"),
        ({"queue": 5, "max_images": 6}, "would always be refused"),
        ({"timeout": 0}, "timeout is 0 seconds"),
        ({"port": 70_000}, "port is 70000"),
        ({"host": "0.0.0.0"}, "--no-auth"),
        ({"host": "example.org"}, "VERTEBRA_API_KEY"),
        ({"api_key": "short"}, "8 or more printable"),
        ({"api_key": "with a blank"}, "without spaces"),
        ({"cors": ("example.org",)}, "an origin is written like"),
        ({"allow_host": ("https://example.org",)}, "without scheme, port or path"),
        ({"allow_host": ("example.org:8000",)}, "allow_host has 'example.org:8000'"),
        ({"allow_host": ("10.0.0.1:8000",)}, "without scheme, port or path"),
        ({"allow_host": ("a.example", "*")}, r"allow_host has '\*'"),
        ({"allow_host": ("a.*.example",)}, "for all beneath it"),
        ({"allow_host": ("bücher.example",)}, "in ASCII"),
        ({"allow_host": ("",)}, "allow_host has ''"),
        ({"keep_alive": 0}, "keep_alive is 0 seconds"),
    ],
)
def test_settings_that_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        replace(ServerSettings(models=("m.onnx",)), **changes).check()


def test_settings_that_are_allowed():
    ServerSettings(models=("m.onnx",), host="0.0.0.0", no_auth=True).check()
    ServerSettings(models=("m.onnx",), host="0.0.0.0", api_key="long-enough-key").check()
    ServerSettings(
        models=("m.onnx",), allow_host=("a", "photos.example.org.", "*.xn--bcher-kva.example", "::1")
    ).check()
    assert ServerSettings().keep_alive > 60  # what usual balancers keep theirs for
    assert is_loopback("127.8.8.8") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("192.168.1.1") and not is_loopback("localhost.example")


def test_names_of_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/m.onnx", "b/m.onnx", "a/m m.onnx", "x=y.onnx", "m.onnx", "run/model.onnx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert ServerSettings(models=("a/m.onnx", "b=x=y.onnx", "resnet18")).sources_by_name() == {
        "m": "a/m.onnx",
        "b": "x=y.onnx",
        "resnet18": "resnet18",
    }
    assert ServerSettings(models=("run", "net:build", "x=net.py:build")).sources_by_name() == {
        "run": "run",
        "build": "net:build",
        "x": "net.py:build",
    }
    for models, message in (
        (("a/m.onnx", "b/m.onnx"), "two models have the name 'm'"),
        (("a/m m.onnx",), "letters, digits"),
        (("-x=m.onnx",), "letters, digits"),
        (("x=y.onnx",), r"vertebra serve NAME=x=y\.onnx"),
        (("nowhere.onnx",), "no such file"),
    ):
        with pytest.raises(UsageError, match=message):
            ServerSettings(models=models).sources_by_name()

"""One connection and several requests: each gets its answer, also where the next one is bad, or is not read at all."""

import contextlib
import http.client
import re
import socket
import threading
import time

import pytest
from waiting import until

from vertebra.serve import http_connection as module

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = GET[:-2] + b"Connection: close\r\n\r\n"
POST = b"POST /v1/predict?top=1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


@contextlib.contextmanager
def connected(client, timeout=20):
    with socket.create_connection((client.host, client.port), timeout=timeout) as connection:
        yield connection


def answers(connection):
    """All that comes until the server closes: (status, body) of each."""
    found = b""
    while more := connection.recv(65_536):
        found += more
    return parsed(found)


def parsed(found):
    result = []
    while found:
        head, _, rest = found.partition(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])
        result.append((int(head.split()[1]), rest[:length]))
        found = rest[length:]
    return result


def one(connection):
    """The next answer."""
    found = b""
    while b"\r\n\r\n" not in found:
        found += connection.recv(65_536)
    length = int(re.search(rb"content-length: (\d+)", found)[1])
    while len(found.partition(b"\r\n\r\n")[2]) < length:
        found += connection.recv(65_536)
    ((status, body),) = parsed(found)
    return status, body


def ask(client, *parts):
    with connected(client) as connection:
        for part in parts:
            connection.sendall(part)
        return answers(connection)


def picture(png, *headers):
    return b"".join([POST, *(header + b"\r\n" for header in headers), b"Content-Length: %d\r\n\r\n" % len(png), png])


# --- a good request before a bad one ----------------------------------------------------------------------------------

BAD = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
    "no address": (b"GET http://[ HTTP/1.1\r\n\r\n", 400),
    "a proxy's": (b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "a bad header": (b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    "a length and chunks": (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "a bad chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
    "a long header": (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
    "a long address": (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 431),
    "many headers": (b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 20_000 + b"\r\n", 431),
    "headers without an end": (b"GET / HTTP/1.1\r\nX: " + b"x" * 400_000, 431),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_good_request_before_a_bad_one_has_its_answer(client, pngs, kind):
    bad, status = BAD[kind]
    found = ask(client, picture(pngs[0]) + GET + bad)
    assert [each for each, _ in found] == [200, 200, status], found
    assert b'"predictions"' in found[0][1] and found[1][1] == b'{"status":"ok"}' and b'"error"' in found[2][1]
    alone = ask(client, bad)
    assert [each for each, _ in alone] == [status], alone


def test_an_answer_under_way_comes_before_the_refusal(serving, held, pngs):
    client = serving()
    gate, batcher = held(client), client.service.registry.get(None).batcher
    with connected(client) as connection:
        connection.sendall(picture(pngs[0]))
        until(lambda: batcher.num_busy)
        connection.sendall(b"nonsense\r\n\r\n" + GET)
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(20)
        gate.set()
        found = answers(connection)
    assert [status for status, _ in found] == [200, 400] and b'"predictions"' in found[0][1]


def test_a_slow_request_behind_one_under_way(serving, held, pngs):
    client = serving(read_seconds=0.3)
    gate = held(client)
    with connected(client) as connection:
        connection.sendall(picture(pngs[0]) + GET[:10])
        threading.Timer(1, gate.set).start()
        found = answers(connection)
    assert [status for status, _ in found] == [200, 408]


def test_a_body_that_breaks_has_one_answer(client, pngs):
    start = b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n"
    with connected(client) as connection:
        connection.sendall(POST + start)
        time.sleep(0.1)
        connection.sendall(b"no length\r\n")
        assert [status for status, _ in answers(connection)] == [400]
    # One that has its answer already gets no other.
    with connected(client) as connection:
        connection.sendall(POST.replace(b"/v1/predict", b"/nowhere") + start)
        assert one(connection)[0] == 404
        connection.sendall(b"no length\r\n")
        assert answers(connection) == []
    assert client.service.dispatcher.body_reader.num_bytes == 0


def test_who_hangs_up_is_noticed_also_with_requests_behind(serving, held, pngs):
    client = serving()
    held(client)
    batcher = client.service.registry.get(None).batcher
    with connected(client) as connection:
        connection.sendall(picture(pngs[0]) + GET)
        until(lambda: batcher.num_busy)
    until(lambda: 'status="499"} 1.0' in client.get("/metrics").body.decode())


# --- between requests -------------------------------------------------------------------------------------------------


def test_lines_between_requests_are_nothing(serving):
    client = serving(read_seconds=0.3)
    with connected(client) as connection:
        for stray in (b"\r\n", b"\r\n\r\n", b"\n"):
            connection.sendall(stray + GET + stray)
            assert one(connection)[0] == 200
            connection.sendall(stray)
            time.sleep(0.5)  # longer than headers may take
        connection.sendall(LAST)
        assert [status for status, _ in answers(connection)] == [200]


def test_lines_alone_keep_no_connection(serving):
    client = serving(read_seconds=0.3, keep_alive=1)
    for first in (b"", GET):
        with connected(client) as connection:
            connection.sendall(first)
            with contextlib.suppress(ConnectionError):
                for _ in range(100):
                    connection.sendall(b"\r\n")
                    time.sleep(0.05)
                raise AssertionError("the connection is still open")


def test_another_protocol_is_offered(client, pngs):
    """As Java's HttpClient and `curl --http2` do with each request; its body is the request's."""
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")
    found = ask(client, picture(pngs[0], *offer) + LAST)
    assert [status for status, _ in found] == [200, 200] and b'"predictions"' in found[0][1]
    chunked = POST + b"Connection: close, upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n"
    found = ask(client, chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(pngs[0]), pngs[0]) + GET)
    assert [status for status, _ in found] == [200] and b'"predictions"' in found[0][1]


def test_one_that_waits_makes_room_for_a_new_one(serving):
    client = serving(connections=3)
    with connected(client) as first, connected(client) as second, connected(client) as silent:
        for connection in (first, second, first):
            connection.sendall(GET)
            assert one(connection)[0] == 200
            time.sleep(0.02)  # the loop's clock counts milliseconds
        with connected(client) as third:
            third.sendall(GET)
            assert one(third)[0] == 200
            assert second.recv(1) == b""  # it waited longest
            first.sendall(GET)
            assert one(first)[0] == 200
        assert silent.fileno() > 0


# --- what is refused unread -------------------------------------------------------------------------------------------

BODY = bytes(20_000_000)
REFUSED = {
    "too large": ("/v1/predict", {}, 413),
    "no key": ("/v1/predict", {"X-API-Key": "wrong-wrong"}, 401),
    "another site's page": ("/v1/predict", {"Origin": "https://evil.example"}, 403),
    "nothing there": ("/nowhere", {}, 404),
    "another method": ("/healthz", {}, 405),
    "compressed": ("/v1/predict", {"Content-Encoding": "gzip"}, 415),
    "long headers": ("/v1/predict", {"X-Long": "x" * 70_000}, 431),
    "no model": ("/v2/models/none/infer", {}, 404),
}


@pytest.fixture(scope="module")
def guarded(settings):
    from dataclasses import replace

    from vertebra.serve.server import Server

    with Server(replace(settings, api_key="correct-horse")) as service:
        host, port = service.socket.getsockname()[:2]
        yield lambda: contextlib.closing(http.client.HTTPConnection(host, port, timeout=60))


@pytest.mark.parametrize("chunks", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize("close", [False, True], ids=["keep", "close"])
@pytest.mark.parametrize("kind", REFUSED)
def test_who_is_refused_can_read_why(guarded, kind, close, chunks):
    """Python's client writes all of its body before it reads: a reset would be all that it sees."""
    path, headers, status = REFUSED[kind]
    headers = {"X-API-Key": "correct-horse", "Content-Type": "image/png"} | headers
    if close:
        headers["Connection"] = "close"
    body = (BODY[start : start + 100_000] for start in range(0, len(BODY), 100_000)) if chunks else BODY
    with guarded() as connection:
        connection.request("POST", path, body, headers, encode_chunked=chunks)
        answer = connection.getresponse()
        assert answer.status == status and b'"error"' in answer.read()


def test_a_connection_goes_on_after_a_body_that_was_passed_by(serving):
    client = serving(read_seconds=0.5, keep_alive=1)
    with connected(client) as connection:
        for _ in range(2):
            connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
            assert one(connection)[0] == 404
            connection.sendall(bytes(1_000_000))
        connection.sendall(GET)
        assert one(connection)[0] == 200
        assert answers(connection) == []  # closed once it is idle
    with connected(client) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        assert one(connection)[0] == 404
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                connection.sendall(b"x")
                time.sleep(0.05)
            raise AssertionError("a body that does not end keeps its connection")


def test_too_many_can_read_why(serving):
    client = serving(connections=1)
    with connected(client), connected(client) as second:
        time.sleep(0.1)
        second.sendall(b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000))
        assert [status for status, _ in answers(second)] == [503]


def test_draining_has_an_end(serving, monkeypatch):
    client = serving()
    server = client.service.server
    large = POST + b"Content-Length: 100000000\r\n\r\n"
    monkeypatch.setattr(module, "_DRAIN_SILENCE", 0.2)
    with connected(client) as connection:  # it says no more
        connection.sendall(large)
        assert answers(connection)[0][0] == 413
        until(lambda: not server.server_state.connections)
    monkeypatch.setattr(module, "_DRAIN_SILENCE", 20)
    monkeypatch.setattr(module, "_DRAIN_BYTES", 100_000)
    with connected(client) as connection, pytest.raises(ConnectionError):  # it says too much
        connection.sendall(large)
        assert answers(connection)[0][0] == 413
        for _ in range(1000):
            connection.sendall(bytes(100_000))
    slow = serving(read_seconds=0.5)
    monkeypatch.setattr(module, "_DRAIN_BYTES", 2**30)
    with connected(slow) as connection, pytest.raises(ConnectionError):  # it says little, for long
        connection.sendall(large)
        assert answers(connection)[0][0] == 413
        for _ in range(1000):
            connection.sendall(b"x")
            time.sleep(0.02)

"""Who may ask: hosts, origins and keys as they come through proxies; and what is counted and added to each answer."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from vertebra.serve.api_errors import ApiError, BusyError
from vertebra.serve.dispatcher import ClientDisconnectedError
from vertebra.serve.middleware import CONTENT_SECURITY_POLICY, Middleware
from vertebra.serve.server_settings import ServerSettings

KEY = "correct-horse"


class Counters:
    def __init__(self):
        self.requests, self.reasons, self.seconds = [], [], []

    def count_response(self, path, status, seconds):
        self.requests.append((path, status))
        self.seconds.append(seconds)

    def count_refusal(self, reason):
        self.reasons.append(reason)


class Asked:
    """One request through a guard: the answer, what the application got, and what was counted."""

    def __init__(self, path="/v1/models", method="GET", headers=(), app=None, busy=None, page=(), **settings):
        self.counters, self.seen, self.deadlines = Counters(), [], []
        self.status, self.headers, self.body = None, [], b""

        def find_overload(milliseconds):
            self.deadlines.append(milliseconds)
            return busy

        async def plain(scope, receive, send):
            self.seen.append(scope["method"])
            scope["route"] = SimpleNamespace(path="/the/{route}")
            given = [(b"content-length", b"2"), (b"cache-control", b"public")]
            await send({"type": "http.response.start", "status": 200, "headers": given})
            await send({"type": "http.response.body", "body": b"ok"})

        async def send(message):
            if message["type"] == "http.response.start":
                self.status, self.headers = message["status"], message["headers"]
            else:
                self.body += message["body"]

        dispatcher = SimpleNamespace(
            settings=ServerSettings(**settings), metrics=self.counters, find_overload=find_overload
        )
        guard = Middleware(app or plain, dispatcher, frozenset(page))
        lines = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        # As a server makes them: equal to the guard's own texts, but no longer the same objects.
        texts = {"type": "http", "method": method, "path": path}
        self.scope = {"headers": lines} | {name: text.encode().decode() for name, text in texts.items()}
        asyncio.run(guard(self.scope, None, send))

    @property
    def message(self):
        return json.loads(self.body)["error"]["message"]


def served(host, **settings):
    return Asked(headers=[("host", host)], **settings)


# --- hosts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("localhost.", 200),
        ("localhost:", 200),
        ("127.0.0.1:99", 200),
        ("127.9.9.9", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("notlocalhost", 403),
        ("10.0.0.1", 403),
        ("", 403),
        ("::1", 400),
        ("localhost@evil.example", 400),
        ("evil.example/localhost", 400),
        ("localhost:port", 400),
        ("localhost:123456", 400),
        ("http://localhost", 400),
        ("[", 400),
        ("[::1", 400),
        ("local host", 400),
        ("bücher.example", 400),
    ],
)
def test_a_loopback_server_answers_to_its_own_names(host, status):
    found = served(host)
    assert found.status == status and found.seen == ["GET"] * (status == 200)
    assert found.counters.reasons == ["host"] * (status != 200)
    if status == 403:
        assert (
            "answers to localhost only" in found.message and f"--allow-host {host.lower() or 'NAME'}" in found.message
        )
    if status == 400:
        assert f"the Host header is {host!r}" in found.message


@pytest.mark.parametrize(
    ("allowed", "host", "status"),
    [
        ("photos.example.org", "photos.example.org", 200),
        ("Photos.Example.org.", "photos.EXAMPLE.org:443", 200),
        ("photos.example.org", "localhost", 200),
        ("photos.example.org", "127.0.0.1", 200),
        ("photos.example.org", "other.example.org", 403),
        ("photos.example.org", "a.photos.example.org", 403),
        ("*.example.org", "photos.example.org", 200),
        ("*.example.org", "a.b.example.org:80", 200),
        ("*.example.org", "example.org", 403),
        ("*.example.org", "badexample.org", 403),
        ("10.0.0.1", "10.0.0.1:8000", 200),
        ("fe80::1", "[fe80::1]:8000", 200),
    ],
)
def test_names_that_are_allowed(allowed, host, status):
    ServerSettings(models=("m",), allow_host=(allowed,)).check()
    found = served(host, allow_host=(allowed,))
    assert found.status == status
    if status == 403:
        assert f"answers to localhost, {allowed} only" in found.message


def test_where_a_key_is_asked_for_any_host_will_do():
    """A page whose name was made to point here lacks the key."""
    headers = [("host", "evil.example"), ("x-api-key", KEY)]
    assert Asked(headers=headers, api_key=KEY).status == 200
    assert Asked(headers=headers[:1], api_key=KEY).status == 401
    assert Asked(headers=headers[:1], host="0.0.0.0", no_auth=True).status == 200
    # Who names hosts wants them checked.
    for settings in ({"api_key": KEY}, {"host": "0.0.0.0", "no_auth": True}):
        assert Asked(headers=headers, allow_host=("good.example",), **settings).status == 403
        assert (
            Asked(headers=[("host", "good.example"), *headers[1:]], allow_host=("good.example",), **settings).status
            == 200
        )


def test_two_hosts_and_none():
    found = Asked(headers=[("host", "localhost"), ("host", "localhost")])
    assert found.status == 400 and "send exactly one" in found.message
    assert Asked(headers=[]).status == 403
    assert Asked(headers=[], host="0.0.0.0", no_auth=True).status == 200


# --- origins ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("http://site", "site", 200),
        ("https://site", "site", 200),
        ("https://site", "site:443", 200),
        ("http://site", "site:80", 200),
        ("https://site:443", "site", 200),
        ("https://SITE", "site.", 200),
        ("https://site", "site:", 200),
        ("https://site:8443", "site:8443", 200),
        ("http://[::1]:80", "[::1]", 200),
        ("https://site", "site:80", 403),
        ("http://site", "site:443", 403),
        ("https://site:8443", "site", 403),
        ("https://site", "site:8443", 403),
        ("https://other", "site", 403),
        ("https://other.site", "site", 403),
        ("null", "site", 403),
        ("", "site", 403),
        ("site", "site", 403),
        ("ftp://site", "site", 403),
        ("chrome-extension://site", "site", 403),
        ("http://[", "site", 403),
        ("http://]", "site", 403),
        ("http://[::1", "[::1]", 403),
        ("http://site/", "site", 403),
        ("http://a@site", "site", 403),
        ("http://site:x", "site", 403),
        ("http://site:99999999999999999999", "site", 403),
        ("http://bücher", "site", 403),
        ("https://", "", 403),
    ],
)
def test_the_page_of_this_server_may_use_it(origin, host, status):
    found = Asked(headers=[("host", host), ("origin", origin)], host="0.0.0.0", no_auth=True)
    assert found.status == status and found.counters.reasons == ["origin"] * (status == 403)
    if status == 403:
        assert repr(origin) in found.message and "--cors" in found.message and "pass on the Host" in found.message


def test_what_a_proxy_adds_opens_nothing():
    forwarded = [
        ("x-forwarded-host", "evil.example"),
        ("forwarded", "host=evil.example"),
        ("x-forwarded-proto", "https"),
    ]
    asked = [("host", "localhost"), ("origin", "https://evil.example")]
    assert Asked(headers=[*asked, *forwarded]).status == 403
    assert Asked(headers=[("host", "evil.example"), ("x-forwarded-host", "localhost")]).status == 403


@pytest.mark.parametrize(
    ("cors", "origin", "status"),
    [
        ("https://good.example", "https://good.example", 200),
        ("https://Good.example:443", "https://good.example", 200),
        ("http://good.example:80", "http://good.example", 200),
        ("https://good.example:80", "https://good.example", 403),
        ("https://good.example", "http://good.example", 403),
        ("https://good.example:8443", "https://good.example:8443", 200),
        ("*", "https://any.example", 200),
        ("*", "null", 200),
    ],
)
def test_pages_of_other_sites_that_are_allowed(cors, origin, status):
    assert Asked(headers=[("host", "localhost"), ("origin", origin)], cors=(cors,)).status == status


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("authorization", f"Bearer {KEY}", 200),
        ("authorization", f"bearer  {KEY} ", 200),
        ("x-api-key", KEY, 200),
        ("authorization", f"Basic {KEY}", 401),
        ("authorization", f"Digest {KEY}", 401),
        ("authorization", f"Bearerx {KEY}", 401),
        ("authorization", f"Token {KEY}", 401),
        ("authorization", f" {KEY}", 401),
        ("authorization", KEY, 401),
        ("authorization", f"Bearer Bearer {KEY}", 401),
        ("authorization", "Bearer", 401),
        ("authorization", "Bearer correct-hors", 401),
        ("authorization", f"Bearer {KEY}é", 401),
        ("x-api-key", f"Bearer {KEY}", 401),
        ("x-api-key", "", 401),
        ("x-other", KEY, 401),
    ],
)
def test_keys(name, value, status):
    found = Asked(headers=[("host", "site"), (name, value)], api_key=KEY)
    assert found.status == status and found.seen == ["GET"] * (status == 200)
    if status == 401:
        assert (b"www-authenticate", b"Bearer") in found.headers and "Authorization: Bearer KEY" in found.message
        assert found.counters.reasons == ["key"] and KEY not in found.message
        assert found.counters.requests == [("other", 401)]


def test_a_proxy_s_own_password_beside_the_key():
    assert Asked(headers=[("authorization", "Basic eA=="), ("x-api-key", KEY)], api_key=KEY).status == 200


def test_what_needs_no_key():
    for path in (
        "/",
        "/healthz",
        "/readyz",
        "/v1/info",
        "/v2/health/live",
        "/v2/health/ready",
        "/docs",
        "/openapi.json",
    ):
        assert Asked(path, api_key=KEY).status == 200
    for path in ("/", "/assets/a.js"):
        assert Asked(path, api_key=KEY, page=("/", "/assets/a.js")).status == 200
    for path in ("/assets/b.js", "/metrics", "/v1/predict", "/v2", "//", "/healthz/"):
        assert Asked(path, api_key=KEY, page=("/assets/a.js",)).status == 401
    assert Asked("/v1/predict", "OPTIONS", api_key=KEY).status == 200
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE"):
        assert Asked("/v1/models", method, api_key=KEY).status == 401


# --- in and out -------------------------------------------------------------------------------------------------------


LOCAL = [("host", "localhost")]


def test_head_is_get_within():
    for method, inner in (
        ("HEAD", "GET"),
        ("GET", "GET"),
        ("POST", "POST"),
        ("OPTIONS", "OPTIONS"),
        ("PUT", "PUT"),
        ("DELETE", "DELETE"),
    ):
        found = Asked(method=method, headers=LOCAL)
        assert found.seen == [inner] and found.scope["method"] == method
        assert found.counters.requests == [("/the/{route}", 200)]


def test_what_is_added_to_an_answer():
    found = dict(Asked(headers=LOCAL).headers)
    assert found[b"content-security-policy"] == CONTENT_SECURITY_POLICY.encode()
    assert found[b"x-content-type-options"] == b"nosniff" and found[b"x-frame-options"] == b"DENY"
    assert found[b"cache-control"] == b"public"  # its own
    assert dict(Asked().headers)[b"cache-control"] == b"no-store"


def test_no_room():
    busy = BusyError("full", 3)
    for path in ("/v1/predict", "/v1/embed", "/v1/explain"):
        found = Asked(path, "POST", [*LOCAL, ("x-deadline-ms", "70")], busy=busy)
        assert (found.status, found.message, found.deadlines, found.seen) == (503, "full", [b"70"], [])
        assert (b"retry-after", b"4") in found.headers and found.counters.requests == [(path, 503)]
        assert Asked(path, "POST", LOCAL).deadlines == [b""]
        for method in ("GET", "HEAD", "OPTIONS"):
            assert Asked(path, method, LOCAL, busy=busy).status == 200
    assert Asked("/v1/models", "POST", LOCAL, busy=busy).status == 200


def raising(error, begun=False):
    async def app(scope, receive, send):
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    return app


def test_errors_of_the_application(caplog):
    found = Asked("/", headers=LOCAL, app=raising(ApiError(418, "é", {"X-A": "b"})))
    assert (found.status, found.message) == (418, "é") and (b"x-a", b"b") in found.headers
    assert (b"content-length", b"%d" % len(found.body)) in found.headers
    assert (b"content-type", b"application/json") in found.headers and found.counters.requests == [("page", 418)]
    assert not caplog.records
    gone = Asked("/", headers=LOCAL, app=raising(ClientDisconnectedError()))
    assert gone.status is None and gone.counters.requests == [("page", 499)]


def test_errors_that_nobody_expected(caplog):
    found = Asked("/v1/embed", "POST", LOCAL, app=raising(RuntimeError("secret")))
    assert found.status == 500 and "log" in found.message and "secret" not in found.message
    assert found.counters.requests == [("/v1/embed", 500)]
    (record,) = caplog.records
    assert record.getMessage() == "POST /v1/embed failed" and record.exc_info


def test_errors_within_an_answer_are_the_connection_s(caplog):
    """It logs them and hangs up, so that half of an answer does not pass for a whole one."""
    with pytest.raises(RuntimeError, match="secret"):
        Asked(headers=LOCAL, app=raising(RuntimeError("secret"), begun=True))
    assert not caplog.records


def test_errors_behind_an_answer_are_logged(caplog):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        await send({"type": "http.response.body", "body": b"h"})
        raise RuntimeError("late")

    found = Asked("/v1/embed", "POST", LOCAL, app=app)
    assert (found.status, found.body) == (500, b"oh") and found.counters.requests == [("/v1/embed", 500)]
    assert [record.getMessage() for record in caplog.records] == ["POST /v1/embed failed"]


def test_what_takes_its_time_is_counted(monkeypatch):
    clock = iter((100.0, 107.0))
    monkeypatch.setattr("vertebra.serve.middleware.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert Asked(headers=LOCAL).counters.seconds == [7.0]


def test_what_is_no_request_is_passed_on():
    seen = []

    async def app(scope, receive, send):
        seen.append((scope["type"], receive, send))

    guard = Middleware(app, SimpleNamespace(settings=ServerSettings(), metrics=None), frozenset())
    asyncio.run(guard({"type": "lifespan"}, 1, 2))
    assert seen == [("lifespan", 1, 2)]


def test_long_values_are_cut(caplog):
    long = "x" * 150
    message = served(long + "@").message
    assert f"is {'x' * 100!r};" in message
    message = served(long).message
    assert f"is {'x' * 100!r};" in message and f"--allow-host {'x' * 100}, or" in message
    message = Asked(headers=[("host", long), ("origin", "y" * 150)], host="0.0.0.0", no_auth=True).message
    assert f"pages of {'y' * 100!r} " in message and f"Host is {'x' * 100!r}." in message
    Asked("/" + "p" * 300, headers=LOCAL, app=raising(RuntimeError()))
    assert caplog.records[0].getMessage() == f"GET /{'p' * 199} failed"

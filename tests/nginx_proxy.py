"""Debian's nginx in front of servers of tests, by deploy/nginx.conf, with TLS."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

NGINX = shutil.which("nginx") or next(iter(Path("/usr/sbin").glob("nginx")), None)
CONFIGURATION = (Path(__file__).parents[1] / "deploy/nginx.conf").read_text()
NAME = "photos.example.org"


def is_installed() -> bool:
    """Whether nginx and openssl are."""
    return NGINX is not None and shutil.which("openssl") is not None


def make_certificate(folder: Path) -> Path:
    """Write cert.pem and key.pem of `NAME` to a folder, and return it."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem", "-days", "2", "-subj", f"/CN={NAME}"]
    subprocess.run([*command, "-addext", f"subjectAltName=DNS:{NAME}"], check=True, capture_output=True)
    return folder


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Proxy:
    """Calls nginx: `proxy(method, path, …)` → status, body, headers."""

    def __init__(self, port: int, certificate: Path) -> None:
        self.port = port
        self.context = ssl.create_default_context(cafile=certificate / "cert.pem")

    @contextlib.contextmanager
    def connection(self) -> Iterator[http.client.HTTPSConnection]:
        """A connection that is kept alive."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        with contextlib.closing(http.client.HTTPSConnection("127.0.0.1", self.port)) as connection:
            connection.sock = self.context.wrap_socket(plain, server_hostname=NAME)
            yield connection

    def __call__(
        self, method: str, path: str, body: bytes | None = None, name: str = NAME, **headers: str
    ) -> tuple[int, str, dict[str, str]]:
        with self.connection() as connection:
            connection.request(method, path, body, {"Host": name, "Content-Type": "image/png", **headers})
            answer = connection.getresponse()
            return answer.status, answer.read().decode("latin-1"), dict(answer.getheaders())


@contextlib.contextmanager
def nginx(ports: Sequence[int], certificate: Path, folder: Path) -> Iterator[Proxy]:
    """Run nginx in front of servers on these ports; its files are in `folder`, its errors in `folder/error.log`."""
    port, configuration, left = free_port(), CONFIGURATION, list(ports)

    def server(_: re.Match[str]) -> str:
        return f"server 127.0.0.1:{left.pop(0) if len(left) > 1 else left[0]}"

    for pattern, new in (
        (r"server 10\.0\.0\.\d:8000", server),
        (r"listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        (r"/etc/ssl/\S+\.pem", f"{certificate}/cert.pem"),
        (r"/etc/ssl/\S+\.key", f"{certificate}/key.pem"),
    ):
        configuration, count = re.subn(pattern, new, configuration)
        assert count, f"deploy/nginx.conf has no {pattern}"
    folders = "".join(
        f"{kind}_temp_path {folder / kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user}daemon off;\npid {folder / 'pid'};\nerror_log {folder / 'error.log'};\nevents {{}}\n"
        f"http {{\naccess_log off;\n{folders}{configuration}\n}}\n"
    )
    process = subprocess.Popen([str(NGINX), "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL)
    try:
        stop = time.monotonic() + 30
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None and time.monotonic() < stop, (folder / "error.log").read_text()
            time.sleep(0.02)
        yield Proxy(port, certificate)
    finally:
        process.terminate()
        process.wait()

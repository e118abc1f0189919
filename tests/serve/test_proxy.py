"""Behind Debian's nginx, set up as the documentation says, with TLS."""

import contextlib
import http.client
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest

NGINX = shutil.which("nginx") or next(iter(Path("/usr/sbin").glob("nginx")), None)
if NGINX is None or shutil.which("openssl") is None:
    pytest.skip("nginx and openssl are not installed (apt-get install nginx-light openssl)", allow_module_level=True)

DOCS = (Path(__file__).parents[2] / "docs/guides/serving.md").read_text()
(BLOCK,) = re.findall(r"```nginx\n(.*?)```", DOCS, re.DOTALL)
NAME = "photos.example.org"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-days", "2", "-subj", f"/CN={NAME}"]
    subprocess.run([*command, "-addext", f"subjectAltName=DNS:{NAME}"], check=True, capture_output=True)
    return folder


class Proxy:
    def __init__(self, port, certificate):
        self.port = port
        self.context = ssl.create_default_context(cafile=certificate / "cert.pem")

    @contextlib.contextmanager
    def connection(self):
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        with contextlib.closing(http.client.HTTPSConnection("127.0.0.1", self.port)) as connection:
            connection.sock = self.context.wrap_socket(plain, server_hostname=NAME)
            yield connection

    def __call__(self, method, path, body=None, name=NAME, **headers):
        with self.connection() as connection:
            connection.request(method, path, body, {"Host": name, "Content-Type": "image/png", **headers})
            answer = connection.getresponse()
            return answer.status, answer.read().decode("latin-1"), dict(answer.getheaders())


@pytest.fixture
def proxied(serving, certificate, tmp_path):
    """A server behind nginx: `proxied(api_key=…)`."""
    with contextlib.ExitStack() as stack:

        def start(**settings):
            server = serving(**settings)
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            block = BLOCK
            for pattern, new in (
                (r"server 10\.0\.0\.\d:8000", f"server 127.0.0.1:{server.port}"),
                (r"listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
                (r"/etc/ssl/\S+\.pem", str(certificate / "cert.pem")),
                (r"/etc/ssl/\S+\.key", str(certificate / "key.pem")),
            ):
                block, count = re.subn(pattern, new, block)
                assert count, f"the documentation has no {pattern}"
            folders = "".join(
                f"{kind}_temp_path {tmp_path / kind};\n"
                for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            user = "user root;\n" if os.geteuid() == 0 else ""
            (tmp_path / "nginx.conf").write_text(
                f"{user}daemon off;\npid {tmp_path / 'pid'};\nerror_log stderr;\nevents {{}}\n"
                f"http {{\naccess_log off;\n{folders}{block}\n}}\n"
            )
            command = [NGINX, "-p", tmp_path, "-c", tmp_path / "nginx.conf"]
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            stack.callback(process.stderr.close)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            stop = time.monotonic() + 30
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert process.poll() is None and time.monotonic() < stop, process.stderr.read()
                time.sleep(0.02)
            return Proxy(port, certificate)

        yield start


def test_the_page_of_a_server_with_a_key(proxied, pngs):
    proxy = proxied(api_key="correct-horse")
    key = {"Authorization": "Bearer correct-horse"}
    for name in (NAME, f"{NAME}:443", "10.9.8.7", f"{NAME}:8443"):
        origin = f"https://{name.removesuffix(':443')}"
        status, body, _ = proxy("POST", "/v1/predict", pngs[0], name, Origin=origin, **key)
        assert status == 200 and '"predictions"' in body
    status, body, _ = proxy("POST", "/v1/predict", pngs[0], Origin="https://evil.example", **key)
    assert status == 403 and "--cors" in body
    forged = {"X-Forwarded-Host": "evil.example", "Origin": "https://evil.example"}
    assert proxy("POST", "/v1/predict", pngs[0], **forged, **key)[0] == 403
    assert proxy("POST", "/v1/predict", pngs[0], Origin=f"https://{NAME}")[0] == 401
    assert proxy("POST", "/v1/explain", pngs[0], Origin=f"https://{NAME}", **key)[2]["Content-Type"] == "image/png"
    assert proxy("GET", "/")[0] == 200 and proxy("HEAD", "/readyz")[:2] == (200, "")
    assert f"https://{NAME}/v1/predict" in proxy("GET", "/docs")[1]


def test_a_loopback_server_without_a_key(proxied, pngs):
    proxy = proxied(allow_host=(NAME,))
    assert proxy("POST", "/v1/predict", pngs[0], Origin=f"https://{NAME}")[0] == 200
    status, body, _ = proxy("POST", "/v1/predict", pngs[0], "evil.example", Origin="https://evil.example")
    assert status == 403 and "--allow-host evil.example" in body


def test_large_and_many_requests(proxied, pngs):
    proxy = proxied(api_key="correct-horse")
    key = {"X-API-Key": "correct-horse"}
    status, body, _ = proxy("POST", "/v1/predict", bytes(20_000_000), **key)
    assert status == 413 and "200,000 bytes" in body  # the server's
    with proxy.connection() as connection:
        for _ in range(20):
            connection.request("POST", "/v1/predict", pngs[0], {"Host": NAME, "Content-Type": "image/png", **key})
            answer = connection.getresponse()
            assert answer.status == 200 and answer.read()
        chunks = (pngs[0][start : start + 100] for start in range(0, len(pngs[0]), 100))
        headers = {"Host": NAME, "Content-Type": "image/png", "Transfer-Encoding": "chunked", **key}
        connection.request("POST", "/v1/predict", chunks, headers, encode_chunked=True)
        assert connection.getresponse().status == 200

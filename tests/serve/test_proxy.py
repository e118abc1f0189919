"""Behind Debian's nginx, set up as the documentation says, with TLS."""

import contextlib
import re
from pathlib import Path

import nginx_proxy
import pytest
from nginx_proxy import NAME

if not nginx_proxy.is_installed():
    pytest.skip("nginx and openssl are not installed (apt-get install nginx-light openssl)", allow_module_level=True)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return nginx_proxy.make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def proxied(serving, certificate, tmp_path):
    """A server behind nginx: `proxied(api_key=…)`."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            nginx_proxy.nginx([serving(**settings).port], certificate, tmp_path)
        )


def test_the_documentation_has_the_configuration_that_is_shipped():
    docs = (Path(__file__).parents[2] / "docs/guides/serving.md").read_text()
    (block,) = re.findall(r"```nginx\n(.*?)```", docs, re.DOTALL)
    lines = nginx_proxy.CONFIGURATION.splitlines(keepends=True)
    assert "".join(line for line in lines if not line.startswith("#")).strip() == block.strip()


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

"""The page's files, and the description of the API."""

import json

import pytest

from vertebra.serve.static_page import StaticPage


def test_files_are_served_with_their_kinds(tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "assets/app-1a2b.js").write_text("1")
    (tmp_path / ".hidden").write_text("no")
    page = StaticPage(tmp_path)
    assert set(page.files) == {"/", "/index.html", "/assets/app-1a2b.js"}
    script = page.files["/assets/app-1a2b.js"]
    assert script.media_type == "text/javascript" and "immutable" in script.headers["cache-control"]
    index = page.files["/"].headers
    assert index["content-type"] == "text/html; charset=utf-8" and index["cache-control"] == "no-cache"


def test_without_the_page_there_is_a_hint(tmp_path):
    page = StaticPage(tmp_path / "none")
    assert set(page.files) == {"/"} and b"/docs" in page.files["/"].body


def test_over_http(client):
    first = client.get("/")
    assert first.status == 200 and first.headers["content-type"].startswith("text/html")
    again = client("GET", "/", headers={"If-None-Match": first.headers["etag"]})
    assert again.status == 304 and again.body == b""


def test_the_description(client):
    document = client.get("/openapi.json").json
    assert document["info"]["title"] == "Vertebra"
    assert {"/v1/predict", "/v1/explain", "/v2/models/{name}/infer", "/readyz"} <= set(document["paths"])
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"], path
            assert "HTTPValidationError" not in json.dumps(operation)


def test_the_description_as_a_page(client):
    page = client.get("/docs")
    text = page.body.decode()
    assert page.status == 200 and "<script" not in text and "http://" not in text.replace(f"http://{client.host}", "")
    assert "sha256-" in page.headers["content-security-policy"]
    assert "POST /v1/predict" in text and "curl -F files=@cat.jpg" in text


@pytest.mark.parametrize(
    ("prefix", "path"),
    [("/photos", "/photos"), ("/a/b/", "/a/b"), ("photos", ""), ("//evil.example", ""), ("/<b>", "")],
)
def test_the_description_below_a_path(client, prefix, path):
    """What a proxy takes off, which it tells in X-Forwarded-Prefix, as Traefik does."""
    text = client.get("/docs", **{"X-Forwarded-Prefix": prefix}).body.decode()
    assert f"http://{client.host}:{client.port}{path}/v1/embed" in text
    document = client.get("/openapi.json", **{"X-Forwarded-Prefix": prefix}).json
    assert document.get("servers") == ([{"url": path}] if path else None)

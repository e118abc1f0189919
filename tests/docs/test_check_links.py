"""Links inside the built pages."""

import subprocess
import sys

import pytest


@pytest.fixture
def site(tmp_path):
    (tmp_path / "en" / "book").mkdir(parents=True)
    (tmp_path / "en" / "index.html").write_text(
        '<a href="book/vgg.html#table-1">1</a><a href="https://example.org/x">2</a><a href="#top">3</a><p id="top">x'
    )
    (tmp_path / "en" / "book" / "vgg.html").write_text('<p id="table-1"><img src="../a%20b.svg"></p>')
    (tmp_path / "en" / "a b.svg").write_text("<svg/>")
    return tmp_path


def test_good_links(site, docs_module):
    assert docs_module("check_links").broken(site) == []


@pytest.mark.parametrize(
    "target", ["book/nowhere.html", "book/vgg.html#table-2", "#bottom", "../ja/index.html", "book"]
)
def test_broken_links(site, docs_module, target):
    (site / "en" / "b.html").write_text(f'<a href="{target}">x</a>')
    assert docs_module("check_links").broken(site) == [f"en/b.html: {target}"]


def test_the_command_tells_them_and_fails(site, docs_module):
    (site / "en" / "b.html").write_text('<img src="missing.png">')
    done = subprocess.run([sys.executable, docs_module("check_links").__file__, site], capture_output=True, text=True)
    assert done.returncode == 1 and "en/b.html: missing.png" in done.stderr

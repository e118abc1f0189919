"""What a page is made of."""

import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from importlib import resources
from pathlib import Path

import pytest

from vertebra.report.page import interval, package_versions, percent, render, seconds, shown

PACKAGE = resources.files("vertebra.report")
WEB = Path(__file__).parents[2] / "web" / "src" / "style" / "base.css"


@pytest.fixture(scope="module")
def page():
    found = {
        "problems": [],
        "conclusion": "no problems found",
        "groups": [],
        "odd": [],
        "broken": [],
        "broken_count": 0,
    }
    return render(
        "audit.html", title="<data>", kind="Data audit", data={"pictures": [], "text": "</script>&\u2028"}, tiles=[],
        found=found | {"lists": [], "notes": [], "classes": [("cat", 3), ("dog", 0)], "largest": 3},
        commands=[("Again:", "vertebra audit data\nvertebra audit <data>")], facts={}, versions={}, hashes={},
    )  # fmt: skip


def test_the_policy_allows_what_is_in_the_page_and_nothing_else(page):
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    markup = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    assert not re.search(r"\s(style|on\w+)=", markup), "nothing that the policy refuses"
    assert not re.search(r"https?://", markup)


def test_data_cannot_end_its_element(page):
    (data,) = re.findall('<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert "<" not in data and "&" not in data
    assert "<h1>&lt;data&gt;</h1>" in page
    assert "vertebra audit data\nvertebra audit &lt;data&gt;\n</code>" in page


def test_the_script_and_the_style_ask_for_nothing():
    for name in ("page.js", "style.css"):
        text = (PACKAGE / name).read_text("utf-8")
        assert set(re.findall(r"https?://[\w./-]+", text)) <= {"http://www.w3.org/2000/svg"}
        assert not re.search(r"\b(fetch|XMLHttpRequest|innerHTML|insertAdjacentHTML|eval|import|url)\b\s*\(?", text)


def test_no_module_writes_markup():
    for name in ("report", "train", "data"):
        for path in (Path(str(PACKAGE)).parent / name).glob("*.py"):
            assert not re.search(r"</|<\w+ \w+=|<(div|span|p|td|h\d)>", path.read_text("utf-8")), path.name


def test_the_colours_are_those_of_the_server_s_page():
    if not WEB.is_file():
        pytest.skip("the server page's sources are not here")
    blocks = re.findall(
        r'^(:root(?:\[data-theme="dark"\])?) \{(.*?)\}', WEB.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    light, dark = (dict(re.findall(r"(--[\w-]+): (#\w+);", block)) for _, block in blocks)
    own = dict(re.findall(r"(--[\w-]+): light-dark\((#\w+, #\w+)\);", (PACKAGE / "style.css").read_text("utf-8")))
    assert len(own) > 15
    assert own == {name: f"{light[name]}, {dark[name]}" for name in light}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain name", "plain name"),
        ("two\nlines\tand \x1b[31m", "two\\nlines\\tand \\x1b[31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("bytes \udcff", "bytes \\udcff"),
        ("حيوان 猫", "حيوان 猫"),
    ],
)
def test_names_are_shown_in_one_line(name, expected):
    assert shown(name) == expected


def test_figures():
    assert (percent(0.9531), percent(None), percent(0.0)) == ("95.3 %", "not measured", "0.0 %")
    assert (interval((0.94, 0.9654)), interval(None)) == ("94.0 – 96.5 %", "")
    assert (seconds(3.21), seconds(64.6), seconds(3600)) == ("3.2 s", "1 min 5 s", "60 min 0 s")
    found = package_versions("numpy", "no-such-package-anywhere")
    assert set(found) == {"vertebra", "python", "numpy"}


@pytest.mark.network
def test_the_wheel_brings_the_templates(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(root)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    package = root / "src" / "vertebra" / "report"
    own = {path.relative_to(root / "src").as_posix() for path in package.rglob("*.*") if path.suffix != ".pyc"}
    assert len(own) > 8
    assert own <= packed

"""What README.md and docs/ show is what happens: their command and Python blocks run, and give the output shown.

The blocks of a page run in order in a folder of their own, which has the inputs that the page names (`photos/`,
`flower.jpg`, …, see `INPUTS`). In shown output `…` stands for anything, alone on a line for any number of lines; times,
rates, dates and hashes match any other, all other numbers must agree within 5 % or one unit of their last digit.

In plain Python blocks a comment after a statement that prints or has a value is what it shows. A block that does not
run has `<!-- not run: REASON -->` before it, and then its commands must exist with the options that it names; one that
takes seconds has `<!-- slow -->` and runs with `-m slow`.
"""

import ast
import contextlib
import doctest
import io
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
import warnings
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from vertebra import cli
from vertebra.cli import _app

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
TOP = [ROOT / "README.md", ROOT / "README.ja.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*TOP, *(page for folder in ("book", "guides") for page in sorted((ROOT / "docs" / folder).glob("*.md")))]
PORT = "8000"  # in the pages; here a free one takes its place
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Block:
    """One fenced block: the line it begins in, its language and text, and why it does not run or runs with -m slow."""

    line: int
    language: str
    text: str
    not_run: str | None
    slow: bool

    @property
    def calls(self):
        """The commands of a console block with the output shown for each."""
        for part in re.split(r"^\$ ", self.text, flags=re.M)[1:]:
            command, _, shown = part.partition("\n")
            while command.endswith("\\"):
                more, _, shown = shown.partition("\n")
                command = f"{command[:-1].rstrip()} {more.strip()}"
            yield command, shown


def blocks(page):
    found, note = [], ""
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if opening := re.match(r"( *)```(\w+)", line):
            body = []
            for _, inner in lines:
                if inner.strip() == "```":
                    break
                body.append(inner.removeprefix(opening[1]))
            reason = re.fullmatch(r"<!-- not run: (.+) -->", note)
            text = "\n".join(body) + "\n"
            found.append(Block(number, opening[2], text, reason and reason[1], note == "<!-- slow -->"))
        if line.strip():
            note = line.strip()
    return found


def ran(page):
    return [block for block in blocks(page) if block.language in ("console", "python") and block.not_run is None]


# Inputs: the name in a page, and what makes it.


CLASSES = ("crab", "crayfish", "lobster", "octopus", "scorpion")


def of_caltech(name):
    return sorted((SHARED / "caltech101" / name).glob("*.jpg"))


def photos(folder):
    """24 photos of each of five classes of Caltech-101, or pieces of two pictures where that is missing."""
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        found = of_caltech(name)[:24]
        for photo in found:
            shutil.copy(photo, folder / name)
        for piece in range(0 if found else 24):
            picture = Image.open(example("china.jpg" if piece % 2 else "flower.jpg"))
            box = (60 * number, 9 * piece, 60 * number + 150, 9 * piece + 200)
            picture.crop(box).save(folder / name / f"image_{piece:04}.jpg")


def more(folder):
    """The other photos of these classes; of octopus there are none."""
    caltech(folder.with_name("caltech101"))
    for name in CLASSES:
        for photo in of_caltech(name)[24:]:
            (folder / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, folder / name)


def imagenet(folder):
    found = sorted((SHARED / "imagenet-photos").glob("*.JPEG"))[:12]
    if not found:
        pytest.skip(f"no photos in {SHARED / 'imagenet-photos'}")
    for photo in found:
        (folder / photo.name.partition("_")[0]).mkdir(parents=True)
        shutil.copy(photo, folder / photo.name.partition("_")[0])


def holiday(folder):
    folder.mkdir()
    for name in ("flower.jpg", "china.jpg"):
        shutil.copy(example(name), folder)


def example(name):
    """The path of one of scikit-learn's two pictures."""
    return Path(find_spec("sklearn").origin).parent / "datasets" / "images" / name


def lite0(path):
    from vertebra.export import export

    once = Path(os.environ["VERTEBRA_CACHE"], "of-the-docs.onnx")
    if not once.exists():
        export("efficientnet_lite0", once)
    shutil.copy(once, path)


def caltech(path):
    if not (SHARED / "caltech101").is_dir():
        pytest.skip(f"no photos in {SHARED / 'caltech101'}")
    if not path.exists():
        path.symlink_to(SHARED / "caltech101")


NET = """
from torch import nn


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
"""

INPUTS = {
    "photos/": photos,
    "more/": more,
    "holiday/": holiday,
    "imagenet/": imagenet,
    "caltech101/": caltech,
    "crab.jpg": lambda path: shutil.copy([*of_caltech("crab")[24:25], example("china.jpg")][0], path),
    "flower.jpg": lambda path: shutil.copy(example("flower.jpg"), path),
    "china.jpg": lambda path: shutil.copy(example("china.jpg"), path),
    "lite0.onnx": lite0,
    "birds.onnx": lite0,
    "net.py": lambda path: path.write_text(NET),
    "notes.txt": lambda path: path.write_text("To do: take more photos.\n"),
}


# Shown and actual output.

VARYING = (
    (r"\d{4}-\d\d-\d\d", "DATE"),
    (r"\d\d:\d\d:\d\d([.,]\d+)?", "TIME"),
    (r"(?<![.\w])[0-9a-f]{12,}\b", "HASH"),
    (r"\b\d[\d.,]*e-\d+", "SMALL"),
    (r"[-+]?\b\d[\d.,]*\s?(ns|µs|ms|s|min|h|images/s)\b", "TIME"),
    (r"(\"\w+_ms\":) ?[\d.]+", r"\1 TIME"),
    (r"[█▏▎▍▌▋▊▉]+", " "),
    (r"[ \t]+", " "),
)
NUMBER = re.compile(r"\d(?:[\d,]*\d)?(?:\.\d+)?")


def canonical(text):
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text)
    return "\n".join(line.strip() for line in text.strip().splitlines())


def pattern_of(shown):
    """A regular expression of the shown text, and the numbers in it that are compared; digits may be cut short by …"""
    parts, numbers = [], []
    for line in re.sub(r"(\d)…", r"\1", canonical(shown)).splitlines():
        if line == "…":
            parts.append(r"(?:.*\n)*?")
            continue
        for piece in re.split(rf"(…|{NUMBER.pattern})", line):
            if piece == "…":
                parts.append(".*?")
            elif NUMBER.fullmatch(piece):
                parts.append(f"((?>{NUMBER.pattern}))")
                numbers.append(piece)
            else:
                parts.append(re.escape(piece))
        parts.append(r"\n")
    return "".join(parts), numbers


def value(number):
    return float(number.replace(",", ""))


def same_number(shown, actual):
    """Within 5 %, or one unit of the last digit shown."""
    step = 10.0 ** -len(shown.partition(".")[2])
    return abs(value(shown) - value(actual)) <= max(1.001 * step, 0.05 * value(shown))


def difference(shown, actual):
    """What is not as shown; None where all is."""
    pattern, numbers = pattern_of(shown)
    actual = re.sub(r"^vertebra: .* (so far|left)\n", "", actual, flags=re.M)  # told every 10 s by what takes long
    match = re.fullmatch(pattern, canonical(actual) + "\n")
    if match is None:
        return f"shown:\n{shown}\nbut it gives:\n{actual}"
    for ours, theirs in zip(numbers, match.groups(), strict=True):
        if not same_number(ours, theirs):
            return f"shown is {ours} and it gives {theirs}:\n{actual}"
    return None


@pytest.mark.parametrize(
    ("shown", "actual"),
    [
        ("a.onnx: 18.6 MB (0.9 s)", "a.onnx: 18.6 MB (12 s)"),
        ("29.8%  ███  palace", "29.9%  █████████       palace"),
        ("differ by at most 1.0e-06", "differ by at most 8.6e-07"),
        ("first\n…\nlast", "first\nsecond\nthird\nlast"),
        ("first\n…", "first"),
        ("done", "vertebra: decoding: 60 of 120, 6/s, about 10 s left\ndone"),
        ("2026-11-24 14:47:14,692 INFO listening", "2027-01-02 01:02:03,004 INFO listening"),
        ("1,797 photos, … of them", "1,797 photos, 1,796 of them"),
    ],
)
def test_output_as_shown(shown, actual):
    assert difference(shown, actual) is None


@pytest.mark.parametrize(
    ("shown", "actual"),
    [
        ("18.6 MB", "21.4 MB"),
        ("palace", "monastery"),
        ("1,797 photos", "1,597 photos"),
        ("first\nlast", "first\nsecond\nlast"),
        ("first\n…\nlast", "first\nsecond"),
        ("top-1 95.4 %", "top-1 95.4 %, top-5 99.9 %"),
        ("", "vertebra: a note"),
    ],
)
def test_output_that_is_not_as_shown(shown, actual):
    assert difference(shown, actual) is not None


# Running.


@dataclass
class Session:
    """What a page's blocks share: the folder, Python's names, the server that runs, and whether output is compared."""

    page: Path
    compare: bool
    port: str = PORT
    names: dict = field(default_factory=lambda: {"__name__": "docs"})
    server: subprocess.Popen | None = None
    environment: dict = field(
        default_factory=lambda: os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "120"}
    )

    def check(self, block, what, shown, actual, code=0):
        place = f"{self.page.name}:{block.line}: {what}"
        assert code == 0 or "vertebra: " in shown, f"{place} ended with {code}:\n{actual}"
        if shown.strip() and self.compare:
            wrong = difference(shown, actual)
            assert wrong is None, f"{place}\n{wrong}"

    def run(self, block):
        if block.language == "console":
            for command, shown in block.calls:
                actual, code = self.call(command)
                self.check(block, command, shown, actual, code)
        elif ">>> " in block.text:
            for example in doctest.DocTestParser().get_examples(block.text):
                self.check(block, example.source, example.want, self.interactive(example.source))
        else:
            self.script(block)

    def call(self, command):
        """Output and exit code of one command line, in this process where it is one call of vertebra."""
        with contextlib.suppress(ValueError):
            words = shlex.split(command, comments=True)
            if words[:2] == ["vertebra", "serve"]:
                return self.serve(words[1:]), 0
            if words[0] == "vertebra" and not re.search(r"[|<>;&*$`]", command.partition(" #")[0].replace("'", "")):
                return captured(cli.main, words[1:])
        command = command.replace(f":{PORT}", f":{self.port}")
        done = subprocess.run(
            ["bash", "-c", command], env=self.environment, stdout=-1, stderr=subprocess.STDOUT, timeout=300
        )
        return done.stdout.decode().replace(f":{self.port}", f":{PORT}"), done.returncode

    def serve(self, words):
        self.stop()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        command = [sys.executable, "-m", "vertebra", *words, "--port", self.port]
        with Path("server.log").open("wb") as log:
            self.server = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        limit = time.monotonic() + 60
        while b"listening on" not in (said := Path("server.log").read_bytes()):
            assert self.server.poll() is None and time.monotonic() < limit, said.decode()
            time.sleep(0.02)
        while not self.ready():
            time.sleep(0.02)
        lines = Path("server.log").read_text().replace(f":{self.port}", f":{PORT}").splitlines(keepends=True)
        return "".join(sorted(lines, key=lambda line: "listening on" in line))  # models load meanwhile

    def ready(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz").status == 200
        except urllib.error.HTTPError:
            return False

    def stop(self):
        if self.server is not None:
            self.server.terminate()
            self.server.wait(30)

    def interactive(self, source):
        """What the prompt would show of this."""
        return captured(lambda: exec(compile(source, str(self.page), "single"), self.names))[0]

    def script(self, block):
        """Statement by statement; comments behind what shows something are what it shows."""
        text = block.text.replace(f":{PORT}", f":{self.port}")
        lines = text.splitlines()
        for statement in ast.parse(text).body:
            shown = []
            for inner in ast.walk(statement):
                if isinstance(inner, ast.Expr):
                    behind = lines[inner.end_lineno - 1].encode()[inner.end_col_offset :].decode()
                    shown.append((inner.lineno, behind.strip().removeprefix("#").strip()))
            source = "\n".join(lines[statement.lineno - 1 : statement.end_lineno]) + "\n"
            actual = self.interactive(source)
            if actual.strip():
                self.check(block, source.strip(), "\n".join(text for _, text in sorted(shown) if text), actual)


def captured(call, *arguments):
    """What a call prints, on stdout and stderr in one, and its result."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream), warnings.catch_warnings():
        result = call(*arguments)
    return stream.buffer.getvalue().decode(), result


def run_page(page, folder, monkeypatch, slow):
    todo = ran(page)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "120")
    text = "".join(block.text for block in todo if slow or not block.slow)
    for name, make in INPUTS.items():
        if re.search(rf"(?<![\w/.-]){re.escape(name)}", text):
            make(folder / name.rstrip("/"))
    session = Session(page, compare="photos/" not in text or (SHARED / "caltech101").is_dir())
    try:
        for block in todo:
            if slow or not block.slow:
                session.run(block)
    finally:
        session.stop()


@pytest.mark.parametrize("page", [page for page in PAGES if ran(page)], ids=lambda page: page.stem)
def test_blocks_of(page, tmp_path, monkeypatch):
    run_page(page, tmp_path, monkeypatch, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.slow for block in ran(page))], ids=lambda page: page.stem
)
def test_slow_blocks_of(page, tmp_path, monkeypatch):
    run_page(page, tmp_path, monkeypatch, slow=True)


@pytest.mark.slow
def test_the_readme_runs_from_a_fresh_clone(tmp_path):
    """With what git has alone: nothing that only lies in this folder is needed."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    clone = tmp_path / "vertebra"
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    if SHARED.is_dir():
        (tmp_path / "shared").symlink_to(SHARED.parent)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n0",
        "tests/docs/test_blocks.py",
        "-k",
        "test_blocks_of and README",
    ]
    environment = os.environ | {"PYTHONPATH": str(clone / "src")}
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout  # in English and in Japanese


# What does not run: its commands exist, with the options that it names.


def prose(page):
    """The page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def named_commands(page):
    for block in blocks(page):
        if block.language == "console" and block.not_run:
            yield from (command for command, _ in block.calls)
    yield from re.findall(r"`(vertebra [a-z][^`]*)`", prose(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_that_do_not_run_exist_with_their_options(page):
    for command in named_commands(page):
        words = shlex.split(command, comments=True)
        if "vertebra" not in words:
            continue  # of other programs
        words = words[words.index("vertebra") + 1 :]
        assert words[0] in _app.COMMANDS, command
        _, loaded, rest = _app.command().resolve_command(None, words)
        if hasattr(loaded, "commands"):  # of a group, such as `vertebra lab`
            loaded = loaded.commands[rest[0]] if rest else loaded
        options = {option for parameter in loaded.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for word in words[1:]:
            if word.startswith("--"):
                assert word.partition("=")[0] in options | {"--debug", "--help"}, command


def test_few_blocks_do_not_run():
    every = [block for page in PAGES for block in blocks(page) if block.language in ("console", "python")]
    left_out = [block for block in every if block.not_run]
    assert len(left_out) <= len(every) / 4, [(block.line, block.not_run) for block in left_out]


# Links.


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(found), f"{page.name} links to {target}"


def test_the_command_line_page_has_every_command():
    table = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8").partition("## ")[0]
    for command in _app.COMMANDS:
        assert f"`{command}`" in table


def test_the_readme_names_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in extras if f"`vertebra[{name}]`" not in readme] == ["docs", "test", "slow", "dev"]


def test_the_readme_is_short_and_leads_to_every_page():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 250
    for page in TOP[1:]:
        assert f"({page.relative_to(ROOT)})" in readme

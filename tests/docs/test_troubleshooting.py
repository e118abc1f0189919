"""The messages that the troubleshooting page quotes are those of the source: their constant pieces stand in it."""

import re
from pathlib import Path

import pytest

from vertebra import file_kinds

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guides" / "troubleshooting.md"
JOINT = re.compile(r"""["']\s*\n\s*(?:[+]\s*)?[rf]*["']""")  # between the parts of a text over several lines


def quoted(page):
    """The messages of the ```text blocks, one a line, without an HTTP status in front."""
    for block in re.findall(r"^```text\n(.*?)^```", page, flags=re.M | re.S):
        yield from (re.sub(r"^\d{3} ", "", line) for line in block.splitlines())


def pieces(message):
    """What is between the values, which are shown as …, without marks that the source may put elsewhere."""
    found = (piece.strip(" .,:;()/") for piece in message.split("…"))
    return [piece for piece in found if len(piece) > 3]


def missing(message, source):
    """The pieces of a message that are not in the source."""
    return [piece for piece in pieces(message) if piece not in source]


@pytest.fixture(scope="module")
def source():
    files = [*(ROOT / "src" / "vertebra").rglob("*.py"), *(ROOT / "web" / "src").rglob("*.ts*")]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files if "experiments" not in file.parts)
    for name, variable in re.findall(r'^([A-Z_]+) = "(VERTEBRA_\w+)"', text, flags=re.M):
        text = text.replace(f"{{{name}}}", variable)
    kinds = (kind for kind in vars(file_kinds).values() if isinstance(kind, file_kinds.Kind))
    refusals = [file_kinds.DetectedKind(kind, name).refusal for kind in kinds for name in ("", "…")]
    text = "\n".join([text, *refusals])
    return JOINT.sub("", text).replace('\\"', '"').replace("\\'", "'")


def test_every_quoted_message_is_in_the_source(source):
    stale = {
        message: gone for message in quoted(PAGE.read_text(encoding="utf-8")) if (gone := missing(message, source))
    }
    assert not stale


def test_every_quoted_message_can_be_searched_for():
    found = list(quoted(PAGE.read_text(encoding="utf-8")))
    assert len(found) >= 45 and len(set(found)) == len(found)
    assert all(max(map(len, pieces(message)), default=0) >= 9 for message in found)


@pytest.mark.parametrize(
    "message",
    [
        "… is damaged or truncatet (…)",
        "the disk is full (…). Make room and go on.",
        "… is damaged or truncated by a worm",
    ],
)
def test_a_message_that_has_changed_is_found(message, source):
    assert missing(message, source)

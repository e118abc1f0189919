"""The texts of the page: in both languages, none missing, none unused; and what Python writes, TypeScript reads."""

import json
import re
from pathlib import Path

import pytest

import vertebra.explore
from vertebra.explore.document import SECTIONS
from vertebra.explore.page import LANGUAGES, texts

PYTHON = Path(vertebra.explore.__file__).parent
WEB = Path(__file__).parents[2] / "web" / "src" / "explore"
KEY = r"[a-z_]+(?:\.[\w ]+)+"
# Keys of one word would be found in any code.
WORDS = {"untrained"}


def code() -> str:
    if not WEB.is_dir():
        pytest.skip("the page's sources are not here")
    files = [*PYTHON.glob("*.py"), *WEB.rglob("*.ts"), *WEB.rglob("*.tsx")]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def placeholders(text: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", text))


def test_both_languages_have_the_same_texts_with_the_same_values() -> None:
    english, japanese = (texts()[language] for language in LANGUAGES)
    assert list(english) == list(japanese)
    assert [key for key in english if placeholders(english[key]) != placeholders(japanese[key])] == []
    assert [key for key in english if not english[key]] == []
    # There is no space between two sentences.
    assert [key for key in japanese if not japanese[key].strip()] == ["label.sentences"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_key_is_there_twice(language: str) -> None:
    def unique(pairs: list[tuple[str, str]]) -> dict[str, str]:
        assert len({key for key, _ in pairs}) == len(pairs)
        return dict(pairs)

    json.loads((PYTHON / "strings" / f"{language}.json").read_text(encoding="utf-8"), object_pairs_hook=unique)


def test_every_text_is_used_and_every_key_has_a_text() -> None:
    source, known = code(), texts()["en"]
    called = set(re.findall(rf'\bt\(\s*"({KEY}|\w+)"', source)) | set(re.findall(rf'Note\(\s*f?"({KEY})"', source))
    assert sorted(called - known.keys()) == []
    quoted = set(re.findall(rf'"({KEY})"', source)) | WORDS
    # `role.${part.role}` in TypeScript, f"note.output.{kind}" in Python: any key of this form.
    formed = re.findall(r"`((?:[\w.]|\$\{[^`}]*\})+)`", source) + re.findall(r'f"((?:[\w.]|\{[^"}]*\})+)"', source)
    patterns = [
        re.compile("".join(r"[\w ]+(?:\.[\w ]+)*" if each.endswith("}") else re.escape(each) for each in pieces))
        for pieces in (re.findall(r"\$?\{[^}]*\}|[^{}$]+", form) for form in formed)
        if re.match(r"[a-z]+\.", "".join(pieces))
    ]
    assert [key for key in known if key not in quoted and not any(each.fullmatch(key) for each in patterns)] == []


def test_every_section_of_the_document_has_a_key_in_typescript_and_the_reverse() -> None:
    if not WEB.is_dir():
        pytest.skip("the page's sources are not here")
    (seen,) = re.findall(r"export interface Seen \{(.*?)\n\}", (WEB / "document.ts").read_text("utf-8"), re.DOTALL)
    assert set(re.findall(r"^  (\w+)\?:", seen, re.MULTILINE)) == SECTIONS.keys() | {"maps"}

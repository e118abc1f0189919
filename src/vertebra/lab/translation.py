"""Fixed texts in Japanese: `Translation("ja")("holds")` is 「成り立つ」; what has no translation stays English."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

LANGUAGES = ("en", "ja")
_NUMBER = r"[-+−]?\d[\d,.]*(?:e[-+]?\d+)?(?<![.,])"
# Families and their variants as papers and as code write them: "ResNet-50", "densenet121", "EfficientNet-B0", "V2-S".
_NETWORK = (
    r"\bResNeXt\d+_\d+x\d+d\b|\bWide_ResNet\d+_\d\b|"
    r"\b(?:VGG|GoogLeNet|ResNet|DenseNet|MobileNetV2|MobileNet|EfficientNetV2|EfficientNet|V2-[SML]\b|B\d\b|Lite)"
    r"(?:[-_ ]?(?:B|Lite|V2|v2|lite)?[-_ ]?(?:[SMLbsml]\b|\d[\d.]*(?:d\b|_bn\b)?))?"
)
# Numbers, those of stages, and names of modules such as "4a".
_VARIABLE = re.compile(rf"{_NETWORK}|(?<![\w]){_NUMBER}(?![A-Za-z])|(?<=stage)\d+|\b\d[a-e]\b", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z]{2,}")


class Translation:
    """Texts in one language; `names` of networks stay as they are."""

    def __init__(self, language: str, names: Iterable[str] = ()) -> None:
        self.language = language
        document = _document() if language == "ja" else {}
        self._texts: dict[str, str] = document.get("texts", {})
        self._same = frozenset([*document.get("same", ()), *(word for name in names for word in _WORD.findall(name))])

    def __call__(self, text: str) -> str:
        """The text in this language, or as it is."""
        return self._find(text) or text

    def lacks(self, text: str) -> bool:
        """Whether it has English words and no translation."""
        return bool(self._words(text)) and self._find(text) is None

    def _find(self, text: str) -> str | None:
        if text in self._texts:
            return self._texts[text]
        pattern, values = _generalised(text)
        if pattern in self._texts:
            return _filled(self._texts[pattern], values)
        return self._of_sentences(text) or self._of_subject(text) or self._of_label(text)

    def _of_sentences(self, text: str) -> str | None:
        """Of several sentences each."""
        found = [self._find(each) for each in parts] if len(parts := re.split(r"(?<=[.;]) (?=\S)", text)) > 1 else []
        return "".join(map(str, found)) if found and None not in found else None

    def _of_subject(self, text: str) -> str | None:
        """`"resnet50: gradient norm"`: what a figure is of, and what it is."""
        subject, colon, what = text.partition(": ")
        if colon and (found := self._find(what)) is not None:
            return f"{self._find(subject) or subject}: {found}"
        if colon and not self._words(what) and (found := self._find(subject)) is not None:
            return f"{found}: {what}"
        return None

    def _of_label(self, text: str) -> str | None:
        """`"parameters, dense"`: a label of several parts, which no sentence is."""
        parts = re.split(r"[,;] ", text)
        if len(parts) < 2 or text.endswith("."):
            return None
        found = [self._find(part) if self._words(part) else part for part in parts]
        return None if None in found else "、".join(map(str, found))

    def _words(self, text: str) -> list[str]:
        """The English words in it, without numbers, names of networks and what stays as it is."""
        return [word for word in _WORD.findall(_VARIABLE.sub(" ", text)) if word not in self._same]


def _generalised(text: str) -> tuple[str, list[str]]:
    """The text with {} for each number and name of a network, and these."""
    return _VARIABLE.sub("{}", text), _VARIABLE.findall(text)


def _filled(pattern: str, parts: list[str]) -> str:
    rest = iter(parts)
    return re.sub(r"\{(\d*)\}", lambda match: parts[int(match[1])] if match[1] else next(rest, ""), pattern)


@cache
def _document() -> dict[str, dict[str, str]]:
    return tomllib.loads(Path(__file__).with_name("japanese.toml").read_text(encoding="utf-8"))

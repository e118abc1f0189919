"""The Japanese texts of the page: none is English, and their words and signs are those of the lab."""

import re

import pytest
from japanese_terms import faults, is_english

from vertebra.explore.page import texts

EN, JA = texts()["en"], texts()["ja"]
# Names and signs that are the same in both languages.
SAME = {key for key in EN if key.startswith("worked.op.")} | {"label.named", "photo.pixels"}


def test_japanese_texts_are_japanese():
    assert not {key: text for key, text in JA.items() if key not in SAME and is_english(text)}
    same = {key for key in EN if EN[key] == JA[key] and re.search("[A-Za-z]{2,}", re.sub(r"\{\w+\}", "", EN[key]))}
    assert same <= SAME


def test_japanese_texts_have_the_words_of_the_field():
    assert [fault for text in JA.values() for fault in faults(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "全チャネル", "パラメータ数", "連結", "値です。", "表示します", "値（最大）",
        "行 {y}", "{count} 個", "値。 次", "0～1", "depthwiseの", "二つの層", "一つの層", "1枚あたり", "最後のマップ",
        "重みを持つ", "私たちのCPU", "計算することができる", "値。それは", "通常の3×31つ", "演算量",
    ],
)  # fmt: skip
def test_what_is_not_so_is_found(text):
    assert faults(text)


@pytest.mark.parametrize(
    "text",
    [
        "パラメーター数は{value}である。",
        "Simonyan 2015 表1",
        "7 × 7の特徴マップ",
        "12 px、大域平均",
        "値の一つ一つ",
        "方法の一つ",
    ],
)
def test_what_is_so_passes(text):
    assert faults(text) == []


def test_english_is_told_from_names_with_japanese():
    assert is_english("{count} channels")
    assert not is_english("SE(squeeze-excitation)のゲート")
    assert not is_english("{width} × {height}")

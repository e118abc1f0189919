"""Paragraphs in lines of a width."""

import textwrap

from vertebra.text_width import cells, fill


def test_western_text_breaks_at_spaces_as_textwrap_has_it():
    text = "The 4096-wide layers   take much of the memory, and supercalifragilistic words stay whole."
    for width in (20, 33, 80):
        ours = fill(text, width, "  ")
        expected = textwrap.fill(" ".join(text.split()), width, initial_indent="  ", subsequent_indent="  ",
                                 break_on_hyphens=False, break_long_words=False)  # fmt: skip
        assert [line.split() for line in ours.splitlines()] == [line.split() for line in expected.splitlines()]
    assert fill("", 10) == "" and fill("word", 2, " ") == " word"


def test_japanese_breaks_anywhere_but_before_a_full_stop():
    text = "足し算で伝わる限り、入力(224×224)の値は損なわれずに残り続ける。"
    assert cells("値は、224") == 9
    for width in range(8, 40):
        lines = fill(text, width).splitlines()
        assert "".join(lines) == text
        assert all(cells(line) <= max(width, 11) for line in lines), "a number in brackets stays in one piece"
        assert not any(line[0] in "、。)" or line[-1] == "(" for line in lines)


def test_combining_marks_take_no_room():
    assert cells("e\u0301") == 1 and cells("") == 0

"""What is said of photos whose files leave their decoding open."""

import pytest

from vertebra.card import Decoding
from vertebra.decoding_notes import DecodingNotes


def notes_of(levels, bits=None, remarks=()):
    notes = DecodingNotes(Decoding(bits=bits))
    for number, level in enumerate(levels):
        notes.add(f"{number}.png", level, remarks)
    return notes


@pytest.mark.parametrize(
    ("levels", "bits", "limit"),
    [
        ([255, 90], 8, "256"),
        ([256, 90], 10, "1,024"),
        ([1023], 10, "1,024"),
        ([1024, 1500], 12, "4,096"),
        ([4095, 3], 12, "4,096"),
        ([4096], 14, "16,384"),
        ([16_383, 200], 14, "16,384"),
    ],
)
def test_the_command_for_the_depth_is_named(levels, bits, limit):
    notes = notes_of(levels)
    (line,) = notes.lines()
    assert f"stay below {limit} " in line and f"add --bits {bits};" in line and ".png" in line
    assert notes.suggested == bits and notes.unclear == len(levels)


def test_whoever_said_the_depth_is_not_asked_again():
    for bits, dark in ((12, 1024), (16, 900)):
        notes = notes_of([4000, dark, 0], bits)
        assert notes.lines() == [] and notes.unclear == 0


def test_16_bits_that_are_used_need_no_word():
    notes = notes_of([65_535, 20_000, 16_384, 0])
    assert notes.lines() == [] and notes.unclear == 0 and notes.suggested is None


def test_a_few_dark_photos_among_others_are_named():
    notes = notes_of([65_535, 4095, 800, 30_000])
    (line,) = notes.lines()
    assert "below 4,096 in 2 of 4 such photos, such as 1.png, and reach 65,535 in 0.png" in line
    assert notes.unclear == 0
    # Two cameras, of 14 bits and of 16.
    (line,) = notes_of([16_383, 65_535, 16_384, 15_000]).lines()
    assert "below 16,384 in 2 of 4 such photos, such as 0.png, and reach 65,535 in 1.png" in line


def test_the_remedy_is_one_that_there_is():
    for notes, remedy in (
        (DecodingNotes(Decoding(rule=1)), "export the model anew, as its file is older than --bits."),
        (DecodingNotes(Decoding(), served=True), "serve a model that is trained with --bits 12."),
    ):
        notes.add("a.png", 4000, ())
        (line,) = notes.lines()
        assert line.endswith(f"If 12 bits are used, {remedy}")


def test_photos_that_are_dark_by_the_depth_that_was_said_are_named():
    notes = notes_of([16_383, 1023, 900, 4096], 14)
    (line,) = notes.lines()
    assert "below 1,024 in 2 of 4 such photos, such as 1.png, where bits, which is 14, puts white at 16,383" in line
    assert notes.unclear == 0


def test_the_first_of_each_kind_is_known():
    notes = DecodingNotes(Decoding())
    for levels, new in ((0, False), (4000, True), (3000, False), (900, True), (4001, False)):
        assert notes.add("a.png", levels, ()) is new
    assert notes.add("a.png", 0, ["transparent"]) and not notes.add("a.png", 0, ["transparent"])


def test_values_beyond_white_are_named():
    notes = notes_of([4095, 4096, 60_000], 12)
    (line,) = notes.lines()
    assert "above 4,095 are cut off to white in 2 photos, such as 2.png, as bits is 12" in line
    assert notes.unclear == 2


def test_bits_that_change_nothing_are_told_where_that_matters():
    notes = notes_of([0, 0], 12)
    assert notes.lines() == []
    assert notes.lines(idle=True) == ["bits is 12, which changes nothing: no photo leaves open how many of 16 it uses."]
    assert notes_of([0]).lines(idle=True) == []
    assert notes_of([0], 16).lines(idle=True) == []


@pytest.mark.parametrize(
    ("remark", "words"),
    [
        ("transparent", "taken as opaque, as alpha is 0 everywhere"),
        ("hidden", "nearly all transparent: more than 99 % of the picture is white"),
        ("first of several", "several frames or pages, of which only the first is used"),
        ("stretched", "stretched from the least to the greatest"),
        ("float to 1", "white is taken to be 1"),
        ("float to 255", "white is taken to be 255"),
        ("claimed depth", "depth below 16 bits that the file itself says"),
    ],
)
def test_each_remark_has_its_sentence(remark, words):
    (line,) = notes_of([0], remarks=[remark]).lines()
    assert line.startswith("1 photo ") and words in line and line.endswith(": 0.png.")
    (line,) = notes_of([0] * 1200, remarks=[remark]).lines()
    assert line.startswith("1,200 photos ") and line.endswith(", such as 0.png.")

"""The labels of ImageNet's photos, in every way that they are written."""

import pytest

from vertebra.data import DataError, class_index_notes, match_imagenet
from vertebra.errors import UsageError
from vertebra.imagenet import class_names, wnids


@pytest.mark.parametrize(
    ("way", "written"),
    [
        ("wnid", lambda index: wnids()[index]),
        ("wnid", lambda index: wnids()[index].upper()),
        ("wnid and name", lambda index: f"{wnids()[index]}_{class_names()[index].replace(' ', '_')}"),
        ("wnid and name", lambda index: f"{wnids()[index]} - some other word"),
        ("class index", str),
        ("class index", lambda index: f"{index:04}"),
        ("class name", lambda index: class_names()[index]),
        ("class name", lambda index: class_names()[index].replace(" ", "_")),
        ("class name", lambda index: class_names()[index].replace(" ", "-")),
    ],
)
def test_all_classes_in_each_way(way, written):
    found = match_imagenet([written(index) for index in range(1000)], "photos")
    assert (found.way, found.unknown) == (way, [])
    assert found.indices == {written(index): index for index in range(1000)}
    assert found.notes[0].startswith(f"ImageNet classes, labelled by {way} (") and ", each" not in found.notes[0]


def test_a_subset_is_told():
    found = match_imagenet(["n01440764", "n02102040", "n03888257"], "imagenette")
    assert list(found.indices.values()) == [0, 217, 701]
    assert found.notes == (
        "ImageNet classes, labelled by wnid ('n01440764' is 'tench'), 3 of 1,000; each photo is classified among all "
        "1,000.",
    )


def test_classes_that_are_called_alike():
    by_wnid = match_imagenet(["n02012849", "n03126707", "n03710637", "n03710721"], "photos")
    assert list(by_wnid.indices.values()) == [134, 517, 638, 639] and len(by_wnid.notes) == 1
    with_name = match_imagenet(
        ["n02012849_crane", "n03126707_crane", "n03710637_maillot", "n03710721_maillot"], "photos"
    )
    assert list(with_name.indices.values()) == [134, 517, 638, 639]
    by_name = match_imagenet(["crane", "tench"], "photos")
    assert by_name.indices["crane"] == 517
    assert by_name.notes[1] == (
        "'crane' is taken for n03126707 and not for n02012849, which is 'crane bird' here; in WordNet both are 'crane'."
    )
    assert match_imagenet(["cardigan", "Cardigan"], "photos").indices == {"cardigan": 474, "Cardigan": 264}


def test_two_spellings_of_one_class_are_told():
    found = match_imagenet(["golden_retriever", "golden retriever"], "photos")
    assert set(found.indices.values()) == {207}
    assert found.notes[1] == "'golden_retriever' and 'golden retriever' are one class: 'golden retriever'."


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (["n01440764", "goldfish"], UsageError, "labels its photos in 2 ways: by wnid ('n01440764') and by class name "
         "('goldfish'). Rename"),
        (["n01440764", "n01443537_goldfish"], UsageError, "2 ways: by wnid ('n01440764') and by wnid and name"),
        (["0", "goldfish", "n01440764"], UsageError, "3 ways: by wnid ('n01440764') and by class index ('0')"),
        (["n01440764_goldfish"], UsageError, "names two classes: n01440764 is 'tench', and 'goldfish' is n01443537."),
        (["Tench"], DataError, "the class 'Tench' and the model's 'tench' differ only in case"),
        (["american_chameleon"], DataError, "the model's 'American chameleon' differ only in case"),
    ],
)  # fmt: skip
def test_what_is_refused(labels, error, message):
    with pytest.raises(error) as caught:
        match_imagenet(labels, "photos")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "unknown", "hint"),
    [
        (["n01440764", "n01440765"], ["n01440765"], "n01440765 is none of the 1,000 wnids of ImageNet-1K."),
        (["N02084071"], ["N02084071"], "n02084071 is none of the 1,000 wnids of ImageNet-1K."),
        (["n01440764_tench", "n99999999_thing"], ["n99999999_thing"], "n99999999 is none of"),
        (["n01440764", "backpac"], ["backpac"], "The other labels are each a wnid, such as 'n01440764'."),
        (["0", "999", "1000"], ["1000"], "Class indices are from 0 to 999."),
        (
            ["1", "1000"],
            ["1000"],
            "Class indices are from 0 to 999. 1000 is among these labels and 0 is not, so they seem "
            "to be counted from 1.",
        ),
        (["0001", "01000 "], ["01000 "], "Class indices are from 0 to 999. 1000 is among these labels and 0 is not"),
        (["7", "1001"], ["1001"], "Class indices are from 0 to 999."),
        (["tench", "goldfisch"], ["goldfisch"], "Did you mean 'goldfish'"),
        (["tench", "Tinca tinca"], ["Tinca tinca"], ""),
        (
            ["goldfish, Carassius auratus"],
            ["goldfish, Carassius auratus"],
            "It has the name of one class, 'goldfish' (n01443537). Label by that name alone, or by wnid.",
        ),
        (
            ["Great_white_shark,_white_shark"],
            ["Great_white_shark,_white_shark"],
            "It has the name of one class, 'great white shark' (n01484850).",
        ),
        (
            ["maillot, tank suit"],
            ["maillot, tank suit"],
            "It has the name of one class, 'maillot tank suit' (n03710721).",
        ),
        (["tench;goldfish"], ["tench;goldfish"], "It has the names of 2 classes, 'tench' (n01440764) and 'goldfish' "),
    ],
)
def test_what_means_no_class(labels, unknown, hint):
    found = match_imagenet(labels, "photos")
    assert found.unknown == unknown
    assert found.nearest(unknown[0]).startswith(hint)
    assert ("counted from 1" in found.nearest(unknown[0])) == ("0 is not" in hint)


@pytest.mark.parametrize(
    ("labels", "predicted", "told"),
    [
        ([1, 2, 501, 1], [0, 1, 500, 9], "With each class index one less top-1 would be 75.0 % instead of 0.0 %: "
         "these labels seem to be counted from 1"),
        ([0, 1, 499], [1, 2, 500], "With each class index one more top-1 would be 100.0 % instead of 0.0 %: these "
         "labels seem to be one too low"),
        ([0, 1, 2, 3], [500, 17, 3, 700], "Top-1 is only 0.0 %. A class index is taken for a place among the 1,000 "
         "sorted wnids, from 0. Those of this data are 0 to 3 without a gap, as if"),
        ([400, 7], [500, 17], "Top-1 is only 0.0 %. A class index is taken for a place among the 1,000 sorted wnids, "
         "from 0. If they were numbered"),
        ([281, 281, 281], [282, 282, 282], "Top-1 is only 0.0 %. A"),  # one class is mistaken for its neighbour
        ([281, 282, 283, 9, 9], [282, 283, 283, 9, 9], None),
        ([], [], None),
    ],
)  # fmt: skip
def test_indices_that_mean_other_classes(labels, predicted, told):
    notes = class_index_notes(labels, predicted)
    assert len(notes) == (told is not None)
    assert told is None or notes[0].startswith(told)

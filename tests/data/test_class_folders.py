"""What folders mean: classes, splits, wrappers, or nothing. Photos are empty files here: nothing is decoded."""

import os
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vertebra.data import DataError, open_dataset
from vertebra.errors import UsageError, VertebraError

NAMES = "train/training, val/valid/validation/dev/eval/evaluation, test/testing/tests"
SPLITS = ["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/1.jpg"]
JPEG = b"\xff\xd8\xff\xe0" + bytes(40)


@pytest.fixture
def tree(tmp_path):
    """Make files (or with a slash at the end folders) below a new folder: `tree("cat/1.jpg", "dog/")`."""

    def make(*paths, root="photos"):
        for path in paths:
            place = tmp_path / root / path
            if path.endswith("/"):
                place.mkdir(parents=True)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
        return tmp_path / root

    return make


def shown(dataset):
    """(path, class, split) of each photo."""
    return [(dataset.shown(photo.path), photo.label, photo.split) for photo in dataset.photos]


def refusal(root, kind=DataError, **options):
    """The message, without where the folder lies."""
    with pytest.raises(kind) as caught:
        open_dataset(root, **options)
    return str(caught.value).replace(str(root), "DATA")


# --- splits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Training", "VALID", "Testing"),
        ("TRAIN", "validation", "tests"),
        (" train", "dev ", "test"),
        ("train", "eval", "TESTS"),
        ("train", "Evaluation", "test"),
    ],
)
def test_spellings_of_splits(tree, train, val, test):
    found = open_dataset(tree(f"{train}/cat/1.jpg", f"{train}/dog/1.jpg", f"{val}/cat/1.jpg", f"{test}/dog/1.jpg"))
    assert sorted((label, split) for _, label, split in shown(found)) == [
        ("cat", "train"),
        ("cat", "val"),
        ("dog", "test"),
        ("dog", "train"),
    ]
    assert found.classes == ("cat", "dog")
    assert found.notes == ()
    assert found.others == ()


@pytest.mark.parametrize("name", ["unlabeled", "extra", "images"])
def test_a_folder_beside_splits_is_refused_and_can_be_passed_by(tree, name):
    root = tree(*SPLITS, f"{name}/1.jpg")
    assert refusal(root) == (
        f"DATA has the splits train and val and beside them {name}, which are no splits with class folders. Move them "
        f"into a split or away, or leave them out with --ignore {name}. Splits are named {NAMES}; a class of such a "
        "name has its photos directly in it."
    )
    found = open_dataset(root, ignore=[name])
    assert [path for path, _, _ in shown(found)] == SPLITS
    assert found.notes == (f"Ignored, as asked: {name}.",)


def test_folders_beside_splits_are_all_named(tree):
    message = refusal(tree(*SPLITS, *(f"{letter} x/y/1.jpg" for letter in "abcdefg")))
    assert "beside them a x, b x, c x, d x, e x and 2 others," in message
    assert 'with --ignore "a x" --ignore "b x" --ignore "c x" --ignore "d x" --ignore "e x".' in message
    assert '"f x"' not in message


@pytest.mark.parametrize(
    ("count", "listed"),
    [
        (1, "a0"),
        (2, "a0 and a1"),
        (6, "a0, a1, a2, a3, a4 and a5"),
        (7, "a0, a1, a2, a3, a4 and 2 others"),
        (8, "a0, a1, a2, a3, a4 and 3 others"),
        (13, "a0, a1, a2, a3, a4 and 8 others"),
    ],
)
def test_lists_of_names(tree, count, listed):
    names = [f"a{number:x}" for number in range(count)]
    assert f"and beside them {listed}, which" in refusal(tree(*SPLITS, *(f"{name}/1.jpg" for name in names)))
    found = open_dataset(tree(*SPLITS, *(f"{name}/" for name in names), root="empty"))
    told = listed if count < 4 else f"{count}, such as a0, a1 and a2"
    assert found.notes == (f"Beside the splits train and val, without any photo and ignored: {told}.",)


def test_folders_that_cannot_be_listed(tree, monkeypatch):
    root = tree("cat/1.jpg", "dog/1.jpg", "dog/closed/2.jpg", "hen/1.jpg")
    scan = os.scandir

    def refuse(path):
        if Path(path).name in closed:
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    closed = ["closed", "hen"]
    found = open_dataset(root)
    assert found.unreadable == (
        "dog/closed cannot be listed (Permission denied)",
        "hen cannot be listed (Permission denied)",
    )
    assert found.counts() == {"cat": 1, "dog": 1, "hen": 0}
    closed = ["photos"]
    assert refusal(root) == "DATA cannot be listed (Permission denied)."


def test_a_split_without_class_folders_beside_one_with_them_is_refused(tree):
    assert "beside them test, whose photos are in no class folders." in refusal(tree(*SPLITS, "test/1.jpg"))
    assert "beside them test and x, which are no splits" in refusal(tree("x/1.jpg", root="photos"))


@pytest.mark.parametrize(
    ("first", "second", "split", "passed"),
    [
        ("val", "valid", "val", "valid"),
        ("dev", "val", "val", "dev"),
        ("Train", "training", "train", "training"),
        ("test", "testing", "test", "testing"),
        ("dev", "eval", "val", "dev"),
    ],
)
def test_two_names_of_one_split_are_refused(tree, first, second, split, passed):
    root = tree("train/cat/1.jpg", "train/dog/1.jpg", f"{first}/cat/2.jpg", f"{second}/cat/3.jpg")
    message = refusal(root)
    assert f"{first} and {second}" in message or f"{first}, train and {second}" in message
    assert f"which are all names of the split {split}. Merge them, or leave one out with --ignore " in message
    if split != "train":
        assert message.endswith(f"--ignore {passed}.")
        assert len(open_dataset(root, ignore=[passed]).photos) == 3


def test_three_names_of_one_split_are_refused(tree):
    message = refusal(tree("Train/cat/1.jpg", "train/cat/1.jpg", "training/cat/1.jpg"))
    assert message.startswith("DATA has Train, train and training, which are all names of the split train. Merge")
    assert message.endswith("--ignore training.")


def test_an_empty_folder_beside_splits_is_told(tree):
    found = open_dataset(tree(*SPLITS, "notes/read.txt", "eval/", "eval2/"))
    assert len(found.photos) == 4
    assert found.notes == ("Beside the splits train and val, without any photo and ignored: eval, eval2 and notes.",)
    assert found.others == ("notes/read.txt",)


def test_a_folder_of_photos_that_is_named_as_a_split_is_a_class(tree):
    found = open_dataset(tree("train/1.jpg", "car/1.jpg", "plane/1.jpg"))
    assert found.classes == ("car", "plane", "train")
    assert not found.has_splits
    assert found.notes == ("The folder 'train' is taken for a class, although it is named like a split.",)
    assert open_dataset(tree("speed train/1.jpg", "car/1.jpg", root="other")).notes == ()


@pytest.mark.parametrize(
    ("names", "passed"),
    [
        (("train", "test"), "test"),
        (("Train Set", "Test Set"), '"Test Set"'),
        (("train2017", "val2017"), "val2017"),
        (("birds_train", "birds_test"), "birds_test"),
        (("TrainImages", "ValidImages"), "ValidImages"),
        (("trainset", "testset"), "testset"),
        (("val", "test"), "test"),
    ],
)
@pytest.mark.parametrize("below", ["", "cat/"])
def test_what_is_named_like_splits_is_not_learned_as_classes(tree, names, passed, below):
    if below and names[1] == "test":
        names, passed = (f"my {names[0]}", f"my {names[1]}"), '"my test"'  # without it these are splits
    message = refusal(tree(*(f"{name}/{below}1.jpg" for name in names), "car/1.jpg"))
    assert "which are named like splits and would be taken for classes. Name the splits" in message
    assert all(name in message for name in names)
    assert message.endswith(f"train/cat/1.jpg. Leave one out with --ignore {passed}.")


@pytest.mark.parametrize(
    "names", [("train station", "test tube"), ("valid", "invalid"), ("train_test", "val"), ("train1", "train2")]
)
def test_names_that_only_sound_like_splits_are_classes(tree, names):
    assert open_dataset(tree(*(f"{name}/1.jpg" for name in names))).classes == tuple(sorted(names))


def test_one_folder_that_is_named_like_a_split_and_holds_class_folders(tree):
    root = tree("sea_train/sea_train/a/1.jpg", "sea_train/sea_train/b/1.jpg", "pred/1.jpg")
    assert refusal(root) == (
        "DATA has sea_train, which is named like a split, holds folders of photos, and would be taken for a class. "
        f"Name the splits {NAMES}, and put the photos of each class in a folder in them: train/cat/1.jpg. Leave one "
        "out with --ignore sea_train. A class of such a name has its photos directly in it."
    )
    assert open_dataset(root, ignore=["pred"]).classes == ("a", "b")
    found = open_dataset(tree("test tube/2020/1.jpg", "cup/1.jpg", root="other"))
    assert found.notes == ("The folder 'test tube' is taken for a class, although it is named like a split.",)
    assert "has test tube, which is named like" in refusal(tree("test tube/2021/1.jpg", root="other"))


def test_splits_below_classes_are_refused(tree):
    root = tree("cat/train/1.jpg", "cat/test/1.jpg", "dog/train/1.jpg")
    assert refusal(root) == (
        "DATA has cat/test and cat/train: splits in the folder of a class would all be trained on. Put the classes "
        "into the splits (train/cat), or leave one out with --ignore test."
    )
    assert "DATA has cat/x_test and cat/x_train: splits in" in refusal(
        tree("cat/x_train/1.jpg", "cat/x_test/1.jpg", "dog/1.jpg", root="other")
    )
    found = open_dataset(root, ignore=["test"])
    assert found.notes == (
        "Ignored, as asked: cat/test.",
        "cat/train is a part of the class 'cat', and no split.",
        "dog/train is a part of the class 'dog', and no split.",
    )
    assert len(found.photos) == 2


def test_each_folder_of_a_class_that_is_named_like_a_split_is_told(tree):
    found = open_dataset(tree("cat/Train/1.jpg", "cat/training/1.jpg", "dog/1.jpg"))
    assert found.classes == ("cat", "dog")
    assert found.notes == (
        "cat/Train is a part of the class 'cat', and no split.",
        "cat/training is a part of the class 'cat', and no split.",
    )


def test_folders_that_all_hold_the_same_folders_are_told(tree):
    note = "Treated as one class each: a and b. The folders in them (x and y) are ignored."
    assert open_dataset(tree("a/x/1.jpg", "a/y/1.jpg", "b/x/1.jpg", "b/y/1.jpg")).notes == (note,)
    assert open_dataset(tree("c/x/1.jpg", "c/y/1.jpg", "c/z/1.jpg", root="photos")).notes == (
        "Treated as one class each: a, b and c. The folders in them (x, y and z) are ignored.",
    )
    assert open_dataset(tree("a/x/1.jpg", "b/x/1.jpg", root="one")).notes == ()
    root = tree("a/x/1.jpg", "a/y/1.jpg", "b/x/1.jpg", "b/y/1.jpg", "b/1.jpg", root="loose")
    assert open_dataset(root).notes == ("Treated as one class each: a. The folders in them (x and y) are ignored.",)
    found = open_dataset(tree("train/a/x/1.jpg", "train/a/y/1.jpg", "train/b/1.jpg", "test/b/1.jpg", root="splits"))
    assert found.notes == ("Treated as one class each: train/a. The folders in them (x and y) are ignored.",)


@pytest.mark.parametrize(
    "names", [("fold1", "fold2"), ("Fold_01", "fold_2 ", "FOLD 3"), ("dataset1", "shard-0002"), ("Images", "masks")]
)
def test_parts_of_a_data_set_are_no_classes(tree, names):
    root = tree(*(f"{name}/{label}/1.jpg" for name in names for label in ("cat", "dog")))
    message = refusal(root)
    assert message.startswith(f"DATA has {', '.join(sorted(names)[:-1])} and {max(names)}, which are named like parts")
    assert message.endswith("or list them in a table with the columns path,label.")
    assert open_dataset(tree("fold1/cat/1.jpg", "foldable/cat/1.jpg", "foldable/dog/1.jpg", root="x")).notes == (
        "Treated as one class each: foldable. The folders in them (cat and dog) are ignored.",
    )
    assert open_dataset(tree("fold1/1.jpg", "fold2/1.jpg", root="flat")).notes == (
        "The folders fold1 and fold2 are taken for classes, although they are named like parts of one data set.",
    )


def test_several_data_sets_are_no_classes(tree):
    root = tree("birds/train/owl/1.jpg", "birds/train/jay/1.jpg", "cars/v1/test/bus/1.jpg", "cars/v1/test/van/1.jpg")
    assert refusal(root) == (
        "DATA has birds/train, a split with class folders, in the folder birds, which would be taken for a class. Give "
        "the folder of one data set, such as DATA/birds, or leave it out with --ignore birds."
    )
    tree("hen/1.jpg")
    assert "DATA has cars/v1/test, a split with class folders, in the folder cars," in refusal(root, ignore=["birds"])
    tree("cars/v1/train/bus/1.jpg")
    assert "DATA has cars/v1/test and cars/v1/train: splits in" in refusal(root, ignore=["birds"])
    assert open_dataset(tree("cars/train/1.jpg", "hen/1.jpg", root="flat")).classes == ("cars", "hen")


def test_a_table_beside_photos_without_class_folders_is_named(tree):
    root = tree("train/1.jpg", "test/2.jpg", "train.csv")
    assert refusal(root).endswith(
        "Leave one out with --ignore test. If train.csv has their labels, give DATA/train.csv instead."
    )
    assert refusal(root, ignore=["test"]).endswith("give DATA/train.csv instead.")
    tree("sample.csv")
    assert refusal(root).endswith(" If one of sample.csv, train.csv has their labels, give that instead.")


@pytest.mark.parametrize(
    "name", ["cat|dog", "cat, dog", "cat+dog", "dog and cat", "cat;hen;dog", "dog cat", "cat & dog"]
)
def test_classes_of_several_labels_are_told(tree, name):
    found = open_dataset(tree("cat/1.jpg", "dog/1.jpg", "hen/1.jpg", f"{name}/1.jpg"))
    parts = [part for part in re.split("[^a-z]+", name) if part != "and"]
    (note,) = found.notes
    assert note.startswith(
        f"{name!r} is taken for a class of its own, beside {' and '.join(map(repr, parts))}. A photo"
    )
    assert len(open_dataset(tree(root="photos"), ignore=[name]).photos) == 3
    assert open_dataset(tree("cat/1.jpg", "cat fish/1.jpg", "black, white/1.jpg", root="other")).notes == ()


@pytest.mark.parametrize(
    "name", ["cat (1)", "cat(2)", "cat - Copy", "cat - Copy (3)", "cat copy", "cat copy 2", "cat_copy", "Copy of cat"]
)
def test_copies_of_class_folders_are_told(tree, name):
    found = open_dataset(tree("cat/1.jpg", f"{name}/1.jpg", "copycat/1.jpg"))
    assert found.notes == (
        f"{name!r} is taken for a class of its own, although it is named like a copy of 'cat'. If they are one, put "
        "their photos together.",
    )


@pytest.mark.parametrize("name", ["unlabeled", "Un-labelled", "no_label", "unsorted"])
def test_folders_of_photos_without_a_label_are_told(tree, name):
    found = open_dataset(tree(*SPLITS, f"train/{name}/1.jpg"))
    (note,) = found.notes
    assert note.startswith(f"{name!r} is taken for the name of a class; if it stands for a missing label, leave")
    assert len(open_dataset(tree(root="photos"), ignore=[name]).photos) == len(SPLITS)


def test_characters_of_other_forms_are_told(tree):
    found = open_dataset(tree("AB/1.jpg", "\uff21\uff22/1.jpg", "\u200bcat/1.jpg"))
    assert found.notes == (
        "The class '\\u200bcat' is named 'cat', without the invisible characters around it.",
        "The classes 'AB' and '\uff21\uff22' differ only in separators or signs. They are kept apart; if they are one, "
        "give them one name.",
    )


def test_only_what_is_measured_on(tree):
    root = tree("test/cat/1.jpg", "test/dog/1.jpg", "val/cat/1.jpg")
    found = open_dataset(root)
    assert {photo.split for photo in found.photos} == {"test", "val"}
    assert found.notes == ("No photo is for training: a classifier can be measured on these, and none trained.",)
    assert open_dataset(root, training=False).notes == ()


# --- wrappers and loose photos --------------------------------------------------------------------------------------


def test_a_wrapper_is_gone_through(tree):
    found = open_dataset(tree("data/photos/cat/1.jpg", "data/photos/dog/1.jpg", "__MACOSX/data/1.jpg", "1.jpg"))
    assert shown(found) == [("data/photos/cat/1.jpg", "cat", None), ("data/photos/dog/1.jpg", "dog", None)]
    assert found.notes == (
        "Skipped, as hidden or made by a system: __MACOSX.",
        "In no class folder, and left out: 1.jpg.",
        "All photos in folders lie in data/photos; its folders are read.",
    )
    assert found.others == ("1.jpg",)


def test_a_wrapper_around_splits_is_gone_through(tree):
    root = tree(*(f"data/{path}" for path in SPLITS))
    assert [split for _, _, split in shown(open_dataset(root))] == ["train", "train", "val", "val"]
    assert len(open_dataset(root, training=False).photos) == 4
    tree("data/x/1.jpg")
    assert "DATA/data has the splits train and val and beside them x" in refusal(root)


def test_a_class_folder_is_no_wrapper(tree):
    assert "photos of one class only, 'cat'" in refusal(tree("cat/2020/1.jpg"))
    found = open_dataset(tree("cat/2021/1.jpg"), training=False)
    assert found.classes == ("cat",)
    assert found.notes == ()
    assert "photos of one class only, 'cat'" in refusal(tree("cat/1.jpg"))
    assert "needs at least two. In no class folder, and left out: 2.jpg and 3.jpg. Put" in refusal(
        tree("cat/1.jpg", "2.jpg", "3.jpg")
    )


def test_photos_in_no_class_folder_are_told(tree):
    found = open_dataset(tree(*SPLITS, "1.jpg", "train/2.jpg", "val/3.jpg", "val/4.jpg", "val/cat/x.txt", "read.me"))
    assert found.notes == ("In no class folder, and left out: 4, such as 1.jpg, train/2.jpg and val/3.jpg.",)
    assert set(found.others) == {"1.jpg", "train/2.jpg", "val/3.jpg", "val/4.jpg", "val/cat/x.txt", "read.me"}
    assert len(found.photos) == 4


# --- what is skipped ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["__MACOSX", "@eaDir", ".ipynb_checkpoints", "lost+found", ".thumbnails", ".git", "$RECYCLE.BIN", "@EADIR"]
)
def test_folders_of_systems_are_never_photos(tree, name):
    found = open_dataset(tree("cat/1.jpg", "dog/1.jpg", f"{name}/1.jpg", f"cat/{name}/1.jpg", f"cat/sub/{name}/1.jpg"))
    assert [path for path, _, _ in shown(found)] == ["cat/1.jpg", "dog/1.jpg"]
    assert found.classes == ("cat", "dog")
    (note,) = found.notes
    assert note.startswith("Skipped, as hidden or made by a system: ")
    assert all(path in note for path in (f" {name}", f"cat/{name}", f"cat/sub/{name}"))


def test_photos_that_are_not_downloaded_are_told(tree):
    root = tree("cat/1.jpg", "dog/1.jpg", "cat/.IMG_2.HEIC.icloud", "dog/.b.b.jpeg.icloud", "dog/.notes.txt.icloud")
    (note,) = open_dataset(root).notes
    assert note.startswith(
        "Left out, as not downloaded: 2 photos that iCloud has not downloaded, such as cat/.IMG_2.HEIC.icloud. Download"
    )
    for path in ("cat/1.jpg", "dog/1.jpg"):
        Path(root, path).unlink()
    with pytest.raises(DataError, match=r"all empty\. Left out, as not downloaded: 2 photos that iCloud"):
        open_dataset(root)


def test_hidden_photos_are_told_and_litter_is_not(tree):
    found = open_dataset(
        tree("cat/1.jpg", "dog/1.jpg", "cat/.2.jpg", "cat/._1.jpg", ".DS_Store", "dog/Thumbs.db", ".notes.txt")
    )
    assert found.notes == ("Skipped, as hidden or made by a system: cat/.2.jpg.",)
    assert found.others == ("dog/Thumbs.db",)


def test_a_file_may_be_named_as_a_folder_of_a_system(tree):
    found = open_dataset(tree("cat/1.jpg", "dog/1.jpg", "cat/lost+found"))
    assert found.others == ("cat/lost+found",)
    assert found.notes == ()


def test_ignoring(tree, monkeypatch):
    root = tree("cat/1.jpg", "dog/1.jpg", "hen/1.jpg", "hen/old/2.jpg", "cat/old/3.jpg", "@eaDir/1.jpg")
    assert [path for path, _, _ in shown(open_dataset(root, ignore=["old"]))] == ["cat/1.jpg", "dog/1.jpg", "hen/1.jpg"]
    assert len(open_dataset(root, ignore=["cat/old"]).photos) == 4
    monkeypatch.chdir(root.parent)
    for name in ("hen/", "./hen", "photos/hen", str(root / "hen") + "/", " hen "):
        found = open_dataset("photos", ignore=[name])
        assert found.classes == ("cat", "dog")
        assert found.notes[0] == "Ignored, as asked: hen."
    assert "Ignored, as asked: @eaDir." in open_dataset(root, ignore=["@eaDir"]).notes
    message = refusal(root, UsageError, ignore=["hne"])
    assert message == "DATA has nothing named 'hne' to ignore. Did you mean 'hen'?"
    message = refusal(root, UsageError, ignore=["hen", "zebra"])
    assert message == "DATA has nothing named 'zebra' to ignore. There are cat, dog, old."
    assert "it must be a list of names" in refusal(root, UsageError, ignore="hen")
    assert "the name to ignore is ''" in refusal(root, UsageError, ignore=[""])
    assert "nothing named '..' to ignore" in refusal(root, UsageError, ignore=[".."])


# --- which files are photos -----------------------------------------------------------------------------------------


def test_the_first_bytes_decide_where_the_suffix_does_not(tree):
    root = tree("cat/1.JFIF", "cat/2.jpe", "cat/3.Jif", "cat/4.JPG", "dog/text.txt", "dog/empty", "dog/raw.NEF")
    for name in ("plain", "old.dat", "photo.jpg_large"):
        (root / "dog" / name).write_bytes(JPEG)
    (root / "dog" / "raw.NEF").write_bytes(b"II*\0" + bytes(40))
    (root / "dog" / "phone.heic").touch()
    os.mkfifo(root / "dog" / "pipe")
    found = open_dataset(root)
    assert [path for path, _, _ in shown(found)] == [
        *("cat/1.JFIF", "cat/2.jpe", "cat/3.Jif", "cat/4.JPG"),
        *("dog/old.dat", "dog/phone.heic", "dog/photo.jpg_large", "dog/plain"),
    ]
    assert set(found.others) == {"dog/text.txt", "dog/empty", "dog/raw.NEF", "dog/pipe"}


def test_class_folders_without_photos_are_named(tree):
    found = open_dataset(tree("cat/1.jpg", "dog/1.jpg", "ketch/1.txt", "yawl/"))
    assert found.counts() == {"cat": 1, "dog": 1, "ketch": 0, "yawl": 0}
    assert found.notes == ("Without any photo, and left out: 'ketch' and 'yawl'.",)
    found = open_dataset(tree("Cat/", "dog /", " /", "d\udce9/"))  # no second class, as there is nothing in it
    assert found.counts() == {"Cat": 0, "cat": 1, "dog": 1, "ketch": 0, "yawl": 0}
    assert found.notes == ("Without any photo, and left out: 'Cat', 'ketch' and 'yawl'.",)


def test_links_within_the_folder_are_told(tree):
    root = tree("cat/1.jpg", "dog/1.jpg", "hen/1.jpg", "../far/2.jpg")
    (root / "dog" / "2.jpg").symlink_to(root / "cat" / "1.jpg")
    (root / "hen" / "cats").symlink_to(root / "cat")
    (root / "hen" / "far").symlink_to(root.parent / "far")
    (root / "hen" / "up").symlink_to(root.parent)
    found = open_dataset(root)
    assert len(found.photos) == 6
    assert found.notes == (
        "Links within this folder, so their photos count more than once: dog/2.jpg → cat/1.jpg and hen/cats → cat.",
    )
    assert found.unreadable == ("hen/up is a link to a folder that it lies in",)


def test_links_to_nothing_are_told(tree):
    root = tree("cat/1.jpg", "dog/1.jpg")
    (root / "hen").symlink_to("../unplugged/hen")
    (root / "egg").symlink_to("nest")
    (root / "nest").symlink_to("egg")
    (root / "dog" / "2.jpg").symlink_to("gone.jpg")  # named as missing by the audit
    found = open_dataset(root)
    assert [path for path, _, _ in shown(found)] == ["cat/1.jpg", "dog/1.jpg", "dog/2.jpg"]
    assert found.unreadable == tuple(f"{name} is a link to nothing" for name in ("egg", "hen", "nest"))
    assert found.others == ()


# --- names of classes -----------------------------------------------------------------------------------------------


def test_names_that_are_one_are_joined(tree):
    spellings = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    found = open_dataset(tree(*(f"train/{name}/1.jpg" for name in (*spellings, "dog")), f"val/{spellings[0]} /1.jpg"))
    assert found.counts() == {"café": 3, "dog": 1}
    (note,) = found.notes
    assert note.startswith("Joined, as they differ only in Unicode form or outer white space: ")
    assert "'cafe\\u0301' (train/" in note
    assert "'caf\\xe9 ' (val/" in note
    assert note.endswith(" → 'café'.")


def test_white_space_around_a_name_is_told(tree):
    found = open_dataset(tree("cat /1.jpg", "\u200bdog\ufeff/1.jpg"))
    assert found.classes == ("cat", "dog")
    assert found.notes[0] == "The class 'cat ' is named 'cat', without the white space around it."


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            ("train/Cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg"),
            "DATA: the classes 'Cat' (train/Cat) and 'cat' (val/cat) differ in case only, so they may be one class or "
            "two. Rename one of them, or leave one out with --ignore Cat.",
        ),
        (
            ("STRASSE/1.jpg", "straße/1.jpg"),
            "DATA: the classes 'STRASSE' (STRASSE) and 'straße' (straße) differ in case only, so they may be one class "
            "or two. Rename one of them, or leave one out with --ignore STRASSE.",
        ),
        (
            ("01/1.jpg", "1.0/1.jpg", "2/1.jpg"),
            "DATA: the classes '01' (01) and '1.0' (1.0) differ in how the same number is written, so they may be one "
            "class or two. Rename one of them, or leave one out with --ignore 01.",
        ),
        (("cat/1.jpg", " /1.jpg"), "DATA: the class name is empty ( ). Rename it."),
        (
            ("cat/1.jpg", "d\udce9/1.jpg"),
            "DATA: the class name 'dé' (read as Latin-1) is not UTF-8 text (d\udce9). Rename it.",
        ),
    ],
)
def test_names_that_may_be_one_or_two_are_refused(tree, paths, message):
    assert refusal(tree(*paths)) == message


def test_names_that_could_be_meant_otherwise_are_told(tree):
    found = open_dataset(tree("polar bear/1.jpg", "polar_bear/1.jpg", "nan/1.jpg", "+/1.jpg", "-/1.jpg"))
    assert len(found.classes) == 5
    assert found.notes == (
        "The classes 'polar bear' and 'polar_bear' differ only in separators or signs. They are kept apart; if they "
        "are one, give them one name.",
        "'-' is taken for the name of a class; if it stands for a missing label, leave it out with --ignore -.",
        "'nan' is taken for the name of a class; if it stands for a missing label, leave it out with --ignore nan.",
    )


# --- classes without a photo to train on ----------------------------------------------------------------------------


def test_a_class_that_only_test_has_is_refused_or_left_out(tree):
    root = tree(
        "train/ketch/1.jpg", "train/dog/1.jpg", "train/zebra/", "test/ketches/1.jpg", "test/zebra/1.jpg", *SPLITS
    )
    message = refusal(root)
    assert message == (
        "DATA: the class 'ketches' has photos in test and none to train on. The same is true of 1 other. Did you mean "
        "'ketch'? --allow-unseen leaves such photos out."
    )
    found = open_dataset(root, allow_unseen=True)
    assert found.counts() == {"cat": 2, "dog": 2, "ketch": 1}
    assert found.notes == (
        "Left out, as these classes have no photo to train on: 'ketches' (1 in test) and 'zebra' (1 in test).",
    )
    assert len(open_dataset(root, training=False).photos) == 7


def test_a_class_that_two_splits_have_and_train_has_not(tree):
    root = tree(*SPLITS, "val/ox/1.jpg", "test/ox/1.jpg", "test/ox/2.jpg")
    assert "the class 'ox' has photos in val and test and none to train on. Add some, or rename it." in refusal(root)
    assert "'ox' (3 in val and test)" in open_dataset(root, allow_unseen=True).notes[-1]


def test_of_many_classes_without_training_photos_the_first_are_named(tree):
    root = tree(*SPLITS, *(f"test/x{letter}/1.jpg" for letter in "abcdefg"))
    assert "The same is true of 6 others." in refusal(root)
    note = open_dataset(root, allow_unseen=True).notes[-1]
    assert note.endswith("'xe' (1 in test) and 2 others.")


# --- any tree -------------------------------------------------------------------------------------------------------

_FOLDERS = st.sampled_from(
    (
        *("train", "Train", "val", "eval", "test", "x_train", "x_test", "data"),
        *("cat", "Cat", "cat ", "dog", "caf\u00e9", "cafe\u0301", "1", "01", "nan"),
        *("@eaDir", "__MACOSX", ".hidden"),
    )
)
_FILES = st.sampled_from(["1.jpg", "2.PNG", "3", "text.txt", ".4.jpg", "Thumbs.db", "5.jfif", "._1.jpg"])
_PATHS = st.lists(st.tuples(st.lists(_FOLDERS, max_size=4), _FILES), min_size=1, max_size=8)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(paths=_PATHS, ignored=st.lists(_FOLDERS, max_size=1), allow_unseen=st.booleans(), training=st.booleans())
def test_any_tree_is_told_whole_or_refused(tmp_path_factory, paths, ignored, allow_unseen, training):
    root = tmp_path_factory.mktemp("tree") / "photos"
    files = {"/".join((*folders, name)) for folders, name in paths}
    for path in sorted(files):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(JPEG if path.endswith("/3") else b"")
    try:
        found = open_dataset(root, ignore=ignored, allow_unseen=allow_unseen, training=training)
    except VertebraError as error:
        assert "\n" not in str(error)
        assert str(error).endswith((".", "?"))
        return
    photos = {path: (label, split) for path, label, split in shown(found)}
    assert len(photos) == len(found.photos)  # each counts once
    told = " ".join(found.notes)
    for path in files - set(photos) - set(found.others):
        *folders, name = path.split("/")
        passed = [f for f in folders if f.startswith(".") or f in ("@eaDir", "__MACOSX") or f in ignored]
        litter = name == "._1.jpg"
        left_out = allow_unseen and "no photo to train on" in told
        hidden = name.startswith(".") and "hidden" in told
        assert litter or left_out or hidden or (passed and ("Skipped" in told or "Ignored" in told)), path
    for path, (label, split) in photos.items():
        folders = path.split("/")[:-1]
        assert label in found.classes
        assert label in {unicodedata.normalize("NFC", folder).strip() for folder in folders}
        assert (split is None) == (not found.has_splits)
        if split is not None:
            assert {"train": "train", "val": "val", "eval": "val", "test": "test"}[
                next(f for f in folders if f.lower() in ("train", "val", "eval", "test")).lower()
            ] == split
    spelled = Counter(name.casefold() for name in {label for label, _ in photos.values()})
    assert max(spelled.values()) == 1
    trained = {label for label, split in photos.values() if split in ("train", None)}
    if training and trained:
        assert {label for label, _ in photos.values()} == trained


def test_what_may_hold_pictures_and_is_no_photo_is_told(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "clip.mp4").write_bytes(b"\0\0\0\x20ftypisom\0\0\2\0")
    (tmp_path / "photos" / "more.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path / "photos")
    assert "Left out, as no photos: a video, cat/clip.mp4. Export frames as JPEG" in str(caught.value)
    assert "Left out, as no photos: an archive, more.zip. Unpack it and give the folder." in str(caught.value)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label / "1.png").touch()
    found = open_dataset(tmp_path / "photos")
    assert found.others == ("cat/clip.mp4", "more.zip")
    assert [note.partition(".")[0] for note in found.notes] == [
        "Left out, as no photos: a video, cat/clip",
        "Left out, as no photos: an archive, more",
    ]
    with pytest.raises(UsageError, match=r"is no table, but an archive \(ZIP\)\. Unpack it and give the folder\. "):
        open_dataset(tmp_path / "photos" / "more.zip")

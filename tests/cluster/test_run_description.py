"""What a run was started with: what a resumed run must match, and what is said where it does not."""

import json
from dataclasses import replace

import pytest

from vertebra.cluster.run_description import RunDescription
from vertebra.errors import UsageError

OPTIONS = {"--top": 5, "--embed": False}
RUN = RunDescription(
    "lite0", "0" * 64, OPTIONS, "auto", ".csv", False, ["photos"], "folder", "1" * 64, 9, 1, 4, ["2"], "/a"
)  # fmt: skip


def test_it_is_read_as_it_was_written():
    found = RunDescription.from_json(RUN.to_json(), "run.json")
    found.require_same(replace(RUN, engine="mnn"), "x.csv")  # which is told
    assert replace(found, options=dict(found.options)) == RUN


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"sha256": "f" * 64, "model": "mine.onnx"},
            "by the model lite0 (SHA-256 000000000000…), and this run's is mine",
        ),
        ({"options": {"--top": 3, "--embed": False}}, "with --top 5, and this run is with --top 3"),
        ({"options": {"--top": 5, "--embed": True}}, "without --embed, and this run is with --embed"),
        ({"source": ["others"]}, "of the photos in photos, and this run is of others"),
        ({"folder": "/b"}, "in the folder '/a'"),
        ({"suffix": ".jsonl"}, "as .csv files, and this run's are .jsonl"),
        ({"options": OPTIONS | {"--image-root": "b"}}, "without --image-root, and this run is with --image-root b"),
    ],
)
def test_another_run_is_refused(change, said):
    with pytest.raises(UsageError) as error:
        RUN.require_same(replace(RUN, **change), "x.csv")
    assert said in str(error.value)
    assert "x.csv was made" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"version": 1, "vertebra": "0.1"}', b"\xff", b"null"])
def test_a_damaged_one_is_named(content):
    with pytest.raises(UsageError, match=r"x/run\.json is damaged"):
        RunDescription.from_json(content, "x/run.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("group", 0),
        ("chunks", None),
        ("options", None),
        ("source", 3),
        ("sha256", 5),
        ("engine", None),
        ("listing", 5),
        ("photos", "9"),
    ],
)
def test_a_value_of_another_type_is_damage(name, value):
    content = json.dumps(json.loads(RUN.to_json()) | {name: value}).encode()
    with pytest.raises(UsageError, match=r"x/run\.json is damaged"):
        RunDescription.from_json(content, "x/run.json")


def test_a_newer_layout_is_refused():
    with pytest.raises(UsageError, match="was written by Vertebra"):
        RunDescription.from_json(RUN.to_json().replace(b'"version": 1', b'"version": 2'), "run.json")


def test_the_list_of_photos_is_that_of_the_begin(tmp_path):
    from vertebra.storage import Location

    source = RUN.listed(Location(str(tmp_path)))
    assert (source.digest, source.photos, len(source)) == (RUN.digest, 9, 1)
    assert replace(RUN, listing=None).listed(Location(str(tmp_path))) is None

"""When the maps of frozen stages are kept, of how many views, and how much disk they take."""

import os

import pytest

pytest.importorskip("torch")
from tiny_trainer import Tiny

from vertebra.errors import UsageError
from vertebra.train import Settings
from vertebra.train import frozen_views as views

ROW = 2 * 4 * 4 * 4  # bytes of a map of 4 channels


def settings(**options):
    return Settings("x", method="finetune", **{"freeze": 1, "augment": "flip", "epochs": 8} | options)


@pytest.fixture(autouse=True)
def room(tmp_path, monkeypatch):
    """`room(bytes)` sets what the maps of all runs may have together."""
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    return lambda count: monkeypatch.setenv("VERTEBRA_REMOTE_CACHE_GB", str(count / 1e9))


# Why -> the setting, and whether the frozen stages can run apart from the others all the same.
OBSTACLES = {
    "no stage is frozen": ({"freeze": 0}, False),
    "mixup mixes images": ({"mixup": 0.2}, False),
    "cutmix mixes images": ({"cutmix": 1.0}, False),
    "progressive changes the image size": ({"progressive": 4}, False),
    "erasing makes other pixels": ({"erasing": 0.1}, True),
    "augment=trivial makes": ({"augment": "trivial"}, True),
    "augment=rand makes": ({"augment": "rand"}, True),
    "balance=sampler takes": ({"balance": "sampler"}, True),
}


@pytest.mark.parametrize("reason", OBSTACLES)
def test_what_forbids_it_is_named(reason):
    options, is_apart = OBSTACLES[reason]
    changed = settings(**options)
    assert reason in (views.obstacle_to_reuse(changed, Tiny()) or "")
    assert (views.obstacle(changed, Tiny()) is None) is is_apart
    assert views.choose_views(changed, Tiny(), 8, 9, 3) == (0, [])
    views.require_effect(changed, Tiny())
    with pytest.raises(UsageError, match=f"frozen_views is 2, which would do nothing: {reason}"):
        views.require_effect(settings(**options, frozen_views=2), Tiny())


def test_auxiliary_classifiers_forbid_it(tiny_network):
    assert "auxiliary classifiers" in (views.obstacle(settings(), tiny_network("googlenet")) or "")
    assert views.obstacle(settings(), tiny_network("googlenet", aux_logits=False)) is None


@pytest.mark.parametrize(
    "options",
    [{}, {"augment": "crop"}, {"augment": "none", "balance": "sampler"}, {"balance": "loss"}, {"ema": 0.9}],
)
def test_what_allows_it(options):
    assert views.obstacle_to_reuse(settings(**options), Tiny()) is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"epochs": 1}, 0), ({"epochs": 3}, 0), ({"epochs": 4}, 2), ({"epochs": 5}, 2),
        ({"epochs": 8}, 2), ({"epochs": 9}, 3), ({"epochs": 100}, 25),
        ({"epochs": 1, "augment": "none"}, 0), ({"epochs": 2, "augment": "none"}, 1),
        ({"epochs": 50, "augment": "none"}, 1), ({"frozen_views": 0}, 0), ({"frozen_views": 7}, 7),
    ],
)  # fmt: skip
def test_how_many_views(options, expected, room):
    room(1e9)
    found, notes = views.choose_views(settings(**options), Tiny(), 8, 9, 3)
    assert found == expected
    assert len(notes) == (expected > 0)
    if expected:
        assert f"{ROW * (expected * 9 + 3)} B" in notes[0].replace(" kB", "e3 B") or "kB" in notes[0]
        assert ("instead of a new crop" in notes[0]) == (options.get("augment") != "none")


def test_it_takes_what_the_disk_has_room_for(room):
    room(ROW * (3 * 9 + 3) + 1)
    assert views.choose_views(settings(epochs=100), Tiny(), 8, 9, 3)[0] == 3
    room(ROW * (2 * 9 + 3) - 1)
    found, (note,) = views.choose_views(settings(epochs=100), Tiny(), 8, 9, 3)
    assert found == 0
    assert "computed again in each epoch: 25 views of each photo would take" in note
    found, (note,) = views.choose_views(settings(frozen_views=2), Tiny(), 8, 9, 3)
    assert found == 0
    assert "2 views of each photo would take" in note


def test_one_view_without_random_crops():
    with pytest.raises(UsageError, match="with augment=none a photo has one view"):
        views.require_effect(settings(augment="none", frozen_views=2), Tiny())


def test_maps_that_were_used_longest_ago_make_room(tmp_path, monkeypatch):
    folders = [views.maps_folder() / name for name in "abcd"]
    for age, folder in enumerate(reversed(folders)):
        folder.mkdir(parents=True)
        (folder / "x.f16").write_bytes(bytes(1000))
        os.utime(folder, (10_000 - age, 10_000 - age))
    monkeypatch.setenv("VERTEBRA_REMOTE_CACHE_GB", "4e-6")
    views.make_room(2500, folders[0])  # of which it has 1,000 already
    assert [folder.name for folder in sorted(views.maps_folder().iterdir())] == ["a", "d"]
    views.make_room(3500, folders[3])  # the other is in use
    assert [folder.name for folder in sorted(views.maps_folder().iterdir())] == ["a", "d"]

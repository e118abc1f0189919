"""The order of the photos in batches, and how the processes that decode are started on each system."""

import multiprocessing
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

import torch

import vertebra
from vertebra.card import Preprocessing
from vertebra.errors import UsageError
from vertebra.train import Settings, batch_loader, resume
from vertebra.train.batch_loader import (
    TrainPhotos,
    batches_of_epoch,
    can_import_main,
    load_batches,
    seed_generators,
    start_method,
)


@pytest.mark.parametrize(("platform", "method"), [("linux", "fork"), ("darwin", "spawn"), ("win32", "spawn")])
def test_each_system_has_its_way(monkeypatch, platform, method):
    monkeypatch.setattr(sys, "platform", platform)
    assert start_method() == method


@pytest.mark.parametrize(
    ("file", "module", "guarded"),
    [
        ("/usr/lib/python3/site-packages/vertebra/__main__.py", "vertebra.__main__", True),  # python -m vertebra
        ("/usr/local/bin/vertebra", None, True),
        (r"C:\Python\Scripts\vertebra.exe\__main__.py".replace("\\", "/"), None, True),
        (None, None, True),  # a notebook, `python -c`
        ("/home/me/train.py", None, False),
        ("/home/me/train/__main__.py", "train.__main__", False),
    ],
)
def test_which_main_modules_can_be_imported_once_more(monkeypatch, file, module, guarded):
    main = SimpleNamespace(__spec__=module and SimpleNamespace(name=module))
    if file is not None:
        main.__file__ = file
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert can_import_main() is guarded


def batches(shapes, settings, **options):
    paths = sorted(Path(shapes).glob("*/*.png"))[:12]
    photos = TrainPhotos(paths, np.arange(12) % 3, settings, Preprocessing(32, 32))
    found = load_batches(photos, start=0, part=(0, 1), total=3, **options)
    return [next(found) for _ in range(2)], len(multiprocessing.active_children())


def check_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_a_script_is_not_run_once_more_by_workers_that_nobody_asked_for(shapes_without_broken, monkeypatch):
    monkeypatch.setattr(batch_loader, "start_method", lambda: "spawn")
    monkeypatch.setattr(batch_loader, "can_import_main", lambda: False)
    settings = Settings("", method="scratch", batch_size=6, image_size=32)
    expected, _ = batches(shapes_without_broken, settings, workers=0)
    found, children = batches(shapes_without_broken, settings, workers=2)
    assert children == 0
    check_same(found, expected)


@pytest.mark.slow
def test_workers_that_are_a_new_python_give_the_same(shapes_without_broken, monkeypatch):
    monkeypatch.setattr(batch_loader, "start_method", lambda: "spawn")
    settings = Settings("", method="scratch", batch_size=6, image_size=32, augment="trivial", workers=1)
    expected, _ = batches(shapes_without_broken, settings, workers=0)
    found, children = batches(shapes_without_broken, settings, workers=1)
    assert children == 1
    check_same(found, expected)


def test_a_worker_that_imports_the_script_trains_nothing(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    for call in (lambda: vertebra.train(shapes, tmp_path / "run"), lambda: resume(tmp_path / "run")):
        with pytest.raises(UsageError, match=r"below if __name__ == '__main__':, or train with workers=0"):
            call()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_seeding_gives_torchs_own_numbers(seed, monkeypatch):
    """On the CPU, to the bit; a GPU is seeded where one is in use."""
    torch.manual_seed(seed)
    expected = torch.get_rng_state()
    torch.manual_seed(1)
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    for in_use in (False, True):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda in_use=in_use: in_use)
        seed_generators(seed)
        assert torch.equal(torch.get_rng_state(), expected)
        assert seeded == [seed] * in_use


PREPROCESSING = Preprocessing(32, 36)


def settings(**values):
    return Settings.from_mapping({"data": "x", "method": "scratch", **values}, "test")


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_resume_from_any_step(workers, photo_files):
    labels = np.arange(9)
    photos = TrainPhotos(photo_files, labels, settings(batch_size=4), PREPROCESSING)

    def take(start, count, part=(0, 1), workers=0):
        found = load_batches(photos, start=start, part=part, total=9, workers=workers)
        return [next(found) for _ in range(count)]

    whole = take(0, 7)
    assert [len(batch[1]) for batch in whole] == [3] * 7
    for (pixels, label), (others, other) in zip(whole[4:], take(4, 3, workers=workers), strict=True):
        assert torch.equal(pixels, others)
        assert torch.equal(label, other)
    halves = [take(0, 3, (rank, 2)) for rank in range(2)]
    for batch, one, two in zip(whole, *halves, strict=False):
        assert batch[1][0::2].tolist() == one[1].tolist()
        assert torch.equal(batch[0][1::2], two[0])
    photo_files[5].unlink()
    assert "5.png: no such file" in next(batch for batch in take(0, 3, workers=workers) if isinstance(batch, str))


def test_balanced_draws():
    labels = np.array([0] * 90 + [1] * 10)
    drawn = np.concatenate(batches_of_epoch(labels, settings(balance="sampler", batch_size=10), 0))
    assert len(drawn) == 100
    assert 30 <= (labels[drawn] == 1).sum() <= 70

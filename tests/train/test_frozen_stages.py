"""Training over the stored maps of frozen stages learns the same, whatever the store holds."""

import hashlib
import os
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
import torch
from tiny_trainer import trainer_of

from vertebra.errors import VertebraWarning
from vertebra.train import Settings, TrainError
from vertebra.train.batch_loader import Sample, TrainPhotos, load_batches
from vertebra.train.feature_store import FeatureStore
from vertebra.train.frozen_photos import ViewPhotos, map_key, view_name
from vertebra.train.frozen_stages import FrozenStages
from vertebra.train.frozen_views import maps_folder
from vertebra.train.run_folder import Stopped
from vertebra.train.training_log import read_log

OPTIONS = {"freeze": 1, "frozen_views": 2, "augment": "flip", "epochs": 4, "checkpoint_seconds": 0}
TRAINED, VALIDATED = 9, 10  # photos of `trainer_of`


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def computed(monkeypatch):
    """How many maps were computed."""
    from vertebra.export.stage_maps import StageMaps

    found = []
    call = StageMaps.__call__
    monkeypatch.setattr(StageMaps, "__call__", lambda self, images: (found.append(len(images)), call(self, images))[1])
    return found


def weights_of(trainer):
    trainer.fit()
    return {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}


def require_equal(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_the_frozen_stages_run_once_for_each_view(photos, tmp_path, computed):
    first = weights_of(trainer_of(photos, tmp_path / "a", **OPTIONS))
    assert sum(computed) == 2 * TRAINED + VALIDATED
    computed.clear()
    require_equal(first, weights_of(trainer_of(photos, tmp_path / "b", **OPTIONS)))
    assert not computed  # another run of the same seed finds them


def test_another_seed_has_other_views_and_the_same_validation_maps(photos, tmp_path, computed):
    weights_of(trainer_of(photos, tmp_path / "a", **OPTIONS))
    computed.clear()
    weights_of(trainer_of(photos, tmp_path / "b", **OPTIONS, seed=1))
    assert sum(computed) == 2 * TRAINED


def test_without_random_crops_the_only_view_is_that_of_prediction(photos, tmp_path, computed):
    trainer = trainer_of(photos, tmp_path / "run", **OPTIONS | {"augment": "none", "frozen_views": 1})
    trainer.val = trainer.train
    weights_of(trainer)
    assert sum(computed) == TRAINED


def deleted_each_epoch(monkeypatch):
    save = FrozenStages.save

    def delete(self):
        save(self)
        shutil.rmtree(self.reader.folder, ignore_errors=True)

    monkeypatch.setattr(FrozenStages, "save", delete)


def full_disk(monkeypatch):
    append = FeatureStore._append
    calls = []

    def fail(self, folder):
        calls.append(folder)
        return append(self, folder) if len(calls) < 2 else False

    monkeypatch.setattr(FeatureStore, "_append", fail)


def damaged(monkeypatch):
    save = FrozenStages.save

    def damage(self):
        save(self)
        for path in self.reader.folder.glob("*.f16"):
            content = bytearray(path.read_bytes())
            content[::100] = bytes(255 - value for value in content[::100])
            path.write_bytes(content)
        self.reader._store = None

    monkeypatch.setattr(FrozenStages, "save", damage)


def no_store(monkeypatch):
    monkeypatch.setattr(FeatureStore, "_append", lambda self, folder: False)


@pytest.mark.filterwarnings("ignore::vertebra.errors.VertebraWarning")
@pytest.mark.parametrize("fault", [deleted_each_epoch, full_disk, damaged, no_store])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_what_the_store_holds_changes_no_bit(fault, workers, photos, tmp_path, monkeypatch):
    expected = weights_of(trainer_of(photos, tmp_path / "whole", **OPTIONS | {"ema": 0.9}))
    shutil.rmtree(maps_folder())
    fault(monkeypatch)
    require_equal(
        expected, weights_of(trainer_of(photos, tmp_path / "run", **OPTIONS | {"ema": 0.9, "workers": workers}))
    )


def test_a_full_disk_is_told_in_one_line(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("vertebra.cache._warned", set())
    no_store(monkeypatch)
    with pytest.warns(VertebraWarning, match="cannot be written, or the disk is full: the frozen stages are") as told:
        trainer_of(photos, tmp_path / "run", **OPTIONS).fit()
    assert len(told) == 1


@pytest.mark.parametrize("stop_after", [2, 3, 5])
def test_a_stopped_run_goes_on_bit_for_bit(stop_after, photos, tmp_path, monkeypatch):
    expected = weights_of(trainer_of(photos, tmp_path / "whole", **OPTIONS))
    shutil.rmtree(maps_folder())
    stopped = trainer_of(photos, tmp_path / "run", **OPTIONS)
    step = stopped.step.__class__.__call__

    def count(self, batch, number, *rest):
        stopped._stop = number + 1 == stop_after
        return step(self, batch, number, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(stopped.step.__class__, "__call__", count)
        with pytest.raises(Stopped):
            stopped.fit()
    require_equal(expected, weights_of(trainer_of(photos, tmp_path / "run", **OPTIONS)))


@pytest.mark.parametrize("freeze", [1, 2])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_learns_what_the_whole_network_learns_from_the_same_views(freeze, accumulate, photos, tmp_path):
    options = OPTIONS | {"freeze": freeze, "accumulate": accumulate}
    over_maps = trainer_of(photos, tmp_path / "maps", **options)
    over_pixels = in_torch(trainer_of(photos, tmp_path / "pixels", **options))

    class Pixels(TrainPhotos):
        """The same views as pixels."""

        def __getitem__(self, sample):
            digest = over_maps.train.digests[sample.photo]
            view = sample.epoch % 2
            assert map_key(digest, view_name(self.settings, view))
            entry, label = ViewPhotos(
                self.paths, self.labels, over_maps.settings, self.preprocessing, over_maps.train.digests, Nothing()
            )[sample]
            assert entry.values.dtype == torch.uint8
            return entry.values, label

    class Nothing:
        def get(self, key):
            return None

    def batches(start):
        split = over_pixels.train
        photos = Pixels(split.paths, split.labels, over_pixels.settings, over_pixels.preprocessing)
        return load_batches(photos, start=start, part=(0, 1), total=over_pixels.total_steps, workers=0)

    over_pixels.batches = batches
    found, expected = weights_of(over_maps), weights_of(over_pixels)
    start = trainer_of(photos, None, **options).network.state_dict()
    moved = False
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-3)
        moved = moved or not torch.allclose(start[name], tensor, atol=1e-2)
    assert moved
    losses = [[record["val_loss"] for record in read_log(tmp_path / name)] for name in ("maps", "pixels")]
    np.testing.assert_allclose(*losses, rtol=2e-3)


def test_the_map_of_another_content_is_not_kept(photos, tmp_path, computed):
    trainer = trainer_of(photos, tmp_path / "run", **OPTIONS)
    digests = list(trainer.train.digests)
    digests[3] = hashlib.sha256(b"what was there at the start").hexdigest()
    trainer.train = replace(trainer.train, digests=digests)
    trainer.fit()
    assert sum(computed) == 2 * (TRAINED - 1) + VALIDATED + OPTIONS["epochs"]


def test_a_worker_opens_the_store_for_itself(photos, tmp_path):
    trainer = trainer_of(photos, tmp_path / "run", **OPTIONS)
    trainer.fit()
    data = trainer.frozen.photos(trainer.train, trainer.val)
    assert data.reader.store.get(map_key(data.digests[0], view_name(trainer.settings, 0))) is not None
    copy = pickle.loads(pickle.dumps(data))
    assert copy.reader._store is None
    sample = Sample(0, 2, 0, 0.0)
    assert torch.equal(copy[sample][0].values, data[sample][0].values)
    assert copy[sample][0].values.dtype == torch.float32


def test_an_unreadable_photo_stops_the_run_as_without_maps(photos, tmp_path):
    trainer = trainer_of(photos, tmp_path / "run", **OPTIONS)
    trainer.train = replace(trainer.train, paths=[*photos[:8], tmp_path / "gone.png"])
    with pytest.raises(TrainError, match=r"gone.png is missing\. What was trained until step"):
        trainer.fit()
    trainer = trainer_of(photos, tmp_path / "other", **OPTIONS)
    trainer.val = replace(trainer.val, paths=[*photos[30:39], tmp_path / "gone.png"])
    with pytest.raises(TrainError, match=r"gone.png is missing\. A run keeps the photos"):
        trainer.fit()


def test_weights_that_are_not_finite_are_refused(photos, tmp_path):
    trainer = trainer_of(photos, tmp_path / "run", **OPTIONS)
    with torch.no_grad():
        trainer.network.one[0].weight.fill_(float("nan"))
    with pytest.raises(TrainError, match="maps of the 1 frozen stages are NaN or infinite"):
        trainer.validation_logits()


def in_torch(trainer):
    """Let the frozen stages run with the others."""
    trainer.frozen = trainer.step.trained = None
    trainer.step.module = trainer.network
    return trainer


@pytest.mark.parametrize(
    "options", [{}, {"augment": "rand", "erasing": 0.5}, {"balance": "sampler"}, {"accumulate": 2}]
)
def test_new_crops_in_each_epoch_learn_what_torch_alone_learns(options, photos, tmp_path, computed):
    options = OPTIONS | {"frozen_views": 0} | options
    found = trainer_of(photos, tmp_path / "run", **options)
    mine = weights_of(found)
    assert sum(computed) == OPTIONS["epochs"] * (TRAINED + VALIDATED)
    assert not maps_folder().exists()
    expected = weights_of(in_torch(trainer_of(photos, tmp_path / "torch", **options)))
    for name, tensor in expected.items():
        torch.testing.assert_close(mine[name], tensor, rtol=1e-5, atol=1e-5)


def test_on_a_gpu_torch_is_faster_unless_maps_are_kept(photos, tmp_path):
    trainer = trainer_of(photos, None, **OPTIONS)
    gpu = replace(trainer.distributed, device=torch.device("cuda"))
    splits = trainer.train, trainer.val
    for count in (0, 2):
        settings = replace(trainer.settings, frozen_views=count)
        found = FrozenStages.of_run(settings, trainer.network, trainer.preprocessing, gpu, *splits)
        assert (found is None) is (count == 0)


def test_runs_of_the_first_versions_have_no_digests_and_keep_no_maps(photos, tmp_path, computed):
    trainer = trainer_of(photos, tmp_path / "run", **OPTIONS)
    assert trainer.frozen.is_stored
    trainer.train = replace(trainer.train, digests=())
    trainer.__post_init__()
    trainer.fit()
    assert not maps_folder().exists()


def test_the_store_is_marked_as_used(photos, tmp_path):
    trainer = trainer_of(photos, tmp_path / "run", **OPTIONS)
    trainer.fit()
    folder = trainer.frozen.reader.folder
    os.utime(folder, (0, 0))
    trainer.frozen.save()
    assert folder.stat().st_mtime > 0
    assert Settings("x", method="finetune").frozen_views is None

"""What settings mean at a moment of training, and what pictures become."""

import math
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

import torch
from PIL import Image

from vertebra.card import Decoding, Preprocessing
from vertebra.errors import UsageError
from vertebra.models import create_model
from vertebra.models.googlenet import GoogLeNetOutputs
from vertebra.pixels import network_pixels
from vertebra.train import Settings
from vertebra.train import schedule as recipe
from vertebra.train.batch_loader import Draw, TrainPhotos, batches_of_epoch, change, stream
from vertebra.train.loss import Loss, to_images
from vertebra.train.presets import PRESETS

PREPROCESSING = Preprocessing(32, 36)


def settings(**values):
    return Settings.from_mapping({"data": "x", "method": "scratch", **values}, "test")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_settings(name):
    found = settings(preset=name)
    row = PRESETS[name].values()
    assert {field: getattr(found, field) for field in row} == row
    assert settings(preset=name, epochs=7, lr=0.5).lr == 0.5


def test_a_rate_belongs_to_its_batch_size():
    assert settings(preset="resnet").lr == 0.1
    assert settings(preset="resnet", batch_size=64).lr == pytest.approx(0.025)
    assert settings(preset="resnet", batch_size=64, lr=0.3).lr == 0.3


def test_what_the_network_sees_of_a_photo():
    published = Preprocessing(224, 256, interpolation="bicubic")
    for values, size, expected in (
        ({}, None, (224, 224)),
        ({"crop_pct": 0.875}, None, (224, 256)),
        ({"preset": "resnet"}, 192, (192, 219)),
        ({"preset": "resnet"}, 32, (32, 32)),  # small pictures are seen whole
    ):
        found = recipe.view_of(settings(**values), published, size)
        assert (found.crop_size, found.resize_size) == expected
        assert found.interpolation == "bicubic"
    assert recipe.view_of(settings(bits=12), published).decoding == Decoding(bits=12)
    with pytest.raises(UsageError, match=r"crop_pct is 1\.5; it must be from 0\.1 to 1"):
        settings(crop_pct=1.5)


def test_settings_survive_their_file(tmp_path):
    path = tmp_path / "settings.toml"
    before = settings(preset="efficientnetv2", lr="auto", time_budget="1h30m", batch_size=64, dropout=0.2)
    path.write_text(before.to_toml())
    assert Settings.from_toml(path) == before
    assert before.seconds == 5400


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "resent"}, "Did you mean 'resnet'"),
        ({"optimizer": "adam"}, "Did you mean 'adamw'"),
        ({"lr": "fast"}, "lr is 'fast'; it must be above 0"),
        ({"lr": 0.0}, "above 0"),
        ({"time_budget": "soon"}, "write it as 45s, 20m or 1h30m"),
        ({"time_budget": "0m"}, "write it as"),
        ({"time_budget": "20"}, "write it as"),
        ({"train": {"lr": 1.0}}, r"has a section \[train\]"),
        ({"method": "probe", "epochs": 3, "lr": 0.1}, "epochs and lr would do nothing: the probe"),
        ({"method": "probe", "epochs": 5}, "epochs would do nothing"),
        ({"method": "finetune", "folds": 3}, "folds would do nothing: finetune .* --method probe"),
        ({"method": "finetune", "folds": 5}, "folds would do nothing"),
        ({"method": "scratch", "weights": "x.pth"}, "weights would do nothing: scratch .* --method finetune"),
        ({"method": "scratch", "weights": "DEFAULT", "folds": 5}, "weights and folds would do nothing"),
        ({"gamma": 0.5}, "gamma = 0.5 would do nothing: it takes schedule=step. Leave it out or at 0.1"),
        ({"step_epochs": 2, "schedule": "constant"}, "step_epochs = 2.0 would do nothing"),
        ({"momentum": 0.5, "optimizer": "adamw"}, "momentum = 0.5 would do nothing: it takes optimizer=sgd or rmsprop"),
        ({"nesterov": True, "optimizer": "rmsprop", "preset": "vgg"}, "nesterov = true would do nothing"),
        ({"magnitude": 12, "augment": "trivial"}, "magnitude = 12 would do nothing: it takes augment=rand"),
        ({"crop_scale": 0.9, "augment": "none"}, "crop_scale = 0.9 would do nothing"),
        ({"epochs": 0}, "epochs is 0; it must be from 1"),
        ({"batch_size": 4, "accumulate": 8}, "a batch has only 4"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"warm_up": 3}, "Did you mean 'warmup'"),
        ({"epochs": 2.5}, "must be of type int"),
    ],
)
def test_settings_that_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        settings(**values)


def test_rates():
    cosine = settings(warmup=1.0, schedule="cosine")
    assert [round(recipe.rate(cosine, epoch / 5, 5), 3) for epoch in (0.0, 0.5, 1.0, 3.0, 5.0)] == [
        0.001, 0.501, 1.0, 0.5, 0.0,
    ]  # fmt: skip
    falling = settings(schedule="step", step_epochs=30, gamma=0.1, warmup=0)
    assert [recipe.rate(falling, epoch / 90, 90) for epoch in (0, 29.9, 30, 60)] == pytest.approx([1, 1, 0.1, 0.01])
    assert recipe.rate(settings(schedule="constant", warmup=0), 0.7, 3) == 1
    # Of a short training no more than half is warming up.
    assert recipe.rate(settings(warmup=5), 0.5, 1) == pytest.approx(1.0)


def test_progressive_learning_grows_as_in_the_paper():
    grown = [recipe.strength(settings(preset="efficientnetv2", mixup=0.2), 300, p) for p in (0, 0.3, 0.6, 0.8, 1)]
    assert [now.size for now in grown] == [128, 192, 240, 300, 300]  # 128 to 300
    assert [now.magnitude for now in grown] == [5, 8, 12, 15, 15]
    assert [round(now.mixup, 3) for now in grown] == [0, 0.067, 0.133, 0.2, 0.2]
    assert grown[0].dropout == pytest.approx(1 / 3)
    assert recipe.strength(settings(mixup=0.2, magnitude=9), 224, 0.1) == recipe.Strength(224, 9, 0.2, 1.0)


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
def test_groups_hold_every_parameter_once(name):
    network = create_model("resnet18", weights=None, num_classes=3)
    chosen = settings(optimizer=name, layer_decay=0.5, norm_weight_decay=0.0, weight_decay=0.1)
    optimizer = recipe.make_optimizer(network, chosen)
    of = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    assert len(of) == len(list(network.parameters()))
    stages = len(network.stages)
    assert of[network.fc.weight]["scale"] == 1
    assert of[network.layer4[0].conv1.weight]["scale"] == 0.5
    assert of[network.conv1.weight]["scale"] == 0.5**stages
    assert of[network.conv1.weight]["weight_decay"] == 0.1
    assert of[network.bn1.weight]["weight_decay"] == of[network.fc.bias]["weight_decay"] == 0
    recipe.set_rate(optimizer, 2.0)
    assert of[network.layer4[0].conv1.weight]["lr"] == 1.0


def test_what_is_frozen_stays():
    network = create_model("resnet18", weights=None)
    frozen = settings(freeze=2)
    recipe.freeze(network, 2)
    recipe.set_training(network, frozen)
    assert not network.conv1.weight.requires_grad
    assert not network.bn1.training
    assert not network.layer1[0].conv1.weight.requires_grad
    assert network.layer2.training
    with pytest.raises(UsageError, match=r"freeze is 9, and the network has \d stages"):
        recipe.freeze(network, 9)


def test_dropout_grows_from_a_share_of_its_own():
    network = create_model("efficientnet_b0", weights=None)
    shares = recipe.dropouts(network, settings())
    recipe.set_dropout(network, shares, 0.5)
    assert network.classifier[0].p == pytest.approx(0.1)
    assert set(recipe.dropouts(network, settings(dropout=0.7)).values()) == {0.7}


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def photo_files(tmp_path):
    random = np.random.default_rng(0)
    paths = []
    for number in range(9):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(random.integers(0, 256, (50, 60, 3), np.uint8)).save(paths[-1])
    return paths


def test_without_augmentation_training_sees_what_is_seen_later(photo_files):
    photos = TrainPhotos(photo_files, np.zeros(9, int), settings(augment="none"), PREPROCESSING)
    pixels, label = photos[Draw(3, 0, 0, 0.5)]
    assert label == 0
    np.testing.assert_array_equal(pixels, network_pixels(photo_files[3], PREPROCESSING))


@pytest.mark.parametrize("augment", ["crop", "flip", "trivial", "rand"])
def test_a_place_in_an_epoch_decides_the_pixels(augment, photo_files):
    photos = TrainPhotos(photo_files, np.zeros(9, int), settings(augment=augment, erasing=0.5), PREPROCESSING)
    state = torch.get_rng_state()
    one, again, other = (photos[draw][0] for draw in (Draw(1, 2, 3, 0), Draw(1, 2, 3, 0), Draw(1, 3, 3, 0)))
    assert torch.equal(torch.get_rng_state(), state)  # which belongs to the training step
    assert one.shape == (32, 32, 3)
    assert one.dtype == torch.uint8
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_erasing_fills_with_the_mean():
    picture = Image.new("RGB", (40, 40), (255, 0, 0))
    torch.manual_seed(0)
    pixels = change(picture, settings(augment="none", erasing=1.0), PREPROCESSING, recipe.Strength(32, 9, 0, 1))
    colours = {tuple(colour) for colour in pixels.reshape(-1, 3).tolist()}
    assert colours == {(255, 0, 0), tuple(int(255 * value) for value in PREPROCESSING.mean)}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_goes_on_where_it_is_told_to(workers, photo_files):
    labels = np.arange(9)
    photos = TrainPhotos(photo_files, labels, settings(batch_size=4), PREPROCESSING)

    def take(start, count, part=(0, 1), workers=0):
        found = stream(photos, start=start, part=part, total=9, workers=workers)
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


# --- loss -------------------------------------------------------------------------------------------------------------


def test_auxiliary_losses_weigh_three_tenths():
    labels = torch.tensor([0, 1])
    loss = Loss(settings(label_smoothing=0.0), np.array([0, 1]), 2, torch.device("cpu"))
    even = torch.zeros(2, 2)
    assert loss(even, labels).item() == pytest.approx(2 * math.log(2))
    three = GoogLeNetOutputs(even, even, even)
    assert loss(three, labels).item() == pytest.approx(1.6 * 2 * math.log(2))


def test_rare_classes_weigh_more():
    labels = np.array([0] * 9 + [1])
    loss = Loss(settings(balance="loss", label_smoothing=0.0), labels, 2, torch.device("cpu"))
    even = torch.zeros(10, 2)
    assert loss(even, torch.from_numpy(labels)).item() == pytest.approx(10 * math.log(2), rel=1e-5)
    assert loss.weight[1] / loss.weight[0] == pytest.approx(9)


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixing(options):
    chosen = settings(**options)
    loss = Loss(chosen, np.arange(4), 4, torch.device("cpu"))
    torch.manual_seed(1)
    images, targets = loss.mixed(torch.rand(4, 3, 8, 8), torch.arange(4), chosen.mixup)
    assert images.shape == (4, 3, 8, 8)
    assert torch.allclose(targets.sum(1), torch.ones(4))
    assert targets.shape == (4, 4)
    assert loss(torch.zeros(4, 4), targets).item() == pytest.approx(4 * math.log(4))


def test_images_equal_those_of_the_preset(photo_files):
    from vertebra.decoding import open_image
    from vertebra.models._preset import ImageClassification

    pixels = torch.from_numpy(network_pixels(photo_files[0], PREPROCESSING).copy()).unsqueeze(0)
    found = to_images(pixels, PREPROCESSING)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found[0], ImageClassification(PREPROCESSING)(open_image(photo_files[0])))


def test_out_of_place_is_the_same_to_the_bit():
    torch.manual_seed(0)
    network = create_model("mobilenet_v2", weights=None, num_classes=3).train()
    images = torch.randn(4, 3, 32, 32)

    def gradient():
        torch.manual_seed(1)
        network.zero_grad()
        network(images).square().sum().backward()
        return network.features[0][0].weight.grad.clone()

    in_place = gradient()
    recipe.avoid_copies(network)
    assert not network.features[0][2].inplace
    assert torch.equal(gradient(), in_place)


def test_memory_is_kept_between_steps():
    code = """
import ctypes, resource, torch
from vertebra.train.malloc import memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(20_000_000)  # 80 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if hasattr(ctypes.CDLL(None), "mallopt"):
    before = faults()
    with memory_kept():
        faults()
        kept = min(faults() for _ in range(5))  # the system takes back what lies idle, now and then
    print(before, kept, faults())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if not done.stdout:
        pytest.skip("this libc has no mallopt")
    before, kept, after = map(int, done.stdout.split())
    assert kept < min(before, after) / 10

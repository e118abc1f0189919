"""Normalised pixels: the normalisation is undone exactly, or refused with a word on what they seem to be."""

import numpy as np
import pytest

from vertebra.card import Card, Preprocessing
from vertebra.errors import UsageError
from vertebra.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from vertebra.runtime.predictor import Predictor
from vertebra.synthetic_photos import synthetic_photos

torch = pytest.importorskip("torch")

NORMALISATIONS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": ((0.5,) * 3, (0.5,) * 3),
    "lite": ((127 / 255,) * 3, (128 / 255,) * 3),
    "caffe": ((0.48235, 0.45882, 0.40784), (1 / 255,) * 3),
    "none": ((0.0,) * 3, (1.0,) * 3),
}


def normalised(pixels, name):
    """uint8 (…, H, W, 3) → float32 (…, 3, H, W)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMALISATIONS[name])
    return (torch.from_numpy(pixels).movedim(-1, -3) / 255 - mean) / std


@pytest.fixture(scope="module")
def networks(write_model, tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("models"), {}
    for name, (mean, std) in NORMALISATIONS.items():
        card = Card("tiny", Preprocessing(32, 40, "bicubic", mean, std), ("cat", "dog", "fish")).to_json()
        found[name] = Predictor(write_model(folder / f"{name}.onnx", card=card), engine="onnxruntime", threads=1)
    return found


PIXELS = np.stack([synthetic_photos(1, 32)[0], np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)])


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_normalised_pixels_are_taken_back_exactly(networks, name):
    network, values = networks[name], normalised(PIXELS, name)
    wanted = network.embeddings(PIXELS)
    for form in (values, values.double(), values.half(), values.numpy(), [values[0], values[1:]], iter(values)):
        results = list(network.predict_many(form, embed=True, preprocessed=True))
        assert np.array_equal([result.embedding for result in results], wanted)
    assert np.array_equal(network(values[0], embed=True, preprocessed=True).embedding, wanted[0])
    assert list(network.predict_many(values[:0], preprocessed=True)) == []


def test_what_the_networks_own_transforms_give(tmp_path, write_model):
    from PIL import Image

    from vertebra.models import ResNet18_Weights

    transforms = ResNet18_Weights.IMAGENET1K_V1.transforms(crop_size=32, resize_size=40)
    preprocessing = Preprocessing(32, 40, "bilinear", tuple(transforms.mean), tuple(transforms.std))
    network = Predictor(write_model(tmp_path / "m.onnx", card=Card("tiny", preprocessing).to_json()))
    picture = Image.fromarray(synthetic_photos(1, 70)[0])
    assert np.array_equal(
        network(transforms(picture), embed=True, preprocessed=True).embedding, network(picture, embed=True).embedding
    )


@pytest.mark.parametrize("name", ["imagenet", "half", "lite", "caffe"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x / 255, r"has pixels from 0 to 1 that are not normalised\. Give it as uint8.*round\(\)\.byte\(\)"),
        (lambda x: x.float(), r"has pixels from 0 to 255 that are not normalised\. Give it as uint8.*x\.byte\(\)"),
        (lambda x: (x > 128).float(), "pixels from 0 to 1 that are not normalised"),  # black and white
        (lambda x: torch.ones(3, 32, 32), "pixels from 0 to 1 that are not normalised"),
        (lambda x: (x / 255).numpy(), r"not normalised.*\(x \* 255\)\.round\(\)\.astype"),
        (
            lambda x: torch.nn.functional.avg_pool2d(x / 255, 3, 1, 1),
            r"between two of the 256 levels.* not normalised\. An",
        ),
        (lambda x: torch.full((3, 32, 32), torch.nan), "NaN or infinite"),
        (lambda x: torch.full((3, 32, 32), -torch.inf), "NaN or infinite"),
    ],
)
def test_what_is_not_normalised_is_refused(networks, name, make, message):
    with pytest.raises(UsageError, match=message):
        networks[name](make(torch.from_numpy(PIXELS[1]).permute(2, 0, 1)), preprocessed=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda x: normalised(PIXELS[1], "half"),
            r"is normalised with the mean 0\.5 and the std 0\.5\. This network takes",
        ),
        (
            lambda x: torch.nn.functional.avg_pool2d(x, 3, 1, 1),
            r"up to 0\.\d\d of a level between .* resized or augmented",
        ),
        (lambda x: x * 2, r"values from -4\.\d+ to 5\.\d+, which the normalisation does not give: .*0\.485, 0\.456"),
        (
            lambda x: x[:, :30],
            r"\(3, 30, 32\); preprocessed=True is for floats \(3, 32, 32\).* Resize and crop it to 32 × 32",
        ),
        (lambda x: x.permute(1, 2, 0), r"channels are last: write x\.permute\(2, 0, 1\)"),
        (lambda x: x.permute(1, 2, 0).numpy(), r"channels are last: write x\.transpose\(2, 0, 1\)"),
        (lambda x: x[:1], r"\(1, 32, 32\); preprocessed=True is for"),
        (lambda x: x[None], r"a batch \(1, 3, 32, 32\)"),
        (lambda x: x.bfloat16(), "bfloat16 has too few digits"),
        (lambda x: x.clone().requires_grad_(), r"requires a gradient\. Write x\.detach\(\)"),
        (lambda x: x.long(), r"int64 \(3, 32, 32\); preprocessed=True is for floats"),
        (lambda x: torch.zeros(3, 32, 32, dtype=torch.uint8), "Leave preprocessed out for pixels of 8 bits"),
        (lambda x: np.ma.masked_array(x.numpy()), "with a mask"),
        (lambda x: "photo.png", r"type str; allowed is float \(3, S, S\).* Leave preprocessed out"),
        (lambda x: None, r"is None; allowed is float \(3, S, S\)"),
    ],
)
def test_what_the_normalisation_does_not_give_is_refused(networks, make, message):
    network, values = networks["imagenet"], normalised(PIXELS[1], "imagenet")
    with pytest.raises(UsageError, match=message):
        network(make(values), preprocessed=True)
    if "batch" not in message:
        with pytest.raises(UsageError, match=r"^images\[1\] "):
            network.predict_many([values, make(values)], preprocessed=True)


def test_a_bright_picture_may_be_either(networks):
    """Where black is -1, what has no value below 0 may be pixels from 0 to 1; others of the batch tell."""
    bright = PIXELS[1] // 2 + 128
    with pytest.raises(UsageError, match="either is normalised or has pixels from 0 to 1"):
        networks["half"](normalised(bright, "half"), preprocessed=True)
    batch = np.stack([bright, PIXELS[1]])
    found = networks["half"].predict_many(normalised(batch, "half"), embed=True, preprocessed=True)
    assert np.array_equal([result.embedding for result in found], networks["half"].embeddings(batch))

"""Learning rate, image size and augmentation as functions of the progress."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
from vertebra.train import Settings
from vertebra.train.schedule import AugmentationStrength, augmentation_strength, learning_rate_factor


def settings(**values):
    return Settings.from_mapping({"data": "x", "method": "scratch", **values}, "test")


def test_rates():
    cosine = settings(warmup=1.0, schedule="cosine")
    assert [round(learning_rate_factor(cosine, epoch / 5, 5), 3) for epoch in (0.0, 0.5, 1.0, 3.0, 5.0)] == [
        0.001, 0.501, 1.0, 0.5, 0.0,
    ]  # fmt: skip
    falling = settings(schedule="step", step_epochs=30, gamma=0.1, warmup=0)
    assert [learning_rate_factor(falling, epoch / 90, 90) for epoch in (0, 29.9, 30, 60)] == pytest.approx(
        [1, 1, 0.1, 0.01]
    )
    assert learning_rate_factor(settings(schedule="constant", warmup=0), 0.7, 3) == 1
    # Of a short training no more than half is warming up.
    assert learning_rate_factor(settings(warmup=5), 0.5, 1) == pytest.approx(1.0)


def test_progressive_learning_grows_as_in_the_paper():
    grown = [augmentation_strength(settings(preset="efficientnetv2", mixup=0.2), 300, p) for p in (0, 0.3, 0.6, 0.8, 1)]
    assert [now.size for now in grown] == [128, 192, 240, 300, 300]  # 128 to 300
    assert [now.magnitude for now in grown] == [5, 8, 12, 15, 15]
    assert [round(now.mixup, 3) for now in grown] == [0, 0.067, 0.133, 0.2, 0.2]
    assert grown[0].dropout == pytest.approx(1 / 3)
    assert augmentation_strength(settings(mixup=0.2, magnitude=9), 224, 0.1) == AugmentationStrength(224, 9, 0.2, 1.0)

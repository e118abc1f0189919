"""Published recipes as settings, and settings that are refused."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
from vertebra.errors import UsageError
from vertebra.train import Settings
from vertebra.train.presets import PRESETS


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

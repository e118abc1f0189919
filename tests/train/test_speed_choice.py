"""`speed=auto`: what is chosen, when it is measured, and what a run keeps of it."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
import torch

import vertebra
from vertebra.cpu_kernels import KernelError
from vertebra.train import Settings, speed_choice
from vertebra.train.speed_choice import choose_speed
from vertebra.train.training_log import read_log

CPU, GPU = torch.device("cpu"), torch.device("cuda")
LONG = 10_000  # photos


def settings_of(**options):
    return Settings("x", method="scratch", image_size=224, **options)


def no_trainer(speed):
    raise AssertionError("nothing is to be tried")


@pytest.fixture
def gain(monkeypatch):
    """`gain(2.0)`: what is measured; or an error."""

    def set_gain(value):
        def measured():
            if isinstance(value, Exception):
                raise value
            return value

        monkeypatch.setattr(speed_choice, "measured_gain", measured)

    set_gain(AssertionError("not to be measured"))
    return set_gain


@pytest.mark.parametrize("speed", ["eager", "fused", "compile"])
def test_a_speed_that_is_given_stays(gain, speed):
    assert choose_speed(settings_of(speed=speed), LONG, CPU, no_trainer) == (speed, [])


@pytest.mark.parametrize(("value", "expected"), [(1.5, "fused"), (1.02, "eager"), (0.5, "eager")])
def test_the_faster_is_chosen(gain, value, expected):
    gain(value)
    assert choose_speed(settings_of(), LONG, CPU, no_trainer) == (expected, [])


@pytest.mark.parametrize(
    ("photos", "options"),
    [(100, {"epochs": 5}), (1000, {"epochs": 500, "image_size": 8}), (LONG, {"dtype": "bfloat16"})],
    ids=str,
)
def test_nothing_is_compiled_where_it_cannot_pay(gain, photos, options):
    settings = Settings("x", method="scratch", **({"image_size": 224} | options))
    assert choose_speed(settings, photos, CPU, no_trainer) == ("eager", [])


def test_a_long_run_of_small_pictures_is_measured(gain):
    gain(2.0)
    settings = Settings("x", method="scratch", image_size=32, epochs=60)
    assert choose_speed(settings, 50_000, CPU, no_trainer) == ("fused", [])


def test_without_a_compiler_the_run_says_so(gain):
    gain(KernelError("no C compiler (gcc) is installed"))
    speed, (note,) = choose_speed(settings_of(), LONG, CPU, no_trainer)
    assert speed == "eager"
    assert note.startswith("Training steps were computed by torch's layers: no C compiler (gcc) is installed. ")


class _Steps:
    """A trainer on a GPU, as far as it is asked."""

    def __init__(self, speed, seconds, total_steps):
        self.speed, self.seconds, self.total_steps = speed, seconds[speed], total_steps


@pytest.mark.parametrize(
    ("seconds", "total_steps", "expected"),
    [
        ({"eager": 0.1, "compile": 0.05}, 100_000, "compile"),
        ({"eager": 0.1, "compile": 0.099}, 100_000, "eager"),
        ({"eager": 0.1, "compile": 0.2}, 100_000, "eager"),
        ({"eager": 0.1}, 1000, "eager"),  # nothing is compiled
    ],
    ids=str,
)
def test_on_a_gpu_long_runs_are_compiled(gain, monkeypatch, seconds, total_steps, expected):
    monkeypatch.setattr(speed_choice, "_step_seconds", lambda trainer: trainer.seconds)
    found, notes = choose_speed(settings_of(), LONG, GPU, lambda speed: _Steps(speed, seconds, total_steps))
    assert (found, notes) == (expected, [])


OPTIONS = {"model": "mobilenet_v2", "method": "scratch", "image_size": 32, "batch_size": 8, "epochs": 1, "workers": 0}


def losses(run):
    return [record["loss"] for record in read_log(run) if "loss" in record]


def test_a_run_records_what_was_chosen_and_keeps_it(kernels, gain, shapes_without_broken, tmp_path, monkeypatch):
    gain(2.0)
    monkeypatch.setattr(speed_choice, "_MIN_PIXELS", 0)
    chosen = vertebra.train(shapes_without_broken, tmp_path / "auto", **OPTIONS)
    assert Settings.from_toml(chosen.run / "settings.toml").speed == "fused"
    assert "fused" in chosen.report.read_text()
    eager = vertebra.train(shapes_without_broken, tmp_path / "eager", speed="eager", **OPTIONS)
    assert losses(chosen.run) == pytest.approx(losses(eager.run), rel=1e-3)
    assert losses(chosen.run) != losses(eager.run)  # the kernels did run


def test_where_the_kernels_are_gone_a_run_goes_on_without(gain, shapes_without_broken, tmp_path, monkeypatch):
    """As on another machine."""

    def fuse(network):
        raise KernelError("no C compiler (gcc) is installed")

    monkeypatch.setattr("vertebra.train.step_module.fuse", fuse)
    with pytest.warns(UserWarning, match=r"by torch's layers, which takes longer: no C compiler \(gcc\) is installed"):
        run = vertebra.train(shapes_without_broken, tmp_path / "fused", speed="fused", **OPTIONS).run
    assert Settings.from_toml(run / "settings.toml").speed == "fused"
    assert losses(run) == losses(vertebra.train(shapes_without_broken, tmp_path / "e", speed="eager", **OPTIONS).run)

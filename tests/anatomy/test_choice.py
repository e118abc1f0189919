"""What fits a budget, what does not and why, and which limit is to blame."""

import json

import pytest

import vertebra
from vertebra.anatomy import Anatomy, Limits
from vertebra.anatomy.choice import _times
from vertebra.anatomy.roofline import Calibration, Rate
from vertebra.errors import UsageError

NAMES = ("resnet50", "mobilenet_v2", "vgg16", "efficientnet_b0", "resnet18")
# Half a ms for a million operations, so that the times are in the order of the MACs.
HERE = Calibration(
    "onnxruntime", {"cpu": "a cpu", "threads": 1}, {"elementwise": Rate(0.0, 0.001, 0, 0)}, 0.0, 1.0, 0.0, 0.0
)


@pytest.fixture
def timed(monkeypatch):
    """Measured times, which are made up: `timed.factor` times the predicted ones."""

    class Timed:
        names, factor = [], 1.0

        def measure(self, anatomy, executor, seconds):
            self.names.append(anatomy.name)
            ms = self.factor * anatomy.latency(HERE).total_ms
            return type("Measurement", (), {"total_ms": ms})()

    found = Timed()
    found.names = []
    monkeypatch.setattr(Anatomy, "measure", lambda *args, **options: found.measure(*args, **options))
    return found


def names(candidates):
    return [candidate.published.name for candidate in candidates]


def test_best_first_with_a_reason_for_each_other(timed):
    choice = vertebra.choose(Limits(max_mb=30, min_top1=70), HERE, names=NAMES)
    assert names(choice.fits) == ["efficientnet_b0", "mobilenet_v2"]
    reasons = {candidate.published.name: reason for candidate, reason in choice.out}
    assert reasons == {
        "resnet50": "103 MB, 3.4 × the limit",
        "vgg16": "553 MB, 18.4 × the limit",
        "resnet18": "69.76 % top-1, 0.24 below the limit; 46.8 MB, 1.6 × the limit",
    }
    assert choice.tightest == ""
    assert timed.names == ["efficientnet_b0", "mobilenet_v2"]
    assert choice.fits[0].published.weights == "EfficientNet_B0_Weights.IMAGENET1K_V1"
    assert json.loads(json.dumps(choice.to_dict()))["fits"][0]["measured_ms"] == choice.fits[0].measured_ms


def test_only_as_many_finalists_as_asked_for_are_timed(timed):
    choice = vertebra.choose(Limits(), HERE, names=NAMES, finalists=2)
    assert timed.names == names(choice.fits)[:2] == ["resnet50", "efficientnet_b0"]
    assert [candidate.measured_ms is None for candidate in choice.fits] == [False, False, True, True, True]


def limit_of(name):
    return vertebra.anatomy(name).latency(HERE).total_ms


def test_the_measured_time_decides(timed):
    limit = limit_of("resnet18")
    timed.factor = 1.2
    choice = vertebra.choose(Limits(max_ms=1.1 * limit), HERE, names=["resnet18"])
    assert not choice.fits
    assert choice.out[0][1].startswith(f"measured {1.2 * limit:.2f} ms, 1.1 × the limit")
    timed.factor = 0.9
    choice = vertebra.choose(Limits(max_ms=0.95 * limit), HERE, names=["resnet18"])
    assert names(choice.fits) == ["resnet18"], "predicted over the limit, and measured below"


def test_what_is_hopeless_is_not_timed(timed):
    choice = vertebra.choose(Limits(max_ms=limit_of("resnet18")), HERE, names=["vgg16"])
    assert timed.names == []
    assert choice.out[0][1].startswith("predicted ")


def test_for_another_device_times_are_bounds(timed):
    choice = vertebra.choose(Limits(max_ms=5), "laptop", names=NAMES)
    assert timed.names == []
    assert choice.is_bound
    assert names(choice.fits) == ["efficientnet_b0", "mobilenet_v2", "resnet18"]
    assert {c.published.name: reason for c, reason in choice.out}["resnet50"].startswith("at least ")


def test_the_size_is_for_the_times():
    small, published = (vertebra.choose(Limits(), "laptop", size=s, names=["resnet18"]).fits[0] for s in (112, None))
    assert small.size == 112
    assert published.size == 224
    assert small.predicted_ms < published.predicted_ms / 2


@pytest.mark.parametrize(
    ("limits", "tightest"),
    [
        (Limits(max_ms=1, max_mb=30), "--max-ms is the tightest limit: without it 2 networks would fit"),
        (Limits(max_mb=10, min_top1=78), "--max-mb is the tightest limit: without it 1 network would fit"),
        (Limits(min_top1=99), "--min-top1 is the tightest limit: without it 5 networks would fit"),
        (Limits(max_params=1), "--max-params is the tightest limit"),
        (
            Limits(max_mb=10, min_top1=99),
            "No single limit excludes them all; --max-mb is the tightest, which excludes 5 of",
        ),
    ],
)
def test_when_nothing_fits_the_limit_to_ease_is_named(limits, tightest):
    choice = vertebra.choose(limits, "laptop", names=NAMES)
    assert not choice.fits
    assert choice.tightest.startswith(tightest)


@pytest.mark.parametrize("limits", [Limits(max_ms=0), Limits(max_mb=-1), Limits(min_top1=float("nan"))])
def test_limits_are_positive(limits):
    with pytest.raises(UsageError, match="must be a number above 0"):
        vertebra.choose(limits, "laptop")


def test_wrong_names_and_devices():
    with pytest.raises(UsageError, match="Did you mean 'resnet18'"):
        vertebra.choose(Limits(), "laptop", names=["resnet-81"])
    with pytest.raises(UsageError, match="Did you mean 'h100'"):
        vertebra.choose(Limits(min_top1=99), "h10")


def test_a_ratio_is_never_one():
    assert _times(1.01) == "1.010 ×"


def test_no_device_is_no_time(monkeypatch):
    monkeypatch.setattr("vertebra.anatomy.choice.inspect", lambda *arguments: pytest.fail("nothing is timed"))
    told = []
    for device in (None, "none"):
        choice = vertebra.choose(
            Limits(max_mb=30, min_top1=70), device, names=NAMES, progress=lambda *step: told.append(step)
        )
        assert names(choice.fits) == ["efficientnet_b0", "mobilenet_v2"]
        assert choice.device == "none" and {candidate.ms for candidate in choice.fits} == {None}
        with pytest.raises(UsageError, match=r"max_ms is 5, and device is none: .* Leave one of them out\."):
            vertebra.choose(Limits(max_ms=5), device)
    assert told[:2] == [("choosing: resnet50", 0, 5), ("choosing: efficientnet_b0", 1, 5)]

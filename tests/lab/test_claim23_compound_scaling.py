"""What each scaling costs, and the rule for accuracy at equal MACs."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from vertebra.errors import UsageError
from vertebra.lab import scaled_networks as scaled
from vertebra.lab.experiment import Figure, Measured, Setup, Verdict
from vertebra.lab.experiments import claim23_compound_scaling as experiment
from vertebra.models.efficientnet import scaled_b0

CALTECH = Path(__file__).parents[3] / "shared" / "data" / "caltech101"
GAINS = tuple(f"compound over {name}" for name in ("width", "depth", "resolution"))


@pytest.fixture(scope="module")
def counts():
    return experiment.measure(Setup(), variants=(0, 2))


@pytest.fixture
def trained(counts):
    """The counts, and a training in which nothing is decided."""
    figures = {gain: Figure(0.5, "points", 3, (-1.0, 2.0)) for gain in GAINS}
    return replace(counts, figures={**counts.figures, **figures, experiment.UNEQUAL: Figure(1.1, "×")})


def test_the_counts_are_the_published_ones(counts):
    measured = [name for name in experiment.CLAIM.expected if name in counts.figures]
    assert len(measured) == 7
    for name in measured:
        expected = experiment.CLAIM.expected[name]
        assert counts.value(name) == pytest.approx(expected.value, rel=expected.tolerance), name
    assert [counts.value(f"B{i}: resolution") for i in (0, 2)] == [224, 288]
    judgement = experiment.judge(counts)
    assert judgement.verdict is Verdict.IN_PART and "not run" in judgement.reason


def test_where_the_multiplier_of_depth_is_ignored_it_does_not_hold(counts):
    macs = scaled.macs_of_single_scalings(lambda width, depth: scaled_b0(width, 1))
    broken = {f"{name}: MACs over B0's": Figure(ratio, "×") for name, ratio in macs.items()}
    assert broken["depth × 4: MACs over B0's"].value == 1
    assert experiment.judge(Measured({**counts.figures, **broken})).verdict is Verdict.FAILS


def test_where_the_network_fixes_the_resolution_it_does_not_hold(counts):
    def scale(width, depth):
        network = scaled_b0(1, 1)
        network.min_size = 448
        return network

    broken = {experiment.AT_224: Figure(int(scaled.runs_at_b0_size(scale)))}
    assert experiment.judge(Measured({**counts.figures, **broken})).verdict is Verdict.FAILS


@pytest.mark.parametrize(
    ("intervals", "verdict", "reason"),
    [
        ([(-1.0, 2.0)] * 3, Verdict.IN_PART, "not decided"),
        ([(0.5, 2.0)] * 3, Verdict.HOLDS, "most accurate"),
        ([(0.5, 2.0), (0.5, 2.0), (-1.0, 2.0)], Verdict.IN_PART, "not decided"),
        ([(0.5, 2.0), (0.5, 2.0), (-3.0, -1.0)], Verdict.IN_PART, "one of them alone"),
    ],
)
def test_accuracy_decides_by_the_intervals(trained, intervals, verdict, reason):
    own = {gain: replace(trained.figures[gain], interval=i) for gain, i in zip(GAINS, intervals, strict=True)}
    judgement = experiment.judge(replace(trained, figures={**trained.figures, **own}))
    assert judgement.verdict is verdict and reason in judgement.reason


def test_unequal_budgets_decide_nothing(trained):
    own = {gain: replace(trained.figures[gain], interval=(1.0, 2.0)) for gain in GAINS}
    unequal = {experiment.UNEQUAL: Figure(1.5, "×")}
    judgement = experiment.judge(replace(trained, figures={**trained.figures, **own, **unequal}))
    assert judgement.verdict is Verdict.IN_PART and "differ in MACs" in judgement.reason


def test_the_trained_networks_have_about_equal_macs():
    macs = [arm.macs() for arm in scaled.ARMS.values()]
    assert max(macs) / min(macs) < 1.15
    assert 3.5 < min(macs) / scaled.BASE.macs() < max(macs) / scaled.BASE.macs() < 4.5


def test_a_folder_with_too_few_photos_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 40), "red").save(tmp_path / name / "1.png")
    with pytest.raises(UsageError, match="at least 40 usable photos, and 20 such classes are needed"):
        scaled.accuracies(tmp_path, Setup(), scaled.ARMS)


@pytest.mark.slow
def test_all_counts_are_the_published_ones():
    measured = experiment.measure(Setup())
    for name in (name for name in experiment.CLAIM.expected if "top-1" not in name):
        expected = experiment.CLAIM.expected[name]
        assert measured.value(name) == pytest.approx(expected.value, rel=expected.tolerance), name


@pytest.mark.slow
@pytest.mark.skipif(not CALTECH.is_dir(), reason="Caltech-101 is not here")
def test_a_network_whose_depth_is_ignored_has_other_macs():
    arms = {name: scaled.BASE if name == "depth" else replace(arm, size=16) for name, arm in scaled.ARMS.items()}
    measured = experiment.measure(Setup(seeds=1, data=CALTECH), arms=arms, variants=())
    assert "differ in MACs" in experiment.judge(measured).reason
    assert measured.value("depth, trained: accuracy") == measured.value("base, trained: accuracy")

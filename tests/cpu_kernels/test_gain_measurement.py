"""The measurement that decides whether kernels are used."""

import pytest

pytest.importorskip("torch")
import torch

from vertebra.cpu_kernels import KernelError, gain_measurement, measured_gain
from vertebra.cpu_kernels.batch_norm import BatchNormActivation


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path):
    """A small map, and a folder of its own for what is kept."""
    monkeypatch.setattr(gain_measurement, "_SHAPE", (2, 96, 28, 28))
    monkeypatch.setattr(gain_measurement, "compiled_library", lambda: tmp_path / "library.so")


def test_is_measured_once_for_a_number_of_threads(monkeypatch):
    gain = measured_gain()
    assert gain > 0
    monkeypatch.setattr(gain_measurement, "_measure", lambda: 123.0)
    assert measured_gain() == gain
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert measured_gain() == 123.0


def test_leaves_random_numbers_as_they_were():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    measured_gain()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("wrong", [lambda y: y * 1.001, lambda y: y * float("nan"), lambda y: y.detach() + 0 * y])
def test_kernels_that_compute_something_else_are_refused(monkeypatch, wrong):
    forward = BatchNormActivation.forward
    monkeypatch.setattr(BatchNormActivation, "forward", lambda self, x: wrong(forward(self, x)))
    with pytest.raises(KernelError, match=r"^the compiled kernels do not compute what torch's layers do$"):
        measured_gain()
    monkeypatch.undo()


@pytest.mark.parametrize("seed", range(5))
def test_rounding_is_no_difference(monkeypatch, seed):
    """At the size that is measured, whatever the numbers are."""
    monkeypatch.undo()
    torch.manual_seed(seed)
    gain_measurement._check()

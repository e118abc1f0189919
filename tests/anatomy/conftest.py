"""A calibration with round figures."""

import pytest

from vertebra.anatomy.roofline import Calibration, Rate


@pytest.fixture
def calibration():
    """Makes one; keyword arguments replace its figures."""

    def make(**changes):
        rates = {
            "dense conv": Rate(0.01, 0.5, 0.2, 0.1),
            "elementwise": Rate(0.001, 0, 0, 0.3),
            "concat": Rate(0, 0, 0, 1),
        }
        values = {
            "executor": "onnxruntime",
            "machine": {"cpu": "a cpu", "threads": 1},
            "rates": rates,
            "between": 0.002,
            "seconds": 1.0,
            "noise": 0.01,
            "others": 0.0,
        }
        return Calibration(**values | changes)

    return make

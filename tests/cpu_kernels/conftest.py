"""Tests of kernels, which are compiled once for all test processes."""

import pytest


@pytest.fixture(autouse=True)
def _kernels(kernels):
    """For all tests of this folder."""

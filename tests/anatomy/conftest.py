"""Networks taken apart once for all tests of this folder."""

from functools import cache

import pytest

import vertebra

# One network of each family, small enough for a default run.
FAMILY = {
    "vgg": "vgg11_bn",
    "googlenet": "googlenet",
    "resnet": "resnet18",
    "densenet": "densenet121",
    "mobilenetv2": "mobilenet_v2",
    "efficientnet": "efficientnet_b0",
}


@cache
def _anatomy(name, size):
    return vertebra.anatomy(name, size)


@pytest.fixture(scope="session")
def taken():
    """`taken(name, size=None)`: the anatomy of a network of ours."""
    return lambda name, size=None: _anatomy(name, size)


@pytest.fixture(params=FAMILY.values(), ids=FAMILY.keys(), scope="session")
def of_family(request):
    """The name of one network of each family."""
    return request.param

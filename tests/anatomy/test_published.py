"""Parameters and multiply-accumulates against what is published."""

from collections import Counter

import pytest
import tiny

import vertebra
from vertebra import models

# In the default run one of each kind of block.
QUICK = {*tiny.one_of_each(), "resnet50", "resnext50_32x4d", "efficientnet_b0", "efficientnet_b2", "efficientnet_v2_s"}


def registered(name, *more, **options):
    return pytest.param(name, *more, marks=() if name in QUICK else pytest.mark.slow, **options)


ENTRIES = [
    registered(name, member, id=repr(member))
    for name in models.list_models()
    for member in models.get_model_weights(name)
]


def test_all_entries_are_here():
    found = Counter("lite" in entry.values[0] for entry in ENTRIES)
    assert found == {False: 45, True: 3}


@pytest.mark.parametrize(("name", "member"), ENTRIES)
def test_parameters_and_gmacs_are_the_published_ones(name, member, taken):
    anatomy = taken(name, member.preprocessing.crop_size)
    assert anatomy.parameters == member.meta["num_params"]
    published = member.meta["_ops"]
    # At the precision that is printed: three decimals, or fewer where the last ones are zeros.
    assert round(anatomy.macs / 1e9, 3) == published
    assert anatomy.flops == 2 * anatomy.macs


@pytest.mark.parametrize("name", [registered(name) for name in models.list_models()])
def test_nothing_is_unknown(name, taken):
    anatomy = taken(name, models.get_model_weights(name)["DEFAULT"].preprocessing.crop_size)
    assert anatomy.unknown == ()
    assert all(row.kind is not vertebra.anatomy.Kind.UNUSED for row in anatomy.rows)

"""Parameters and multiply-accumulates against what is published."""

import subprocess
import sys

import pytest

import vertebra
from vertebra import models

ENTRIES = [(name, member) for name in models.list_models() for member in models.get_model_weights(name)]


def test_all_entries_are_here():
    lite = [name for name, _ in ENTRIES if "lite" in name]
    assert len(ENTRIES) == 45 + len(lite)
    assert len(lite) == 3


@pytest.mark.parametrize(("name", "member"), ENTRIES, ids=[repr(member) for _, member in ENTRIES])
def test_parameters_and_gmacs_are_the_published_ones(name, member, taken):
    anatomy = taken(name, member.preprocessing.crop_size)
    assert anatomy.parameters == member.meta["num_params"]
    published = member.meta["_ops"]
    # At the precision that is printed: three decimals, or fewer where the last ones are zeros.
    assert round(anatomy.macs / 1e9, 3) == published
    assert anatomy.flops == 2 * anatomy.macs


@pytest.mark.parametrize("name", models.list_models())
def test_nothing_is_unknown(name, taken):
    anatomy = taken(name, models.get_model_weights(name)["DEFAULT"].preprocessing.crop_size)
    assert anatomy.unknown == ()
    assert all(row.kind is not vertebra.anatomy.Kind.UNUSED for row in anatomy.rows)


def test_no_compiler_is_imported():
    """torch's own rules for the meta device would import its compiler and sympy, which takes three seconds."""
    code = """
import sys
import torch, vertebra
vertebra.models
before = set(sys.modules)
for name in ("densenet121", "efficientnet_b0", "efficientnet_lite0", "googlenet", "mobilenet_v2", "vgg11"):
    vertebra.anatomy(name)
print(sorted(n for n in set(sys.modules) - before if n.startswith(("sympy", "torch._dynamo", "torch._inductor"))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"

"""Errors say what to do next, and carry the exit code that the command line leaves with."""

import contextlib
import copy
import importlib
import inspect
import pickle
import re
from pathlib import Path

import pytest

import vertebra
from vertebra import errors
from vertebra.errors import (
    ImageError,
    MissingExtraError,
    UsageError,
    VertebraError,
    VertebraWarning,
    WeightsError,
    nearest,
)

NAMES = ["resnet18", "resnet50", "resnext50_32x4d", "vgg16_bn", "efficientnet_lite0", "efficientnet_b0", "densenet121"]


def test_every_error_is_a_vertebra_error():
    classes = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)]
    assert len(classes) == 7
    assert all(issubclass(value, VertebraError | VertebraWarning) for value in classes)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (VertebraError("x"), 1),
        (ImageError("x"), 1),
        (WeightsError("x"), 1),
        (UsageError("x"), 2),
        (MissingExtraError("x", "torch"), 2),
    ],
)
def test_exit_codes(error, code):
    assert error.exit_code == code


def test_standard_handlers_catch_them_too():
    with pytest.raises(ValueError, match="wrong"):
        raise UsageError("wrong")
    with pytest.raises(ImportError):
        raise MissingExtraError("export", "torch")


def test_a_missing_extra_names_feature_and_command():
    message = str(MissingExtraError("vertebra.create_model", "torch"))
    assert "vertebra.create_model" in message
    assert "pip install 'vertebra[torch]'" in message


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("resnet-50", "resnet50"),
        ("ResNet50", "resnet50"),
        ("renset50", "resnet50"),
        ("vgg16", "vgg16_bn"),
        ("efficientnetlite0", "efficientnet_lite0"),
        ("densenet_121", "densenet121"),
    ],
)
def test_the_nearest_name_comes_first(typed, meant):
    assert nearest(typed, NAMES).startswith(f"Did you mean '{meant}'")


def test_nothing_near_is_no_hint():
    assert nearest("zebra", NAMES) == ""
    assert nearest("", NAMES) == ""
    assert nearest("resnet50", []) == ""


def test_hints_are_few():
    assert nearest("resnet", [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)]).count("'") == 2 * 3
    assert nearest("resnet5", NAMES, count=1).count("'") == 2


def every(kind):
    return {kind}.union(*map(every, kind.__subclasses__()))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_travel_between_processes(copied):
    """A pool of processes breaks down, or waits for ever, where it cannot read an error."""
    folder = Path(vertebra.__file__).parent
    for path in folder.rglob("*.py"):
        if re.search(r"^class \w+\(.*Error\b.*\):", path.read_text(encoding="utf-8"), re.MULTILINE):
            name = ".".join(path.relative_to(folder.parent).with_suffix("").parts)
            with contextlib.suppress(ImportError):  # of an extra that is not installed
                importlib.import_module(name)
    kinds = every(VertebraError)
    assert len(kinds) > 10
    for kind in kinds:
        made = kind.__dict__.get("__init__")
        values = [f"a {name}" for name in list(inspect.signature(made).parameters)[1:]] if made else ["a reason"]
        error = kind(*values)
        error.extra = {"path": "a.png"}
        found = copied(error)
        assert type(found) is kind and found is not error
        assert (str(found), found.args, vars(found)) == (str(error), error.args, vars(error))
        assert any(value in str(found) for value in values)

"""Errors say what to do next, and carry the exit code that the command line leaves with."""

import contextlib
import copy
import importlib
import inspect
import pickle
import re
import sys
import tomllib
from pathlib import Path

import pytest

import vertebra
from vertebra import errors
from vertebra.errors import (
    EXTRAS,
    INCLUDED,
    BrokenPackageError,
    ImageError,
    MissingExtraError,
    UsageError,
    VertebraError,
    VertebraWarning,
    WeightsError,
    import_problem,
    require_extra,
    suggest,
)

NAMES = ["resnet18", "resnet50", "resnext50_32x4d", "vgg16_bn", "efficientnet_lite0", "efficientnet_b0", "densenet121"]


def test_every_error_is_a_vertebra_error():
    classes = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)]
    assert len(classes) == 10
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
    assert suggest(typed, NAMES).startswith(f"Did you mean '{meant}'")


def test_nothing_near_is_no_hint():
    assert suggest("zebra", NAMES) == ""
    assert suggest("", NAMES) == ""
    assert suggest("resnet50", []) == ""


def test_hints_are_few():
    assert suggest("resnet", [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)]).count("'") == 2 * 3
    assert suggest("resnet5", NAMES, count=1).count("'") == 2


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


# --- what an extra brings ---------------------------------------------------------------------------------------------

PYPROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORTED_AS = {"scikit-learn": "sklearn"}  # others by their name, with "_" for "-"


def packages_of(extra):
    """The names that a package of the extra is imported by; those that are data alone, and other extras, left out."""
    found = [re.match(r"[\w.-]+", requirement)[0] for requirement in PYPROJECT["optional-dependencies"][extra]]
    return {
        IMPORTED_AS.get(name, name.replace("-", "_"))
        for name in found
        if name != "vertebra" and not name.endswith("-model")
    }


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_table_of_extras_is_that_of_the_package(extra):
    with_them = {"starlette"} if extra == "serve" else set()  # comes with fastapi
    assert set(EXTRAS[extra]) == packages_of(extra) | with_them
    others = re.search(r"vertebra\[(\w+)\]", " ".join(PYPROJECT["optional-dependencies"][extra]))
    assert INCLUDED.get(extra) == (others[1] if others else None)


def test_no_extra_for_users_is_left_out():
    assert {*EXTRAS, "all", "docs", "test", "slow", "dev"} == PYPROJECT["optional-dependencies"].keys()


@contextlib.contextmanager
def absent(monkeypatch, *packages):
    """Inside, these packages are not installed."""

    class Nowhere:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in packages:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
            patch.delitem(sys.modules, name)
        patch.setattr(sys, "meta_path", [Nowhere(), *sys.meta_path])
        yield


@pytest.mark.parametrize(
    ("package", "asked", "named"),
    [
        ("pyarrow", "parquet", "parquet"),
        ("pyarrow.parquet", "train", "parquet"),  # deep inside something else
        ("onnx", "torch", "torch"),
        ("onnx", "train", "train"),  # which includes the other
        ("sklearn.datasets", "torch", "train"),
        ("orjson", None, "serve"),
        ("MNN", None, "fast"),
        ("vertebra_kernels", None, "kernels"),
    ],
)
def test_a_missing_package_is_named_by_its_extra(monkeypatch, package, asked, named):
    with (
        absent(monkeypatch, package.partition(".")[0]),
        pytest.raises(MissingExtraError, match=rf"^a thing needs packages .* pip install 'vertebra\[{named}\]'$"),
        require_extra(asked, "a thing"),
    ):
        importlib.import_module(package)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import no_such_package_here", "No module named 'no_such_package_here'"),
        ("import onnx.no_such_part", "No module named 'onnx.no_such_part'"),
        ("raise ImportError('libonnx.so.9: cannot open shared object file')", "libonnx.so.9: cannot open"),
        ("raise OSError('libonnx.so.9: cannot open shared object file')", "libonnx.so.9: cannot open"),
        ("from onnx import no_such_name", "cannot import name 'no_such_name'"),
    ],
)
def test_a_package_that_is_installed_and_broken_says_why(tmp_path, monkeypatch, body, reason):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "__init__.py").write_text(body)
    for name in [name for name in sys.modules if name.partition(".")[0] == "onnx"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BrokenPackageError) as caught, require_extra("torch", "a thing"):
        importlib.import_module("onnx")
    assert f"a thing needs onnx, which is installed and does not load ({reason}" in str(caught.value)
    assert str(caught.value).endswith("pip install --force-reinstall onnx")


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'vertebra.nowhere'", name="vertebra.nowhere"),
        ModuleNotFoundError("No module named 'of_the_user'", name="of_the_user"),
        ImportError("odd"),
        FileNotFoundError(2, "No such file", "a.png"),
        OSError("odd"),
        MissingExtraError("it", "train"),
        ValueError("odd"),
    ],
)
def test_other_faults_stay_what_they_are(error):
    assert import_problem(error, "a thing", "torch") is None
    with pytest.raises(type(error)) as caught, require_extra("torch", "a thing"):
        raise error
    assert caught.value is error

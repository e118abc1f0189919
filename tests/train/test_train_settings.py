"""What decides a run, as it is given and as it is kept."""

import os
import tempfile
import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import settings as options
from hypothesis import strategies as st

from vertebra.errors import UsageError

pytest.importorskip("torch")

from vertebra.train.train_settings import Settings


@pytest.mark.parametrize("given", [["extra", 'a "b"'], ("extra", 'a "b"')])
def test_names_to_ignore_are_kept(tmp_path, given):
    settings = Settings.from_mapping({"data": "x", "ignore": given, "allow_unseen": True}, "here")
    assert settings.ignore == ("extra", 'a "b"')
    (tmp_path / "settings.toml").write_text(settings.to_toml())
    assert Settings.from_toml(tmp_path / "settings.toml") == settings
    assert settings.shown()["ignore"] == 'extra, a "b"'
    assert "ignore" not in Settings("x").to_toml()
    assert "ignore" not in Settings("x").shown()


@pytest.mark.parametrize("given", ["extra", 3, ["a", 3], {"a": 1}.keys()])
def test_names_to_ignore_are_a_list(given):
    with pytest.raises(UsageError, match=r'ignore is .*; it must be a list of texts, such as \["extra"\]\.'):
        Settings.from_mapping({"data": "x", "ignore": given}, "here")


@pytest.mark.parametrize("value", [True, 1, "true", "yes", {"a": 1}])
def test_a_setting_that_is_gone_says_what_there_is_instead(value):
    with pytest.raises(UsageError, match=r"^RUN/settings\.toml has fsdp = .*gone.*torchrun.*--set fsdp=false"):
        Settings.from_mapping({"data": "x", "fsdp": value}, "RUN/settings.toml")


def test_compile_is_part_of_speed():
    with pytest.raises(UsageError, match=r"has compile = true.*--set compile=false --set speed=compile"):
        Settings.from_mapping({"data": "x", "method": "scratch", "compile": True}, "RUN/settings.toml")


def test_kernels_are_of_float32():
    options = {"data": "x", "method": "scratch", "dtype": "bfloat16"}
    with pytest.raises(UsageError, match=r'speed = "fused" would do nothing: it takes dtype=float32 to be fused'):
        Settings.from_mapping(options | {"speed": "fused"}, "here")
    assert Settings.from_mapping(options, "here").speed == "auto"


def test_settings_of_earlier_versions_are_read(tmp_path):
    expected = Settings.from_mapping({"data": "x", "method": "scratch"}, "here")
    (tmp_path / "settings.toml").write_text(expected.to_toml() + "fsdp = false\ncompile = false\n")
    found = Settings.from_toml(tmp_path / "settings.toml")
    assert found == expected
    assert "fsdp" not in found.to_toml()
    assert "compile" not in found.to_toml()


@pytest.mark.parametrize("method", ["finetune", "scratch"])
def test_a_file_of_an_earlier_version_names_what_its_method_has_no_use_for(method):
    """At its usual value it stays, whatever else changes; what is written now is without it."""
    now = Settings.from_mapping({"data": "x", "method": method}, "here")
    before = {name: value for name, value in asdict(now).items() if value is not None}
    found = Settings.from_mapping(before | {"schedule": "constant"}, "RUN/settings.toml")
    assert found == replace(now, schedule="constant")
    assert "folds" not in found.to_toml()
    assert "folds" not in found.shown()
    assert ("weights" in found.to_toml()) == (method == "finetune")
    with pytest.raises(UsageError, match="folds would do nothing"):
        Settings.from_mapping(before | {"folds": 4}, "RUN/settings.toml")


# What systems allow in paths: any bytes but NUL. A lone surrogate stands for a byte that is no UTF-8.
_paths = st.one_of(
    st.binary(min_size=1).filter(lambda name: b"\0" not in name).map(os.fsdecode),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
)


@options(deadline=None, max_examples=60)
@given(_paths, _paths, st.lists(_paths))
@example("photos-📷", "C:\\new\\u0041", ["\x7f", "\x1b[31m", "a\r\nb", '"', "\\", "\u2028", "\ue000", "'''", "#"])
@example("caf\udce9", "\udcff", ["📷\udce9"])
def test_any_names_are_read_back(data, weights, ignore):
    settings = Settings.from_mapping({"data": data, "weights": weights, "ignore": ignore}, "here")
    text = settings.to_toml()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "settings.toml")
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        assert Settings.from_toml(path) == settings
    assert tomllib.loads(text)["data"] == data


@pytest.mark.parametrize("method", ["probe", "finetune", "scratch"])
def test_all_kinds_of_values_are_read_back(tmp_path, method):
    changes = {"lr": 1e-05, "augment": "none", "speed": "compile", "time_budget": "20m"} if method != "probe" else {}
    settings = Settings.from_mapping({"data": "a", "method": method, "seed": 5, "precision": 1} | changes, "here")
    (tmp_path / "settings.toml").write_text(settings.to_toml())
    assert Settings.from_toml(tmp_path / "settings.toml") == settings

"""Which tests are near to a change, and how many of them fit."""

import affected
import pytest


def test_the_nearest_are_named_after_what_has_changed():
    near = affected.nearest(["src/vertebra/data/split.py"])
    assert min(near.values()) == near["tests/data/test_split.py"] == 0
    assert near["tests/train/test_probe.py"] > near["tests/data/test_dataset.py"] > 0
    assert "tests/models/test_parity.py" not in near


def test_a_changed_test_is_nearest_and_a_conftest_stands_for_its_folder():
    near = affected.nearest(["tests/data/test_table.py", "tests/report/conftest.py"])
    assert near["tests/data/test_table.py"] == 0
    assert {test for test, distance in near.items() if distance == 1} == {
        path.relative_to(affected.ROOT).as_posix() for path in (affected.ROOT / "tests/report").glob("test_*.py")
    }


def test_a_template_stands_for_its_room():
    assert affected.nearest(["src/vertebra/report/style.css"])["tests/report/test_charts.py"] == 1


@pytest.mark.parametrize(
    ("path", "test"),
    [
        ("src/vertebra/cli/models.py", "tests/cli/test_main.py"),  # imported by its name
        ("src/vertebra/cli/models.py", "tests/docs/test_blocks.py"),
        ("src/vertebra/model_table.json", "tests/test_model_table.py"),
        ("CONTRIBUTING.md", "tests/test_imports.py"),
        ("pyproject.toml", "tests/test_errors.py"),
        ("deploy/kubernetes.yaml", "tests/serve/test_deploy.py"),
        ("docs/guides/serving.md", "tests/serve/test_proxy.py"),
        ("tests/seconds.json", "tests/test_affected.py"),
    ],
)
def test_what_is_read_and_not_imported_has_its_tests(path, test):
    near = affected.nearest([path])
    assert test in near
    assert len(near) < 100


@pytest.mark.parametrize("path", ["src/vertebra/runtime/predictor.py", "src/vertebra/serve/new.py"])
def test_which_way_a_module_imports_is_tested_whatever_else_is(path, monkeypatch, capsys):
    monkeypatch.setattr(affected, "changed", lambda base: [path])
    monkeypatch.setattr(affected.sys, "argv", ["affected.py", "--list", "--budget", "0"])
    assert affected.main() == 0
    assert set(affected.OF_EVERY_MODULE) <= set(capsys.readouterr().out.splitlines())


def test_what_takes_too_long_is_left_out():
    near = {"tests/test_a.py": 0, "tests/test_b.py": 1, "tests/test_c.py": 2}
    seconds = {"tests/test_a.py": 30.0, "tests/test_b.py": 9.0, "tests/test_c.py": 1.0}
    long = {"tests/test_a.py::test_long": 26.0}
    assert affected.chosen(near, seconds, long, 60) == (list(near), [], 0)
    assert affected.chosen(near, seconds, long, 6) == (
        ["tests/test_a.py", "tests/test_c.py"], ["tests/test_a.py::test_long"], 1,
    )  # fmt: skip
    assert affected.chosen(near, seconds, {}, 6) == (["tests/test_a.py"], [], 2)  # the nearest always


def test_seconds_are_those_of_a_junit_file(tmp_path, monkeypatch):
    (tmp_path / "junit.xml").write_text(
        '<testsuites><testsuite><testcase classname="tests.data.test_split" name="test_x[1]" time="3"/>'
        '<testcase classname="tests.data.test_split" name="test_x[2]" time="2.04"/>'
        '<testcase classname="tests.data.test_split" name="test_y" time="0.5"/></testsuite></testsuites>'
    )
    monkeypatch.setattr(affected, "RECORD", tmp_path / "seconds.json")
    affected.record(tmp_path / "junit.xml")
    assert affected.json.loads((tmp_path / "seconds.json").read_text()) == {
        "files": {"tests/data/test_split.py": 5.5},
        "long": {"tests/data/test_split.py::test_x": 5.0},
    }

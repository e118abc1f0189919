"""JSON that any reader takes: null for NaN and infinity, everywhere a command writes it."""

import ast
import json
import math
from pathlib import Path

import numpy as np
import pytest

import vertebra
from vertebra.strict_json import dumps

SOURCE = Path(vertebra.__file__).parent


def strict(text):
    """The value, by a reader that refuses what is no JSON."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_what_is_no_number_is_null(value):
    text = dumps({"a": value, "rows": [(1.5, value)], "deep": {"b": [[value]]}})
    assert strict(text) == {"a": None, "rows": [[1.5, None]], "deep": {"b": [[None]]}}


def test_all_else_is_as_json_has_it():
    value = {"a": [1, 2.5, None, True, "NaN"], "b": ("x", {"c": -0.0})}
    assert dumps(value, indent=1) == json.dumps(value, indent=1)
    with pytest.raises(TypeError):
        dumps({"a": {1, 2}})


def test_the_commands_write_json_in_one_way_only():
    """`json.dumps` itself serves hashes, the cache and processes that talk to each other."""
    own = {"cache.py", "card.py", "export/prepare_network.py"}
    own |= {"model_checksum.py", "models/weight_reader.py", "runtime/autotune.py"}
    own |= {"runtime/resumed_rows.py", "runtime/run_record.py", "serve/api_errors.py", "serve/model_source.py"}
    own |= {"serve/loaded_model.py", "strict_json.py", "lab/result.py", "lab/result_cache.py"}
    own |= {
        "train/run_checkpoint.py",
        "train/run_folder.py",
        "train/settings_file.py",
        "train/train_settings.py",
        "weight_transfer.py",
    }
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dumps", "json.dump"):
                found.add(path.relative_to(SOURCE).as_posix())
    assert found <= own

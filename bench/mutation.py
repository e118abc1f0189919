"""Tests that could fail: small faults are put into modules one by one, and the tests of each module are to notice.

Run by hand, not by `make bench`: `python bench/mutation.py [FILE…]`, about ten minutes for all on two cores. Cosmic Ray
(https://cosmic-ray.readthedocs.io) makes the mutants; 40 of each file are drawn by a fixed seed, less those that change
an annotation alone, which nothing runs. They are written into a copy of the tree, never into this one. `--table` prints
the last results.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import _common

DRAWN = 40
SEED = 13
SOURCE = Path("src") / "vertebra"

# Module -> the tests that are to notice, the fastest that are enough; what follows a path are pytest's options.
DATASET = "tests/data/test_dataset.py"
TESTS: dict[str, list[str]] = {
    "cache.py": ["tests/test_cache.py"],
    "data/sqlite_cache.py": ["tests/data/test_sqlite_cache.py"],
    "data/class_folders.py": ["tests/data/test_class_folders.py", DATASET],
    "data/table.py": ["tests/data/test_table.py", DATASET],
    "sources/table_file.py": ["tests/data/test_table.py", DATASET],
    "data/folder_tree.py": ["tests/data/test_class_folders.py", DATASET],
    "data/table_paths.py": ["tests/data/test_table.py", DATASET],
    "data/table_splits.py": ["tests/data/test_table.py", DATASET],
    "data/table_columns.py": ["tests/data/test_table.py", "tests/data/test_class_folders.py", DATASET],
    "data/label_names.py": ["tests/data/test_table.py", "tests/data/test_class_folders.py", DATASET],
    "data/split.py": ["tests/data/test_split.py", DATASET],
    "data/duplicates.py": ["tests/data/test_duplicates.py"],
    "train/temperature.py": ["tests/train/test_temperature.py"],
    "train/thresholds.py": ["tests/train/test_thresholds.py"],
    "train/metrics.py": ["tests/train/test_metrics.py"],
    "train/linear_head.py": ["tests/train/test_linear_head.py"],
    "train/logistic_regression.py": ["tests/train/test_logistic_regression.py"],
    "train/fit.py": ["tests/train/test_fit.py"],
    "train/training_step.py": ["tests/train/test_training_step.py", "-k", "not 960"],
    "train/run_checkpoint.py": ["tests/train/test_run_checkpoint.py"],
    "serve/batcher.py": ["tests/serve/test_batcher.py"],
    "serve/batch_costs.py": ["tests/serve/test_batch_costs.py"],
    "serve/queue_limit.py": ["tests/serve/test_queue_limit.py"],
    "serve/loaded_model.py": ["tests/serve/test_loaded_model.py"],
    "serve/model_registry.py": ["tests/serve/test_model_registry.py"],
    "serve/model_source.py": ["tests/serve/test_model_source.py"],
    "runtime/predictor.py": [
        "tests/runtime/test_predictor.py",
        "-k",
        "not mnn and not spawned and not form and not torch",
    ],
    "runtime/engine_selection.py": ["tests/runtime/test_engine_selection.py"],
    "runtime/result_file.py": ["tests/runtime/test_result_file.py"],
    "runtime/resumed_rows.py": ["tests/runtime/test_result_file.py"],
    "runtime/run_record.py": ["tests/runtime/test_result_file.py"],
    "runtime/formats.py": ["tests/runtime/test_formats.py", "tests/runtime/test_result_file.py"],
    "model_checksum.py": ["tests/test_model_checksum.py"],
    "models/weight_reader.py": ["tests/models/test_weight_reader.py"],
    "models/unwrap.py": ["tests/models/test_unwrap.py", "tests/models/test_weight_reader.py"],
    "models/state_dict.py": ["tests/models/test_state_dict.py", "tests/models/test_weight_reader.py"],
    "serve/middleware.py": ["tests/serve/test_middleware.py"],
    "serve/image_decoding.py": ["tests/serve/test_image_decoding.py"],
}

# Survivors that no test can kill: what is in the mutant's line, and why nothing changes.
EQUIVALENT: dict[str, dict[str, str]] = {
    "runtime/predictor.py": {
        "self._loading( 0)": "no image is as one",
        "BATCH = 17": "photos of one call",
        "1 if batch == 1": "a batch has one image at least",
    },
    "runtime/result_file.py": {
        'suffix.lower() <= ".csv"': "the first of the three in the alphabet",
        "error.errno or 1": "neither number is of those with a cure",
        "error.errno or -1": "neither number is that of an error",
    },
    "runtime/resumed_rows.py": {
        "st_ctime) >= when": "two clocks that agree to the last digit",
        "size: int = 1": "of a file without rows it is not read",
    },
    "runtime/run_record.py": {"runs[max( -1,": "the first run begins with row 0"},
    "cache.py": {'os.name <= "nt"': "the names of systems are nt and posix"},
    "serve/batcher.py": {
        "len(jobs) != size": "it grows by one, from nothing, and the size is one at least",
    },
    "serve/middleware.py": {
        "time.perf_counter() % start": "the same for as long as the machine runs longer than an answer takes",
        'scope["type"] > "http"': "the other types of ASGI, lifespan and websocket, come after it in the alphabet",
    },
    "serve/model_registry.py": {
        "time.perf_counter() % start": "the same for as long as the machine runs longer than a model takes to load",
    },
    "data/class_folders.py": {
        "sorted(inside[ 1])": "the folders in them are the same",
        "len(inside[0]) != 1": "a folder that has photos, and none directly in it, has at least one folder",
        "if len(same) != 1": "the split itself is among those of its name",
        "if other is split": "the names of splits come from one table",
        "folder.filled[ -1]": "there is one alone",
        "inner.filled[ -1]": "there is one alone",
    },
    "data/duplicates.py": {
        "(code[once] // np.uint64(8))": "another hash of the pair",
        "(code[once] // np.uint64(42))": "another hash of the pair",
        "(code[once] ^ np.uint64(8))": "another hash of the pair",
        "_REMEMBERED = 2 << 22": "more memory, and fewer pairs that are compared twice",
    },
    "data/split.py": {"number <= test + val": "no number of 64 bits is exactly that"},
    "train/logistic_regression.py": {
        "(step, gradient_change)) != 0": "the loss is convex: the gradient never changes against the step",
        "1e-4 // step_size": "a step that lowers the loss at all is taken in place of one that lowers it a little",
    },
    "train/linear_head.py": {
        "place is not len(STRENGTHS)": "places are small numbers, and change by one",
    },
    "model_checksum.py": {"_PIECE = ": "the same digest, of other pieces"},
    "models/weight_reader.py": {
        "file.read( 513)": "a file is known by less than its first 511 bytes",
        "file.read( 511)": "a file is known by less than its first 511 bytes",
        'is "safetensors"': "both are the text of one line",
        '_kind_of(path) >= "torch"': "there are two kinds, and that one sorts last",
        "RuntimeError, CosmicRayTestingException, OSError": "no file is known of which a KeyError comes",
        "ValueError, CosmicRayTestingException, KeyError": "no file is known of which a RuntimeError comes",
        "KeyError, CosmicRayTestingException": "a file that cannot be read is refused before",
    },
    "models/unwrap.py": {
        'Candidate("", "", True': "only the names are looked at, for an error",
        "averaged[ -1]": "of several that differ there is one that is averaged, or they are refused",
        "different[ -1]": "where none is averaged there is one, or they are refused",
        "len(different) != 1": "there is one at least",
    },
    "train/training_step.py": {"targets, sizes), strict=False": "both are cut by the same sizes"},
    "train/fit.py": {
        "pin=is_on_gpu": "pinned memory is faster, and the same",
    },
    "train/thresholds.py": {
        "np.diff(confidence[order]) != 0": "confidences are in falling order",
        "expected, not 1.0)": "where no share is above 0 the last place is taken, which is allowed",
    },
}

# Imported before the first mutant, so that its process has them at once.
PRELOADED = (
    "numpy",
    "PIL.Image",
    "torch",
    "torchvision.transforms.v2",
    "safetensors.torch",
    "scipy.optimize",
    "scipy.special",
    "sklearn.linear_model",
    "sklearn.metrics",
    "pyarrow.parquet",
    "hypothesis",
    "fastapi",
    "uvicorn",
    "orjson",
    "prometheus_client",
    "onnx",
    "onnxruntime",
    "pytest",
)


def mutants(source: str) -> tuple[int, Iterator[tuple[str, str]]]:
    """How many Cosmic Ray makes of a file, and (operator, mutated source) of each, in an order of chance."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    tree = get_ast(source)
    found = []
    for name in sorted(operator_names()):
        kind = get_operator(name)
        if kind.arguments():
            continue
        count = sum(1 for node in ast_nodes(tree) for _ in kind().mutation_positions(node))
        found += [(name, occurrence) for occurrence in range(count)]
    random.Random(SEED).shuffle(found)
    unchanged = without_annotations(source)

    def made() -> Iterator[tuple[str, str]]:
        for name, occurrence in found:
            code = mutate_code(source, get_operator(name)(), occurrence)
            if code is not None and without_annotations(code) != unchanged:
                yield name, code

    return len(found), made()


def without_annotations(source: str) -> str | None:
    """What is run of a file; None where it is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None:
                setattr(node, name, None if name == "returns" or isinstance(node, ast.arg) else ast.Constant(None))
    return ast.dump(tree)


def run_tests(tree: Path, arguments: list[str], seconds: float | None, log: Path) -> str:
    """`"killed"`, `"survived"` or `"timed out"`: the tests in a process that is forked off this one."""
    child = os.fork()
    if not child:
        code = 3
        try:
            os.setsid()
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(descriptor, stream)
            code = _tests(tree, arguments)
        finally:
            os._exit(code)
    deadline = time.monotonic() + (seconds or 3600)
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timed out"


def _tests(tree: Path, arguments: list[str]) -> int:
    import pytest

    for name in [name for name in sys.modules if name.partition(".")[0] == "vertebra"]:
        del sys.modules[name]
    # For processes that tests start, too.
    os.environ["PYTHONPATH"] = str(tree / "src")
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(tree / "src")]
    os.chdir(tree)
    scratch = tree.parent / "scratch"
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={scratch}"]
    return int(pytest.main([*options, *arguments]))


def difference(source: str, mutated: str, file: str) -> str:
    lines = (text.splitlines() for text in (source, mutated))
    return "\n".join(difflib.unified_diff(*lines, file, file, n=1, lineterm=""))


def examine(tree: Path, file: str, drawn: int, last: dict[str, Any] | None) -> dict[str, Any]:
    """Put the file's mutants in its place one by one; of those that were examined before, the survivors alone."""
    path, log = tree / SOURCE / file, tree.parent / "log.txt"
    source = path.read_text(encoding="utf-8")
    start = time.monotonic()
    if run_tests(tree, TESTS[file], None, log) != "survived":
        sys.exit(f"{file}: its tests fail as it is:\n{log.read_text(errors='replace')[-3000:]}")
    seconds = time.monotonic() - start
    print(f"{file}: {seconds:.1f} s as it is", flush=True)
    generated, candidates = mutants(source)
    chosen = [(*made, difference(source, made[1], file)) for _, made in zip(range(drawn), candidates, strict=False)]
    outcomes = {"killed": 0, "timed out": 0, "equivalent": 0, "survived": 0}
    if last is not None:
        survived = [row["diff"] for row in last["survivors"]]
        chosen = [made for made in chosen if made[2] in survived]
        if len(chosen) != len(survived):
            sys.exit(f"{file} has changed since its mutants were drawn. Examine all of them, without --survivors.")
        outcomes |= {name: last[name] for name in ("killed", "timed out")}
    survivors = []
    try:
        for operator, mutated, diff in chosen:
            path.write_text(mutated, encoding="utf-8")
            outcome = run_tests(tree, TESTS[file], 20 + 5 * seconds, log)
            if outcome == "survived":
                added = "\n".join(line for line in diff.splitlines()[2:] if line.startswith("+"))
                reasons = [why for part, why in EQUIVALENT.get(file, {}).items() if part in added]
                outcome = "equivalent" if reasons else "survived"
                survivors.append(
                    {"operator": operator, "diff": diff, **({"equivalent": reasons[0]} if reasons else {})}
                )
                print(f"{outcome}: {operator}\n{diff}\n", flush=True)
            outcomes[outcome] += 1
            print(".", end="", flush=True)
    finally:
        path.write_text(source, encoding="utf-8")
    row = {"generated": generated, "drawn": sum(outcomes.values()), **outcomes}
    print(f"{file}: {row}", flush=True)
    return row | {"tests": TESTS[file], "survivors": survivors}


def render(document: dict[str, Any]) -> str:
    names = ["drawn", "killed", "timed out", "equivalent", "survived", "generated"]
    rows = [[file, *[row[name] for name in names]] for file, row in document["files"].items()]
    return _common.table(["file", *names], rows)


def rows_of(path: Path) -> dict[str, Any]:
    rows: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["files"] if path.is_file() else {}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"of {', '.join(TESTS)}; all without")
    parser.add_argument("--table", action="store_true", help="print the last results")
    parser.add_argument("--survivors", action="store_true", help="only those that survived the last time")
    parser.add_argument("-n", type=int, default=DRAWN, help="mutants of a file")
    settings = parser.parse_args()
    path = _common.RESULTS / "mutation.json"
    if not settings.table:
        files = [file.partition("src/vertebra/")[2] or file for file in settings.files] or list(TESTS)
        if unknown := set(files) - set(TESTS):
            parser.error(f"{sorted(unknown)[0]} has no tests in the table; known are {', '.join(TESTS)}")
        for name in PRELOADED:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        with tempfile.TemporaryDirectory() as folder:
            tree = Path(folder, "work", "tree")
            left_out = shutil.ignore_patterns(".*", "node_modules", "__pycache__", "results", "runs", "build", "dist")
            shutil.copytree(_common.ROOT, tree, ignore=left_out)
            for file in files:
                row = examine(tree, file, settings.n, rows_of(path)[file] if settings.survivors else None)
                # Read again each time: another run may have examined other files meanwhile.
                rows = rows_of(path) | {file: row}
                kept = {file: rows[file] for file in TESTS if file in rows}
                _common.write("mutation", ("cosmic-ray", "pytest"), {"seed": SEED, "files": kept})
    print(render(json.loads(path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()

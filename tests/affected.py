"""Run the tests nearest to what has changed, as many as fit a minute: `python tests/affected.py`, or `make check`.

Changed is what differs from the branch's base (origin/main, or main) and what git does not know yet; on main without
changes, the last commit. Nearest are the changed tests themselves, then the tests named after a changed module, then
those that import it, then those that import what imports it; of other files, the tests that name them. Those over all
modules' imports and first lines run with any module. How long each takes is in seconds.json beside this file, which
`python tests/affected.py --record build/junit.xml` writes after `pytest -n 2 --junitxml build/junit.xml`.

This needs no data base of earlier runs, so it works in a fresh clone; what it leaves out, `make test` runs.
"""

from __future__ import annotations

import argparse
import ast
import heapq
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "vertebra"
RECORD = Path(__file__).with_name("seconds.json")
BUDGET = 80.0  # seconds of tests, by the record; two processes share them
FAR = 3  # imports from a changed module to a test; what is behind more is everything
LONG = 4.0  # seconds from which a test is left out of a file that does not fit as a whole
UNKNOWN = 2.0  # seconds of a file that the record lacks
# Of every module: which way it imports, and what CONTRIBUTING.md says of it.
OF_EVERY_MODULE = tuple(
    f"tests/test_imports.py::{name}"
    for name in ("test_imports_flow_one_way", "test_contributing_has_the_rooms_of_today")
)


# --- what has changed -------------------------------------------------------------------------------------------------


def git(*arguments: str) -> list[str]:
    """Lines of git's answer; none where it fails, as for a branch that is not there."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else []


def changed(base: str | None) -> list[str]:
    """Paths below the root, by / whatever the system."""
    new = git("ls-files", "--others", "--exclude-standard")
    for reference in [base] if base else ["origin/main", "main"]:
        if start := git("merge-base", "HEAD", reference):
            found = git("diff", "--name-only", start[0])
            if found or new or base:
                return sorted({*found, *new})
    return sorted({*git("diff", "--name-only", "HEAD~1"), *new})


# --- which tests are near ---------------------------------------------------------------------------------------------


def module_of(path: str) -> str:
    """src/vertebra/data/split.py → vertebra.data.split"""
    parts = Path(path).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, module: str) -> Iterator[str]:
    """Modules of ours that this file imports, wherever in it."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "vertebra")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [base])])
            if base.split(".")[0] == "vertebra":
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


def named_after(test: str) -> Iterator[str]:
    """tests/data/test_split.py → vertebra.data.split and vertebra.data._split"""
    *folders, name = Path(test).with_suffix("").parts[1:]
    for prefix in ("", "_"):
        yield ".".join(["vertebra", *folders, prefix + name.removeprefix("test_")])


@cache
def graph() -> tuple[set[str], dict[str, set[str]], dict[str, set[str]], dict[str, set[str]]]:
    """Modules; module → modules that import it; module → tests that do; module → tests that are named after it."""
    modules = {module_of(p.relative_to(ROOT).as_posix()): p for p in SOURCE.rglob("*.py")}
    importers: dict[str, set[str]] = defaultdict(set)
    for module, path in modules.items():
        for other in imported(path, module):
            if other in modules and other != module:
                importers[other].add(module)
    for command in (SOURCE / "cli").glob("[a-z]*.py"):  # imported by its name when it is invoked
        importers[f"vertebra.cli.{command.stem}"].add("vertebra.cli._app")
    tests = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")]
    readers: dict[str, set[str]] = defaultdict(set)
    namesakes: dict[str, set[str]] = defaultdict(set)
    for test in tests:
        for other in imported(ROOT / test, "tests"):
            readers[other].add(test)
        for other in named_after(test):
            namesakes[other].add(test)
    return set(modules), importers, readers, namesakes


def nearest(paths: Iterable[str]) -> dict[str, int]:
    """Test files → how far from the changed paths.

    0: the same, or named after it; 1: imports it, or is of its room's folder and imports what imports it; 2 and so on.
    """
    modules, importers, readers, namesakes = graph()
    tests = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")]
    texts = {test: (ROOT / test).read_text("utf-8") for test in tests}
    rooms = set()
    found: dict[str, int] = {}

    def reached(test: str, distance: int) -> None:
        found[test] = min(distance, found.get(test, distance))

    waiting: list[tuple[int, str]] = []
    for path in paths:
        if path in tests:
            reached(path, 0)
        elif path in ("tests/affected.py", "tests/seconds.json"):
            reached("tests/test_affected.py", 0)
        elif path.startswith("tests/"):  # a fixture, or data of tests: those of its folder
            for test in tests:
                if test.startswith(path.rpartition("/")[0] + "/"):
                    reached(test, 1)
        elif path.startswith("src/vertebra/"):
            rooms.add(path.split("/")[2])
            if path.endswith(".py"):
                waiting.append((0, module_of(path)))
            else:  # a template or another file that the modules of its room read, or one at the top
                room = path.split("/")[2]
                own = [file for file in SOURCE.glob("*.py") if f'"{room}"' in file.read_text("utf-8")]
                waiting += [(1, module) for module in modules if module.split(".")[1:2] == [room]]
                waiting += [(1, f"vertebra.{file.stem}") for file in own]
        else:
            if path.startswith("docs/"):
                reached("tests/docs/test_blocks.py", 1)
            for test, text in texts.items():
                if Path(path).name in text:
                    reached(test, 1)
    seen: set[str] = set()
    heapq.heapify(waiting)
    while waiting:
        distance, module = heapq.heappop(waiting)
        if module in seen:
            continue
        seen.add(module)
        for test in namesakes[module]:
            reached(test, distance)
        for test in readers[module]:
            reached(test, distance + 1)
        for other in importers[module]:
            heapq.heappush(waiting, (distance + 1, other))
    near = {test: min(distance, 1) if test.split("/")[1] in rooms else distance for test, distance in found.items()}
    return {test: distance for test, distance in near.items() if distance <= FAR and (ROOT / test).is_file()}


# --- how many fit -----------------------------------------------------------------------------------------------------


def chosen(
    near: dict[str, int], seconds: dict[str, float], long: dict[str, float], budget: float
) -> tuple[list[str], list[str], int]:
    """What pytest is given: files, tests to leave out of them; and how many near files are left out.

    The nearest come first, among them the shortest. Of a file that does not fit its long tests are left out.
    """
    files, deselected, left_out = [], [], 0
    for test, distance in sorted(near.items(), key=lambda item: (item[1], seconds.get(item[0], UNKNOWN), item[0])):
        takes = seconds.get(test, UNKNOWN)
        without: list[str] = []
        if takes > budget:
            without = [name for name in long if name.partition("::")[0] == test]
            takes -= sum(long[name] for name in without)
        if takes <= budget or (distance == 0 and not files):
            files.append(test)
            deselected += without
            budget -= takes
        else:
            left_out += 1
    return files, deselected, left_out


def record(report: Path) -> None:
    """Write down how long each file and each long test took, in setup, call and teardown, by pytest's JUnit file."""
    files: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        path = case.attrib["classname"].replace(".", "/") + ".py"
        takes = float(case.attrib["time"])
        files[path] += takes
        functions[f"{path}::{case.attrib['name'].partition('[')[0]}"] += takes
    long = {name: round(takes, 1) for name, takes in sorted(functions.items()) if takes >= LONG}
    found = {"files": {path: round(takes, 1) for path, takes in sorted(files.items())}, "long": long}
    RECORD.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the tests nearest to what has changed.")
    parser.add_argument("--base", help="the commit or branch to compare with; else origin/main, or main")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds of tests, shared by the processes")
    parser.add_argument("--list", action="store_true", help="say which, and run none")
    parser.add_argument("--record", type=Path, metavar="JUNIT", help="write seconds.json from pytest's --junitxml file")
    parser.add_argument("--workers", default="2", help="test processes")
    options = parser.parse_args()
    if options.record:
        record(options.record)
        return 0
    known = json.loads(RECORD.read_text("utf-8")) if RECORD.is_file() else {"files": {}, "long": {}}
    paths = changed(options.base)
    files, deselected, left_out = chosen(nearest(paths), known["files"], known["long"], options.budget)
    if any(path.startswith("src/vertebra/") and path.endswith(".py") for path in paths):
        files += [test for test in OF_EVERY_MODULE if test.partition("::")[0] not in files]
    if not files:
        sys.stdout.write("No test is near to what has changed.\n")
        return 0
    more = f"; {left_out} more files are less near or take longer: make test" if left_out else ""
    count = len({test.partition("::")[0] for test in files})
    sys.stdout.write(f"{count} test file{'s are' if count > 1 else ' is'} nearest to what has changed{more}.\n")
    sys.stdout.flush()
    command = [sys.executable, "-m", "pytest", "-q", "-n", options.workers, "--dist", "worksteal", *files]
    command += [f"--deselect={name}" for name in deselected]
    if options.list:
        sys.stdout.write("\n".join([*files, *(f"without {name}" for name in deselected)]) + "\n")
        return 0
    code = subprocess.run(command, cwd=ROOT).returncode
    return 0 if code == 5 else code  # 5: all of them are marked slow


if __name__ == "__main__":
    sys.exit(main())

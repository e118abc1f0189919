"""`FILE.py:FUNCTION` or `package.module:FUNCTION` → the network that the function returns.

This runs Python code: the file or module that the user has named, and nothing else. No command searches for code, and
no model file refers to any.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from vertebra.errors import UsageError, VertebraError, first_line, import_problem, suggest


def call(source: str, function: str) -> Any:
    """Run the code, call the function without arguments and return its `torch.nn.Module`.

    Its output goes to stderr, since standard output is the command's. As with `python FILE.py` and `python -m`, imports
    search the file's folder, or for a module the working folder, first; `sys.argv` holds only the source. A file of a
    package may use relative imports.

    Raises:
        UsageError: no such file, module or function; it needs arguments, or returns something else.
        VertebraError: the code cannot be read, or raises an exception.
    """
    named = f"{source}:{function}"
    path = Path(source) if source.lower().endswith(".py") else None
    place = Path.cwd() if path is None else path.parent
    root = place if path is None else _package_of(path)[1]
    with _as_script(source, place, root):
        code = _import_module(source) if path is None else _run_file(path)
        made: Any = code
        for part in function.split("."):
            if not hasattr(made, part):
                raise UsageError(
                    f"{source} has no function {function!r}. {_suggest_functions(function, code)}".rstrip()
                )
            made = getattr(made, part)
        if not _is_module(made):
            if not callable(made):
                raise UsageError(
                    f"{named} is of type {type(made).__name__}, not a function that returns a torch.nn.Module."
                )
            _check_callable_without_arguments(made, named)
            with _one_line_errors(named):
                made = made()
    if not _is_module(made):
        hint = " Return its network alone." if isinstance(made, tuple | list | dict) else ""
        raise UsageError(
            f"{named} returns an object of type {type(made).__name__}; it must return a torch.nn.Module.{hint}"
        )
    return made


def functions_in(path: Path) -> list[str]:
    """The functions and classes that a file of Python code defines; it is read, not run."""
    try:
        parsed = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node.name for node in parsed.body if isinstance(node, kinds) and not node.name.startswith("_")]


def _run_file(path: Path) -> ModuleType:
    """Run a file as a new module, without reading or writing bytecode beside it."""
    # Under its own name, so that a module that it imports can import it, unless that is another's.
    name = path.stem if path.stem.isidentifier() and path.stem not in sys.modules else f"_vertebra_{len(sys.modules)}"
    module = ModuleType(name)
    module.__file__ = str(path)
    if package := _package_of(path)[0]:
        module.__package__ = package
    sys.modules[name] = module
    try:
        with _one_line_errors(str(path)):
            exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)  # noqa: S102 - asked for
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _package_of(path: Path) -> tuple[str, Path]:
    """The package that a file is in (folders with an `__init__.py`), "" for none, and the folder to import it from."""
    names: list[str] = []
    folder = path.absolute().parent
    while folder.name.isidentifier() and (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    if not names:
        return "", path.parent
    loaded = sys.modules.get(names[0])
    if loaded is not None and str(folder / names[0]) not in getattr(loaded, "__path__", ()):
        return "", path.parent  # of that name another is in use, as of a folder `torch`
    return ".".join(names), folder


def _import_module(name: str) -> ModuleType:
    """Import a module by its dotted name; a `UsageError` if it does not exist."""
    importlib.invalidate_caches()
    with _one_line_errors(name):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if name != missing and not name.startswith(f"{missing}."):
                raise
    parent, _, last = missing.rpartition(".")
    places = getattr(sys.modules.get(parent), "__path__", []) if parent else [sys.path[0]]
    hint = suggest(last, [found.name for found in pkgutil.iter_modules(places)])
    raise UsageError(
        f"there is no module {missing!r} to import, looked for from {Path.cwd()}. {hint} The function of a file is "
        "written FILE.py:NAME.".replace("  ", " ")
    )


def _check_callable_without_arguments(function: Callable[..., Any], named: str) -> None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of some that are written in C
        return
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in variable]
    if needed:
        raise UsageError(
            f"{named} needs {' and '.join(needed)}, and is called without arguments. Give "
            f"{'them defaults' if needed[1:] else 'it a default'}, or name a function that needs none."
        )


def _suggest_functions(function: str, code: ModuleType) -> str:
    """The hint for a function that a module does not have: the nearest name, or the first ones."""
    own = [
        name
        for name, value in vars(code).items()
        if not name.startswith("_")
        and (_is_module(value) or (callable(value) and getattr(value, "__module__", None) == code.__name__))
    ]
    return suggest(function, own) or (f"It has {', '.join(own[:5])}{', …' if len(own) > 5 else ''}." if own else "")


def _is_module(value: Any) -> bool:
    """Whether it is a `torch.nn.Module`; without torch there can be none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


@contextmanager
def _as_script(source: str, *folders: Path) -> Iterator[None]:
    """Inside, `sys.argv` is the source alone, imports look in the folders first, and what is printed goes to stderr.

    Afterwards imports look there last, for what the code imports later. Not first for good: a file `random.py` beside
    the network must not stand for Python's in Vertebra's own imports.
    """
    kept, sys.argv = sys.argv, [source]
    added = [str(folder.absolute()) for folder in folders]
    sys.path[:0] = added
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.argv = kept
        for folder in added:
            sys.path.remove(folder)
            if folder not in sys.path:
                sys.path.append(folder)


@contextmanager
def _one_line_errors(what: str) -> Iterator[None]:
    """Turn what the code raises into a one-line `VertebraError`: the error and its location in the code."""
    try:
        yield
    except VertebraError as error:
        raise VertebraError(f"{what}: {error}") from error
    except SyntaxError as error:
        raise VertebraError(
            f"{error.filename or what}, line {error.lineno}: {error.msg}. Fix the code and run the command again."
        ) from error
    except (Exception, SystemExit) as error:
        if (missing := import_problem(error, what, "torch")) is not None:
            raise missing from error
        line = _error_location(error)
        reason = f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__
        raise VertebraError(f"{what} raises {reason}{line}. With --debug the traceback is shown.") from error


def _error_location(error: BaseException) -> str:
    """Where the error arose in the user's code: the last frame outside Vertebra and installed packages."""
    others = ("<frozen", str(Path(__file__).parent), str(Path(inspect.__file__).parent))  # the last is Python's own
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith(others)]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""

"""Compile this package's C sources for this processor, once, into the cache.

Like torch's own compiler this needs a C compiler (GCC) on the machine, but it takes about 5 s instead of minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from vertebra.cache import cache_dir, checksum, creation_lock, read_sidecar, scratch_dir, write_sidecar
from vertebra.files import atomic_write
from vertebra.machine import usable_cores

SOURCES = tuple(sorted(Path(__file__).parent.glob("*.[ch]")))
# Without -ffast-math: NaN must stay NaN, so that a run that diverges is noticed. With jumps threaded, the limits of exp
# become a second division, and SiLU takes twice as long.
_FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-fno-thread-jumps", "-fPIC")
_SECONDS = 120.0


class KernelError(Exception):
    """There is no library, and why; says what would have to be there."""


def compiled_library() -> Path:
    """Return the compiled library, from the cache if it is there.

    Raises:
        KernelError: no compiler is installed, it fails, or torch's threads cannot be shared.
    """
    compiler = _compiler()
    openmp = _loaded_openmp()
    key = checksum(*(source.read_bytes() for source in SOURCES), *_FLAGS, compiler, openmp, _instructions()).hex()
    path = cache_dir() / "kernels" / f"{key}.so"
    if read_sidecar(path, thorough=True) is None:
        with creation_lock(path):
            if read_sidecar(path, thorough=True) is None:
                path = _compile(compiler, openmp, path)
    return path


def _compile(compiler: str, openmp: str, path: Path) -> Path:
    try:
        with atomic_write(path) as temporary:
            _run_compiler(compiler, openmp, temporary)
    except OSError:  # a read-only cache
        path = scratch_dir() / path.name
        _run_compiler(compiler, openmp, path)
        return path
    write_sidecar(path, {})
    return path


def _run_compiler(compiler: str, openmp: str, target: Path) -> None:
    """Link torch's own OpenMP library: with a second one, each would have threads that wait while the other works."""
    code = [str(source) for source in SOURCES if source.suffix == ".c"]
    with tempfile.TemporaryDirectory(prefix="vertebra-") as folder:
        with ThreadPoolExecutor(usable_cores()) as pool:
            list(pool.map(lambda source: _run([compiler, *_FLAGS, "-fopenmp", "-c", source], folder), code))
        objects = [Path(source).with_suffix(".o").name for source in code]
        _run([compiler, "-shared", *objects, openmp, "-lm", "-Wl,--no-undefined", "-o", str(target.absolute())], folder)


def _run(command: list[str], folder: str) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - the user's compiler, on this package's sources
            command, cwd=folder, timeout=_SECONDS, capture_output=True, text=True, errors="replace", check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"{command[0]} did not run ({error})") from error
    if done.returncode:
        lines = done.stderr.splitlines() or [f"exit status {done.returncode}"]
        line = next((line for line in lines if "error" in line), lines[0])
        raise KernelError(f"{command[0]} failed ({line.strip()})")


def _compiler() -> str:
    if sys.platform != "linux":
        raise KernelError("only on Linux are there kernels of our own")
    named = os.environ.get("CC")
    for name in (named, "gcc", "cc"):
        if name and (found := shutil.which(name)):
            return found
    raise KernelError("no C compiler (gcc) is installed")


def _loaded_openmp() -> str:
    """Return the OpenMP library of torch, which must be imported; scikit-learn and MNN load one of their own each."""
    with Path("/proc/self/maps").open(encoding="utf-8", errors="surrogateescape") as lines:
        found = {Path(line.split(maxsplit=5)[5].strip()) for line in lines if "libgomp" in line}
    own = {path for path in found if path.is_relative_to(Path(torch.__file__).parent)} or found
    if len(own) != 1:
        raise KernelError("torch here does not use GCC's OpenMP library" if not own else "there are two of OpenMP")
    return str(own.pop())


def _instructions() -> str:
    """Return the instruction sets of this processor: machines that share a cache may differ."""
    with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")

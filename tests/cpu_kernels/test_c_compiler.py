"""Compiling: where there is no compiler, or a bad one, and what the cache keeps."""

import os
import stat
import subprocess
import sys

import pytest

pytest.importorskip("torch")
from vertebra.cpu_kernels import KernelError, c_compiler
from vertebra.cpu_kernels.c_compiler import compiled_library


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)


def compiler_of(path, script):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KernelError, match=r"^no C compiler \(gcc\) is installed$"):
        compiled_library()


def test_a_compiler_that_fails(monkeypatch, tmp_path):
    script = "echo 'x.c:3: error: no such thing' >&2; exit 1"
    monkeypatch.setenv("CC", compiler_of(tmp_path / "badcc", script))
    with pytest.raises(KernelError, match=r"badcc failed \(x\.c:3: error: no such thing\)$"):
        compiled_library()
    assert not list(tmp_path.glob("cache/**/*.so"))


def test_a_compiler_that_fails_without_a_word(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", compiler_of(tmp_path / "mutecc", "exit 3"))
    with pytest.raises(KernelError, match=r"mutecc failed \(exit status 3\)$"):
        compiled_library()


def test_a_compiler_that_hangs(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", compiler_of(tmp_path / "slowcc", "exec sleep 60"))
    monkeypatch.setattr(c_compiler, "_SECONDS", 0.1)
    with pytest.raises(KernelError, match=r"slowcc did not run .*timed out"):
        compiled_library()


@pytest.fixture
def counting_compiler(monkeypatch, tmp_path):
    """A compiler that links nothing but a line of text; its runs so far."""
    log = tmp_path / "log"
    script = f'echo "$@" >> {log}; while [ $# -gt 1 ]; do [ "$1" = -o ] && echo made > "$2"; shift; done'
    monkeypatch.setenv("CC", compiler_of(tmp_path / "fakecc", script))
    return lambda: [line for line in log.read_text().splitlines() if "-shared" in line]


def test_the_cache_keeps_the_library(counting_compiler):
    path = compiled_library()
    assert compiled_library() == path
    assert len(counting_compiler()) == 1
    assert "libgomp" in counting_compiler()[0]


def test_a_damaged_library_is_compiled_again(counting_compiler):
    path = compiled_library()
    path.write_text("damaged")
    with pytest.warns(UserWarning, match="damaged"):
        assert compiled_library() == path
    assert path.read_text() == "made\n"
    assert len(counting_compiler()) == 2


def test_another_processor_has_a_library_of_its_own(counting_compiler, monkeypatch):
    first = compiled_library()
    monkeypatch.setattr(c_compiler, "_instructions", lambda: "avx2")
    assert compiled_library() != first


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written(counting_compiler, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o500)
    path = compiled_library()
    assert path.exists()
    assert tmp_path not in path.parents


@pytest.mark.slow
def test_torchs_threads_are_shared(kernels):
    """Another OpenMP library has threads of its own, which wait for work while torch's do theirs."""
    code = """
import sys
import sklearn.linear_model, torch  # each brings an OpenMP library
from vertebra.cpu_kernels.compiled_functions import library
def loaded():
    with open("/proc/self/maps") as lines:
        return {line.split()[-1] for line in lines if "gomp" in line}
before = loaded()
library()
assert len(before) == 2, before
assert loaded() == before, loaded()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

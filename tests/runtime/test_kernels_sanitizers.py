"""The kernels in C, built with the checks of the address, undefined-behaviour and thread sanitisers.

The library is the one that CMakeLists.txt builds, with GCC's options added. Sanitisers do not see what inline assembly
reads, so images also end at a page that may not be read.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from installed import needs

from vertebra.card import Preprocessing
from vertebra.runtime.engine import OUTPUTS
from vertebra.synthetic_photos import synthetic_photos

needs("torch")
ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "kernels"
DRIVER = ROOT / "tests" / "sanitized_kernels.py"
NETWORKS = ("mobilenet_v2", "efficientnet_lite0", "efficientnet_b0", "efficientnet_v2_s")
INT8 = ("mobilenet_v2", "efficientnet_lite0")  # where the processor has AVX-512 with VNNI
SIZES = (64, 97)
SANITIZERS = {"address,undefined": "libasan.so", "thread": "libtsan.so"}
OPTIONS = {
    # Python itself leaks; of a report only what is the library's counts.
    "ASAN_OPTIONS": "detect_leaks=1:verify_asan_link_order=0:allocator_may_return_null=1",
    "LSAN_OPTIONS": "exitcode=0:report_objects=0",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:report_signal_unsafe=0",
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the kernels are built on Linux alone"),
    pytest.mark.skipif(not all(map(shutil.which, ("cmake", "gcc"))), reason="no compiler (apt-get install cmake gcc)"),
]


@pytest.fixture(scope="module")
def networks(tmp_path_factory, tiny_names):
    """Exported networks of two sizes, with images and ONNX Runtime's outputs."""
    import onnxruntime
    import torch

    from vertebra import create_model
    from vertebra.export import Calibration, export

    folder = tmp_path_factory.mktemp("networks")
    for name in NETWORKS:
        for size in SIZES:
            torch.manual_seed(0)
            with tiny_names():
                network = create_model(name)
            images = synthetic_photos(9, size)
            forms = {"float32": {}}
            if name in INT8 and "avx512_vnni" in Path("/proc/cpuinfo").read_text():
                forms["int8"] = {"calibration": Calibration(synthetic_photos(30, size)), "force": True}
            for form, options in forms.items():
                path = folder / f"{name}-{size}-{form}.onnx"
                export(network, path, architecture=name, preprocessing=Preprocessing(size, size), **options)
                session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
                right = dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"image": images}), strict=True))
                np.savez(path.with_suffix(".npz"), images=images, **right)
    return folder


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """`build(sanitizer)`: a folder with the package, whose library has that sanitizer's checks; built once."""
    made = {}

    def get(sanitizer):
        if sanitizer not in made:
            folder = tmp_path_factory.mktemp("package")
            # Optimised, the unrolled loops would take minutes to compile.
            flags = f"-g -O0 -fno-omit-frame-pointer -fno-sanitize-recover=all -fsanitize={sanitizer}"
            settings = ["-DCMAKE_BUILD_TYPE=None", f"-DCMAKE_C_FLAGS={flags}", "-DCMAKE_C_COMPILER=gcc"]
            where = folder / "build"
            for command in (["-S", SOURCE, "-B", where, *settings], ["--build", where, "--parallel"]):
                done = subprocess.run(["cmake", *command], capture_output=True, text=True)
                assert done.returncode == 0, done.stdout + done.stderr
            package = shutil.copytree(SOURCE / "vertebra_kernels", folder / "vertebra_kernels")
            (library,) = where.rglob("*vertebra_kernels*.so")
            shutil.copy(library, package)
            made[sanitizer] = folder
        return made[sanitizer]

    return get


def run(task, folder, package, sanitizer):
    """Run a task of `sanitized_kernels.py` with the sanitiser's runtime in the process."""
    found = subprocess.run(["gcc", f"-print-file-name={SANITIZERS[sanitizer]}"], capture_output=True, text=True)
    runtime = found.stdout.strip()
    if not Path(runtime).is_absolute():
        pytest.skip(f"no {SANITIZERS[sanitizer]} (apt-get install libgcc-12-dev)")
    environment = {
        **os.environ,
        **OPTIONS,
        "LD_PRELOAD": runtime,
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(package), str(ROOT / "src")]),
    }
    # The thread sanitiser of GCC 12 needs addresses where it expects them.
    command = ["setarch", "-R", sys.executable, DRIVER, task, folder]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)


def require_clean(done):
    """Nothing is reported but what Python itself leaks."""
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[:5000]
    assert "ERROR: AddressSanitizer" not in done.stderr, done.stderr[:5000]
    assert [part for part in done.stderr.split("\n\n") if re.search(r"\bvk_|kernels/src|_kernels\.so", part)] == []


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_all_that_is_computed(build, networks, sanitizer):
    done = run("run", networks, build(sanitizer), sanitizer)
    require_clean(done)
    assert {line.split()[0] for line in done.stdout.splitlines()} == {path.stem for path in networks.glob("*.onnx")}


def test_damaged_packed_forms(build, networks):
    sanitizer = "address,undefined"
    done = run("damage", networks, build(sanitizer), sanitizer)
    require_clean(done)
    assert all(int(line.split()[1]) > 100 for line in done.stdout.splitlines())


def test_resizing(build, tmp_path):
    sanitizer = "address,undefined"
    done = run("resize", tmp_path, build(sanitizer), sanitizer)
    require_clean(done)
    assert done.stdout == "60 sizes\n"

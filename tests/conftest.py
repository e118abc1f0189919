"""What every test may rely on, and what is made once for all of them.

- `write_model(path, …)`, `tiny_model`: an ONNX file of one convolution with its card, made without torch.
- `tiny_network(family, …)`: a network of 10,000 to 250,000 parameters that is built from the family's own classes, for
  pictures of 32 pixels and more. `tiny_family` runs a test once for each of the six families.
- `tiny_registry`: for the time of one test `resnet18`, `vgg11` and so on are these, by name, in this process (but for
  published weights, as of efficientnet_lite0); so a command that takes the name of a network trains, exports or
  profiles one in no time. `tiny_module` does so for all tests of a module. `tiny_command` is the path of a
  script that is `vertebra` with these names, for tests that need a process.
- `tiny_export`: the path of such a network, exported with its card (five classes, 32 pixels).
- `tiny_run`: the folder of a finished training run of such a network on `tiny_photos`, three class folders of twelve
  pictures each; to be read only. Both hold what the commands write: card, report, table, weights, `model.onnx`.
- `taken(name, size=None)`: the anatomy of a network of ours, made once; `of_family` is the name of one of each family.
- `once(name, make)`: `make(folder)` is called once in a run of the suite, whichever process comes first, and the folder
  comes back. For what takes longer than a second to make and is only read.
- `kernels`: the compiled kernels of `cpu_kernels`; a test that needs them is skipped where there is no C compiler.
- `s3`: a bucket of the test's own on a server at 127.0.0.1, with the variables that lead there (s3_server.py).
- `shared_photos`, `browser`: real photos and Chromium; tests that need them are skipped where they are missing.
- `vertebra(…)`: the command line in this process; its exit code and output come back.

A folder's own conftest.py has more: `run`, a finished training run (train); `client`, a running server (serve).
"""

import contextlib
import gc
import importlib
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3_server as s3_servers
import tiny

from vertebra import model_table

# Set before torch is imported: the suite runs in several processes, and each of them taking all cores is slower.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A suite that is started in the background or under nohup ignores these, and so would all that its tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The first, which has no windows to paint, does with 40 % of the others' CPU time.
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
SHARED = Path(__file__).parents[2] / "shared" / "data"


# --- what is skipped -------------------------------------------------------------------------------------------------

# Reasons that are no fault of the set-up; with CI=true any other skipped test makes the run fail.
MAY_BE_MISSING = (
    "needs a GPU", "no photos in", "root may", "ncnn is not installed", "no kernels here: no C compiler",
)  # fmt: skip


def _skipped(config):
    """Reason -> how many tests, of those that were skipped."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):
        return Counter()
    # (file, line, "Skipped: reason")
    return Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reporter.stats.get("skipped", ()))


@pytest.hookimpl(tryfirst=True)  # before that of Hypothesis
def pytest_collection_modifyitems() -> None:
    """Hypothesis reads values from the source of all imported modules: seconds, and other ones beside other tests."""
    if providers := sys.modules.get("hypothesis.internal.conjecture.providers"):
        providers._get_local_constants = lambda: providers._local_constants


def pytest_collection_finish(session):
    """Garbage is collected less often, and not looked for in what was imported: a tenth of the CPU time.

    Of modules, rows and graphs there are many, and nearly all are freed without it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000)


def pytest_sessionfinish(session):
    """Where everything was to be installed, a skipped oracle is a failure."""
    unexpected = [reason for reason in _skipped(session.config) if not reason.startswith(MAY_BE_MISSING)]
    if unexpected and os.environ.get("CI") == "true":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        sys.stderr.write(f"\nSkipped, which CI=true forbids: {'; '.join(unexpected)}\n")


def pytest_unconfigure(config):
    """The last line says what was not tested, so that green is not taken for more than it is."""
    skipped = _skipped(config)
    if skipped and os.environ.get("CI") != "true":
        reasons = "; ".join(f"{count} × {reason}" for reason, count in skipped.most_common())
        sys.stdout.write(f"Not tested here: {reasons}\n")


# --- coverage --------------------------------------------------------------------------------------------------------

# Python 3.11 runs at half its speed while lines are counted, in torch's code as in ours. The tests of a file run much
# the same lines, and so do the cases of a test, so these are counted until they have taken this much CPU time in a
# process; what is reported is a lower bound.
COUNTED_SECONDS_OF_A_TEST = 0.2
COUNTED_SECONDS_OF_A_FILE = 3.0
_counted = Counter()  # file and parametrised test -> seconds of CPU that they took in this process
# What the tests import from elsewhere, most of it.
UNCOUNTED = (
    "torch", "torchvision", "timm", "onnx", "onnxruntime", "sklearn.linear_model", "pandas", "matplotlib.pyplot",
    "hypothesis", "fastapi", "uvicorn", "rich", "typer",
)  # fmt: skip


def pytest_configure(config):
    """In several processes, let no lines be counted but by pytest-cov's second collector, which starts hereafter.

    Its first counts for nobody, as well where the second pauses. What is imported before is not counted.
    """
    counter = _line_counter(config)
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    if counter is not None and (is_worker or config.getoption("numprocesses", None)):
        counter.cov.stop()
        for name in UNCOUNTED if is_worker else ():
            with contextlib.suppress(ImportError):
                importlib.import_module(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Count the lines of a test and its fixtures while there is time left for its file and its other cases."""
    counter = _line_counter(item.config)
    test = item.nodeid.partition("[")[0]
    file = test.partition("::")[0]
    spent = _counted[file] > COUNTED_SECONDS_OF_A_FILE or _counted[test] > COUNTED_SECONDS_OF_A_TEST
    # Of a test that is marked so, pytest-cov pauses the counting itself, and goes on after it.
    paused = spent and counter is not None and item.get_closest_marker("no_cover") is None
    if paused:
        counter.pause()
    before = time.process_time()
    try:
        return (yield)
    finally:
        took = time.process_time() - before
        _counted[file] += took
        if hasattr(item, "callspec"):
            _counted[test] += took
        if paused:
            counter.resume()


def _line_counter(config):
    """What counts lines for pytest-cov; None with --no-cov."""
    return getattr(config.pluginmanager.getplugin("_cov"), "cov_controller", None)


# --- fixtures --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared_photos() -> list[Path]:
    """100 photos of ImageNet, the n-th of class 10·n; skips where the folder is missing."""
    photos = sorted((SHARED / "imagenet-photos").glob("*.JPEG"))
    if not photos:
        pytest.skip(f"no photos in {SHARED / 'imagenet-photos'}")
    return photos


@pytest.fixture(scope="module")
def browser():
    """Chromium, with a camera that is made up; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed (apt-get install {BROWSERS[0]})")
    options = ["--use-fake-device-for-media-stream=device-count=2", "--use-fake-ui-for-media-stream"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # Chromium's sandbox refuses root
        options.append("--no-sandbox")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=options)
        yield found
        found.close()


@pytest.fixture
def offline_page(browser):
    """`offline_page(path, …)`: a file that is open without a network; in the end nothing may be complained about.

    It may ask for addresses that begin with `inside` alone, besides what it holds; those are in `page.asked`.
    """
    wrong, contexts = [], []

    def open_page(path, inside="file:", seconds=10, **options):
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        context.set_default_timeout(1000 * seconds)
        page = context.new_page()
        page.asked = []

        def note(request):
            if not request.url.startswith("data:"):
                page.asked.append(request.url)
                if not request.url.startswith(inside):
                    wrong.append(f"asked for {request.url}")

        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", note)
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """What the suite exports and measures stays out of the user's cache."""
    os.environ["VERTEBRA_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@dataclass
class Result:
    """What a command has given."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def error(self):
        """The one line on stderr."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("vertebra: ")
        return lines[0]


@pytest.fixture
def vertebra(capsys):
    """The command line in this process: call it with arguments; exit code and output come back."""
    from vertebra.cli import main

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def write_model():
    """Write a network of one convolution and its card, as `vertebra export` would: `write_model(path, …)`.

    Made by hand, so that tests of the runtime need no torch. `change` gets the ONNX model before it is written;
    `checksum` gives it one, without which it is like a file of an older version.
    """
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    from vertebra.card import METADATA_KEY, Card, Preprocessing
    from vertebra.model_checksum import BLANK, insert_checksum

    def write(
        path,
        *,
        classes=("cat", "dog", "fish"),
        size=32,
        threshold=None,
        card=None,
        change=None,
        seed=0,
        checksum=False,
    ):
        random = np.random.default_rng(seed)
        count = len(classes)
        weights = {
            "scale": np.full((1, 3, 1, 1), 1 / 64, np.float32),
            "kernel": random.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
            "linear": random.normal(0, 1, (8, count)).astype(np.float32),
        }
        nodes = [
            helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2]),
            helper.make_node("Cast", ["first"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["float", "scale"], ["scaled"]),
            helper.make_node("Conv", ["scaled", "kernel"], ["convolved"], strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["convolved"], ["features"]),
            helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["embedding"]),
            helper.make_node("MatMul", ["embedding", "linear"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ]
        outputs = {"probabilities": ["N", count], "embedding": ["N", 8], "features": ["N", 8, size // 2, size // 2]}
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size, size, 3])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        if card is None:
            card = Card(
                "tiny",
                Preprocessing(size, size + 8, "bicubic"),
                tuple(classes),
                threshold=threshold,
                content_sha256=BLANK if checksum else None,
            ).to_json()
        if card:
            model.metadata_props.add(key=METADATA_KEY, value=card)
        if change is not None:
            change(model)
        onnx.save(model, path)
        if checksum:
            path.write_bytes(insert_checksum(path.read_bytes())[0])
        return path

    return write


@pytest.fixture(scope="session")
def tiny_model(write_model, tmp_path_factory):
    """A file of that network, to be read only."""
    return write_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Make something once for all processes of the suite: `once(name, make)` → the folder that `make` filled."""
    from filelock import FileLock

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def get(name: str, make: Callable[[Path], object]) -> Path:
        folder = root / f"once-{name}"
        with FileLock(root / f"once-{name}.lock"):
            if not (root / f"once-{name}.done").exists():
                shutil.rmtree(folder, ignore_errors=True)  # what a failed attempt left
                folder.mkdir()
                make(folder)
                (root / f"once-{name}.done").touch()
        return folder

    return get


@pytest.fixture(scope="session")
def kernels(once):
    """The library of `cpu_kernels`, compiled once for all test processes (3 s) and loaded."""
    pytest.importorskip("torch")
    from vertebra.cpu_kernels import KernelError
    from vertebra.cpu_kernels.compiled_functions import library

    with pytest.MonkeyPatch.context() as patch:

        def compile_in(folder):
            patch.setenv("VERTEBRA_CACHE", str(folder))
            library.cache_clear()
            library()

        try:
            patch.setenv("VERTEBRA_CACHE", str(once("cpu_kernels", compile_in)))
            return library()
        except KernelError as error:
            pytest.skip(f"no kernels here: {error}")


# --- S3 ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a server that speaks S3 and keeps all in memory."""
    pytest.importorskip("moto.server", reason="moto is not installed")
    pytest.importorskip("pyarrow.fs", reason="pyarrow is not installed")
    with s3_servers.s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> s3_servers.Bucket:
    """An empty bucket: `s3.uri`, `s3.put(key, content)`, `s3.upload(folder, prefix)`; the variables lead there."""
    for name in s3_servers.UNSET:
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_servers.environment(s3_server).items():
        monkeypatch.setenv(name, value)
    return s3_servers.make_bucket(s3_server)


@pytest.fixture
def faulty_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A small S3 that fails on demand (faulty_s3.py), in the place of the real one."""
    pytest.importorskip("pyarrow.fs", reason="pyarrow is not installed")
    from faulty_s3 import FaultyS3

    from vertebra.storage.bounded_calls import running_calls

    with FaultyS3() as server:
        for name in s3_servers.UNSET:
            monkeypatch.delenv(name, raising=False)
        for name, value in s3_servers.environment(server.endpoint).items():
            monkeypatch.setenv(name, value)
        yield server
    # pyarrow opens no other file system while a request is running.
    ends = time.monotonic() + 20
    while running_calls() and time.monotonic() < ends:
        time.sleep(0.02)


# --- tiny networks ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=tiny.TINY_BUILDERS, scope="session")
def tiny_family(request: pytest.FixtureRequest) -> str:
    """The name of each of the six families in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def tiny_network() -> Callable[..., Any]:
    """`tiny_network(family, num_classes=5, seed=0, …)`: a tiny network of our classes in `eval` mode.

    `tiny_network("resnet", block="Bottleneck", widths=(16, 32, 64, 96), depth=1)` and
    `tiny_network("efficientnet", kind="v2" or "lite")` are the other kinds of blocks.
    """
    torch = pytest.importorskip("torch")

    def make(family: str, num_classes: int = 5, seed: int = 0, **options: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return tiny.TINY_BUILDERS[family](num_classes=num_classes, **options).eval()

    return make


@pytest.fixture(scope="session")
def tiny_names() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """`with tiny_names():` each registered name builds the tiny network of its family, in this process."""
    pytest.importorskip("torch")
    return tiny.tiny_names


@pytest.fixture(scope="session")
def whole_names() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """`with whole_names():` within a test or module with tiny names: the papers' networks again."""
    return tiny.whole_names


@pytest.fixture(scope="session")
def tiny_command() -> str:
    """A script that is `vertebra` with these names, for processes of one's own: `python tiny_command train …`."""
    return tiny.__file__


@pytest.fixture
def tiny_registry(tiny_names: Callable[[], contextlib.AbstractContextManager[None]]) -> Iterator[None]:
    """For the time of this test each registered name builds the tiny network of its family."""
    with tiny_names():
        yield


@pytest.fixture(scope="module")
def tiny_module(tiny_names: Callable[[], contextlib.AbstractContextManager[None]]) -> Iterator[None]:
    """The same for all tests of a module: `pytestmark = pytest.mark.usefixtures("tiny_module")`."""
    with tiny_names():
        yield


@pytest.fixture(scope="session")
def tiny_export(once: Callable[..., Path], tiny_network: Callable[..., Any]) -> Path:
    """A tiny ResNet, exported: classes a to e, 32 pixels; to be read only."""

    def make(folder: Path) -> None:
        from vertebra.card import Preprocessing
        from vertebra.export import export

        pixels = Preprocessing(crop_size=32, resize_size=32)
        export(tiny_network("resnet"), folder / "tiny.onnx", architecture="resnet18", classes=list("abcde"),
               preprocessing=pixels)  # fmt: skip

    return once("tiny-export", make) / "tiny.onnx"


@pytest.fixture(scope="session")
def tiny_photos(once: Callable[..., Path]) -> Path:
    """Class folders red, green and blue with twelve noisy pictures of 40 × 32 pixels each; to be read only."""

    def make(folder: Path) -> None:
        from PIL import Image

        for channel, label in enumerate(("red", "green", "blue")):
            (folder / label).mkdir()
            for number in range(12):
                random = np.random.default_rng([channel, number])
                pixels = random.integers(0, 120, (32, 40, 3), dtype=np.uint8)
                pixels[..., channel] += 120
                Image.fromarray(pixels).save(folder / label / f"{number:02}.png")

    return once("tiny-photos", make)


@pytest.fixture(scope="session")
def tiny_run(once: Callable[..., Path], tiny_photos: Path, tiny_network: Callable[..., Any], tiny_names: Any) -> Path:
    """A finished run of `vertebra train` with a tiny ResNet on these photos; to be read only."""

    def make(folder: Path) -> None:
        import torch

        import vertebra

        with tiny_names():
            torch.save(tiny_network("resnet").state_dict(), folder / "drawn.pth")
            vertebra.train(tiny_photos, folder / "run", model="resnet18", weights=str(folder / "drawn.pth"), folds=3)

    return once("tiny-run", make) / "run"


# --- networks of full size, on shapes alone ---------------------------------------------------------------------------

# One network of each family, small enough for a default run.
FAMILY = dict(zip(model_table.FAMILIES, tiny.one_of_each(torchvision=True), strict=True)) | {"vgg": "vgg11_bn"}


@cache
def _anatomy(name, size):
    import vertebra

    return vertebra.anatomy(name, size)


@pytest.fixture(scope="session")
def taken():
    """`taken(name, size=None)`: the anatomy of a network of ours."""
    return lambda name, size=None: _anatomy(name, size)


@pytest.fixture(scope="session")
def to_be_written():
    """`to_be_written(name, size)`: as `taken`, but VGG's fully connected layers are narrow, which are 0.5 GB else."""

    @cache
    def make(name, size):
        import torch

        import vertebra
        from vertebra.models.state_dict import meta_build

        if name != FAMILY["vgg"]:
            return _anatomy(name, size)
        with meta_build():
            network = vertebra.models.get_model(name, num_classes=10)
        narrow = (torch.nn.Linear(512 * 7 * 7, 16), torch.nn.Linear(16, 16), torch.nn.Linear(16, 10))
        network.classifier[0], network.classifier[3], network.classifier[6] = narrow
        return vertebra.anatomy(network, size)

    return make


@pytest.fixture(params=FAMILY.values(), ids=FAMILY.keys(), scope="session")
def of_family(request):
    """The name of one network of each family."""
    return request.param


@pytest.fixture
def experiments(monkeypatch, tmp_path):
    """Experiments of nothing, in place of the lab's: `experiments(alpha={"seconds": 3}, …)` → all calls of them.

    Of each: fields of its claim; `measure` is what it does, `networks` whether it can be asked of any network.
    """
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    from types import SimpleNamespace

    from vertebra.lab import job, registry
    from vertebra.lab.experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Verdict

    calls = []

    def module(name, verdict=Verdict.HOLDS, measure=None, networks=False, **claim):
        settings = {
            "family": "VGG", "stated_by": "article l.7", "claim": f"{name} is large.", "claim_ja": f"{name}は大きい。",
            "should_hold": "Ten.", "source": "counts", "rule": "Holds if it is.", "decided_by": (Kind.COUNT,),
            "title": f"How large {name} is", "caption": "To the right is more.", "seconds": 1,
            "expected": {"size": Expected(10, "a count")},
        }  # fmt: skip

        def run(setup, **given):
            calls.append((name, setup, given))
            if measure is not None:
                measure(setup)
            figures = {"size": Figure(10), "share": Figure(0.0678123, "%", 3, (0.05, 0.09))}
            figures |= {f"{one}: size": Figure(1) for one in given.get("networks", ())}
            return Measured(figures, {"bars": [1, 2]})

        found = SimpleNamespace(
            CLAIM=Claim(**(settings | claim)),
            measure=run,
            judge=lambda measured: Judgement(verdict, "It was counted.", ("size", "share")),
            draw=lambda measured, canvas: canvas.subplots().bar(["left", "right"], measured.series["bars"]),
        )
        if networks:
            found.measure_networks = lambda setup, networks: run(setup, networks=networks)
            found.judge_networks, found.draw_networks = found.judge, found.draw
        return found

    def make(**wanted):
        modules = {name: module(name, **given) for name, given in wanted.items()}
        found = []
        for number, name in enumerate(modules, 1):
            path = tmp_path / "code" / f"claim{number:02}_{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"NAME = {name!r}\n")
            found.append(registry.Entry(str(number), name, path))
        monkeypatch.setattr(registry.Entry, "load", lambda entry: modules[entry.name])
        for place in (registry, job):
            monkeypatch.setattr(place, "entries", lambda: tuple(found))
        monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
        return calls

    return make

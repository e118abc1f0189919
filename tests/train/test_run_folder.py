"""The folder of a run: nothing is lost whatever fails when, and one process at a time writes into it."""

import contextlib
import errno
import html
import importlib.util
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

from PIL import Image
from safetensors.torch import load_file
from torch import nn

import vertebra
from vertebra.errors import InUseError, UsageError, VertebraWarning
from vertebra.files import AppendOnlyFile
from vertebra.model_table import networks
from vertebra.models import get_model_weights, registry
from vertebra.models.convnet import ConvNet
from vertebra.train import TrainError, resume, training_log
from vertebra.train import run_checkpoint as checkpoint_module
from vertebra.train.training_log import read_log

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of open files are asked of Linux")

KEPT = {
    "data.csv", "metrics.json", "metrics.jsonl", "model.onnx", "report.html", "settings.toml", "weights.safetensors",
}  # fmt: skip
OPTIONS = {
    "model": "plain", "method": "scratch", "image_size": 32, "batch_size": 16, "epochs": 2, "workers": 0, "lr": 0.05,
    "augment": "none", "checkpoint_seconds": 0,
}  # fmt: skip


class Plain(ConvNet):
    """So small that a whole run takes a fraction of a second."""

    head_name, stem_path = "fc", "one.0"

    def __init__(self, num_classes=2):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, num_classes)

    def forward_maps(self, x, run):
        yield "one", (x := run(x, self.one))
        yield "two", (x := run(x, self.two))

    def first_halvings(self):
        return [self.one[0], self.two[0]]


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    def build(weights=None, num_classes=None, **options):
        return Plain(num_classes or 2)

    entry = registry.Registered(build, get_model_weights("resnet18"), "resnet")
    monkeypatch.setitem(registry.MODELS, "plain", entry)
    monkeypatch.setitem(networks(), "plain", replace(networks()["resnet18"], name="plain"))
    # It takes seconds to import, and has a test of its own.
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else real(name))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of noise, one red and one green."""
    root = tmp_path_factory.mktemp("photos")
    for number, label in enumerate(("red", "green")):
        (root / label).mkdir()
        for photo in range(16):
            pixels = np.random.default_rng([number, photo]).integers(0, 140, (32, 32, 3))
            pixels[..., number] += 60
            Image.fromarray(pixels.astype(np.uint8)).save(root / label / f"{photo:02}.png")
    return root


# --- what fails, and when ---------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Nothing runs after it."""


class Disk:
    """The folder as the system sees it: each operation is counted, and one of them fails.

    Args:
        folder: of the run; what happens elsewhere goes its way.
        fails: number of the operation that fails, from 1; 0: none does.
        how: "full": it does, and so does all that needs room until the end; "read-only": and all that changes anything;
            "killed": nothing happens any more.
    """

    def __init__(self, monkeypatch, folder, fails=0, how="killed"):
        self.folder = folder
        self.fails = fails
        self.how = how
        self.count = 0
        self.operations = []  # (what, name)
        self.contents = {}  # inode -> what of it would survive a power cut
        self.entries = {}  # name -> inode, as they would survive it
        self.real_open = os.open

        def wrap(module, name, place_of, kind, before=None, after=None):
            real = getattr(module, name)

            def call(*args, **kwargs):
                place = place_of(*args)
                if place is None:
                    return real(*args, **kwargs)
                with self._operation(kind, place, (lambda: before(real, *args)) if before else None):
                    result = real(*args, **kwargs)
                if after is not None:
                    after(*args, result)
                return result

            monkeypatch.setattr(module, name, call)

        def opened(path, flags, *rest):
            return self._inside(path) if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR) else None

        def forget(path, flags, *rest):
            if flags & os.O_CREAT:
                self.contents[os.fstat(rest[-1]).st_ino] = b""

        def half(real, path, content):
            real(path, content[: len(content) // 2])

        def half_saved(real, tensors, path, *rest):
            Path(path).write_bytes(b"half")

        wrap(os, "open", opened, "make", after=forget)
        wrap(os, "fsync", self._of_descriptor, "sync", after=self._synced)
        wrap(Path, "write_bytes", lambda path, content: self._inside(path), "write", before=half)
        wrap(Path, "replace", lambda path, to: self._inside(to), "replace")
        wrap(Path, "unlink", lambda path, **options: self._inside(path) if path.exists() else None, "remove")
        wrap(
            checkpoint_module, "save_file", lambda tensors, path, *rest: self._inside(path), "write", before=half_saved
        )
        wrap(AppendOnlyFile, "append", lambda lines, line: self._of_descriptor(lines.file.fileno()), "write")

    def _inside(self, path):
        path = Path(path)
        return path.name if self.folder in (path, path.parent) and path.name != ".lock" else None

    def _of_descriptor(self, descriptor):
        return self._inside(Path(f"/proc/self/fd/{descriptor}").readlink())

    @contextlib.contextmanager
    def _operation(self, kind, name, before=None):
        self.count += 1
        self.operations.append((kind, name))
        if self.fails and self.count >= self.fails:
            if self.how == "killed":
                if before is not None and self.count == self.fails:
                    before()
                raise Killed
            if self.how == "read-only":
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            if kind in ("make", "write", "sync"):
                if before is not None:
                    before()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield

    def _synced(self, descriptor, result):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path == self.folder:
            self.entries = self._names()
        else:
            self.contents[os.fstat(descriptor).st_ino] = path.read_bytes()

    def _names(self):
        found = self.folder.iterdir() if self.folder.exists() else ()
        return {path.name: path.stat().st_ino for path in found if path.is_file()}

    def cut_the_power(self, to, *, names_kept):
        """What is there afterwards: of each file what was synced, under the names synced or under those of now."""
        to.mkdir()
        for name, inode in (self._names() if names_kept else self.entries).items():
            (to / name).write_bytes(self.contents.get(inode, b""))
        return to


def result_of(folder):
    """What may not depend on what happened on the way."""
    metrics = dict(vertebra.train.Classifier(folder).metrics)
    del metrics["seconds"], metrics["images_per_second"]
    weights = {name: tensor.tolist() for name, tensor in load_file(folder / "weights.safetensors").items()}
    log = [(record["step"], record["val_accuracy"]) for record in read_log(folder) if "val_accuracy" in record]
    return metrics, weights, log


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """What a run comes to that nothing happens to, and how many operations it takes."""
    with pytest.MonkeyPatch.context() as patch:
        _plain.__wrapped__(patch)
        folder = tmp_path_factory.mktemp("whole") / "run"
        disk = Disk(patch, folder)
        vertebra.train(photos, folder, **OPTIONS)
    assert {path.name for path in folder.iterdir()} == KEPT
    return result_of(folder), disk.operations


# Some of the operations of a run, the most telling ones; all of them by `-m slow`.
SOME = (1, 6, 9, 18, 24, 30, 36, 41, 55, 63, 76, 84, 91, 97, 109, 111)
ALL = tuple(range(1, 114))


def test_the_moments_are_those_of_the_whole_run(whole):
    """Else the sweeps below leave some out."""
    assert len(whole[1]) == len(ALL)
    removed = [number for number, (kind, name) in enumerate(whole[1]) if kind == "remove" and name[0] != "."]
    finished = whole[1].index(("replace", "metrics.json"))
    assert [name for _, name in whole[1][finished + 2 :]] == [
        "checkpoint.safetensors",
        "best-4.safetensors",
        "start.json",
    ]
    assert whole[1][finished + 1] == ("sync", "run")
    for name in ("model.onnx", "weights.safetensors", "report.html"):
        at = whole[1].index(("replace", name))
        assert whole[1][at + 1] == ("sync", "run")
        assert whole[1][at - 1][0] == "sync"
        assert at < finished
    assert all(whole[1][number - 1][0] in ("sync", "remove") for number in removed)


def resume_run(folder, photos):
    """What a person does: the command that the error names, or the same one again where nothing was begun."""
    if (folder / "settings.toml").exists():
        return resume(folder)
    assert not folder.exists() or not [path for path in folder.iterdir() if not path.name.startswith(".")]
    for left in folder.iterdir() if folder.exists() else ():
        left.unlink()
    return vertebra.train(photos, folder, **OPTIONS)


def check_kill(moment, photos, folder, monkeypatch):
    with monkeypatch.context() as patch:
        disk = Disk(patch, folder, fails=moment)
        with pytest.raises(Killed):
            vertebra.train(photos, folder, **OPTIONS)
    resume_run(folder, photos)
    assert {path.name for path in folder.iterdir()} == KEPT
    return disk


def check_failure(how, moment, photos, folder, monkeypatch):
    with monkeypatch.context() as patch:
        disk = Disk(patch, folder, fails=moment, how=how)
        try:
            vertebra.train(photos, folder, **OPTIONS)
        except TrainError as error:
            reason = {"full": "No space left on device", "read-only": "Read-only file system"}[how]
            remedy = {"full": "Make room", "read-only": "Make .* writable"}[how]
            if (folder / "settings.toml").exists():
                told = rf"cannot be written \({reason}\)\. .*(kept|none before it)\. {remedy}, then run: "
                assert re.search(told, str(error))
                assert str(error).endswith(f"vertebra train --resume {folder}")
            else:
                assert re.search(rf"cannot be written \({reason}\)\. Nothing was begun\. ", str(error))
        else:
            # Nothing that matters failed: what is needed no more could not be removed.
            assert disk.operations[moment - 1][0] == "remove"
    resume_run(folder, photos)
    assert {path.name for path in folder.iterdir()} == KEPT


@pytest.mark.parametrize("moment", SOME)
def test_killed_at_any_operation(moment, photos, whole, tmp_path, monkeypatch):
    check_kill(moment, photos, tmp_path / "run", monkeypatch)
    assert result_of(tmp_path / "run") == whole[0]


@pytest.mark.slow
@pytest.mark.parametrize("moment", sorted(set(ALL) - set(SOME)))
def test_killed_at_every_operation(moment, photos, whole, tmp_path, monkeypatch):
    check_kill(moment, photos, tmp_path / "run", monkeypatch)
    assert result_of(tmp_path / "run") == whole[0]


@pytest.mark.parametrize(("moment", "how"), [*zip((3, 14, 26, 43, 63, 87), ("full", "read-only") * 3, strict=True)])
def test_a_disk_that_is_full_or_read_only(how, moment, photos, whole, tmp_path, monkeypatch):
    check_failure(how, moment, photos, tmp_path / "run", monkeypatch)
    assert result_of(tmp_path / "run") == whole[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["full", "read-only"])
@pytest.mark.parametrize("moment", ALL)
def test_a_disk_that_is_full_or_read_only_at_every_operation(how, moment, photos, whole, tmp_path, monkeypatch):
    check_failure(how, moment, photos, tmp_path / "run", monkeypatch)
    assert result_of(tmp_path / "run") == whole[0]


def check_power(moment, names_kept, photos, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        disk = Disk(patch, tmp_path / "run", fails=moment)
        with pytest.raises(Killed):
            vertebra.train(photos, tmp_path / "run", **OPTIONS)
    folder = disk.cut_the_power(tmp_path / "after", names_kept=names_kept)
    resume_run(folder, photos)
    assert {path.name for path in folder.iterdir()} == KEPT
    return folder


@pytest.mark.parametrize(
    ("moment", "names_kept"),
    [(5, False), (24, True), (36, False), (57, True), (62, False), (62, True), (92, False), (110, True)],
)
def test_a_power_cut(names_kept, moment, photos, whole, tmp_path, monkeypatch):
    folder = check_power(moment, names_kept, photos, tmp_path, monkeypatch)
    assert result_of(folder) == whole[0]


@pytest.mark.slow
@pytest.mark.parametrize("names_kept", [True, False])
@pytest.mark.parametrize("moment", ALL)
def test_a_power_cut_at_every_operation(names_kept, moment, photos, whole, tmp_path, monkeypatch):
    folder = check_power(moment, names_kept, photos, tmp_path, monkeypatch)
    assert result_of(folder) == whole[0]


# --- one process at a time --------------------------------------------------------------------------------------------


@pytest.fixture
def begun(photos, tmp_path):
    """A run that was stopped before its first step."""

    def stop(what, done, total):
        if what.startswith("training"):
            raise KeyboardInterrupt

    with pytest.raises(TrainError, match="stopped"):
        vertebra.train(photos, tmp_path / "run", progress=stop, **OPTIONS)
    return tmp_path / "run"


def test_a_run_is_trained_by_one_process(photos, tmp_path):
    """A second one is refused whatever it asks for, and the first one ends as ever; reading goes on."""
    folder = tmp_path / "run"
    refused = []

    def meanwhile(what, done, total):
        if what.startswith("training") and not refused:
            for other in (lambda: resume(folder), lambda: vertebra.train(photos, folder, **OPTIONS)):
                with pytest.raises(InUseError) as error:
                    other()
                refused.append(str(error.value))
            assert len(read_log(folder)) <= 2
            with pytest.raises(UsageError, match="holds no finished run"):
                vertebra.train.Classifier(folder)

    found = vertebra.train(photos, folder, progress=meanwhile, **OPTIONS)
    start = f"{folder} is being written by another process. Wait until that has ended, or "
    assert refused == [f"{start}stop it first.", f"{start}give another --out."]
    assert found.metrics["n"] > 0
    assert {path.name for path in folder.iterdir()} == KEPT
    with pytest.raises(UsageError, match="is not empty"):
        vertebra.train(photos, folder, **OPTIONS)


def test_a_finished_run_that_is_resumed_loses_what_it_needs_no_more(begun):
    checkpoint = (begun / "checkpoint.safetensors").read_bytes()
    found = resume(begun)
    before = result_of(begun)
    # Killed between the last file and the removal of the first one, and while files were written, by any version.
    (begun / "checkpoint.safetensors").write_bytes(checkpoint)
    for name in ("best-2.safetensors", "start.json", ".data.abcd_ef1.csv", ".metrics.0123456789ab.json", ".lock"):
        (begun / name).write_bytes(b"half")
    assert resume(begun).metrics == found.metrics
    assert {path.name for path in begun.iterdir()} == KEPT
    assert result_of(begun) == before


def test_a_finished_run_without_its_classifier_is_not_trained_again(begun):
    resume(begun)
    weights = (begun / "weights.safetensors").stat()
    (begun / "model.onnx").unlink()
    with pytest.raises(TrainError, match=r"is finished, and its model\.onnx is missing\. Put it back"):
        resume(begun)
    assert (begun / "weights.safetensors").stat() == weights


@pytest.mark.parametrize("content", ["", '{"n": 1', "\0\0"])
def test_damaged_figures_are_named(begun, content):
    resume(begun)
    (begun / "metrics.json").write_text(content)
    with pytest.raises(TrainError, match=r"metrics\.json cannot be read \(it is damaged\)"):
        _ = resume(begun).metrics


# --- what is told along the way ---------------------------------------------------------------------------------------


def test_tensorboard_on_a_full_disk(begun, monkeypatch):
    """It writes in a thread of its own, which tells of it later."""
    pytest.importorskip("tensorboard")
    from torch.utils import tensorboard

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Board:
        def __init__(self, *args, **kwargs):
            if fails == "open":
                raise full

        def add_scalar(self, *args):
            pass

        def flush(self):
            if fails == "flush":
                raise full

        def close(self):
            raise full

    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: True)
        patch.setattr(tensorboard, "SummaryWriter", Board)
        for fails in ("open", "flush", "close"):  # noqa: B007 - `Board` reads it
            told = rf"tensorboard cannot be written \(No space left on device\)\. .* then run: .*--resume {begun}$"
            with pytest.raises(TrainError, match=told):
                resume(begun)
    assert resume(begun).metrics["n"] > 0


def test_a_full_disk_of_the_cache_warns_and_does_not_stop_the_run(photos, small_weights, tmp_path, monkeypatch):
    """The exported body is kept there."""
    real = shutil.disk_usage

    def usage(path):
        return real(path)._replace(free=0) if "models" in str(path) else real(path)

    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", usage)
        with pytest.warns(
            VertebraWarning,
            match=r"cache/models/.*cannot be written \(no space left on device\), so .* is exported for ",
        ):
            found = vertebra.train(photos, tmp_path / "run", model="resnet18", weights=str(small_weights))
    assert found.metrics["n"] > 0


# --- other photos than it started with --------------------------------------------------------------------------------


def test_a_photo_that_was_overwritten_is_refused_by_name(photos, tmp_path):
    own = shutil.copytree(photos, tmp_path / "photos")
    folder = tmp_path / "run"

    def stop(what, done, total):
        if what.startswith("training"):
            raise KeyboardInterrupt

    with pytest.raises(TrainError, match="stopped"):
        vertebra.train(own, folder, progress=stop, **OPTIONS)
    table = (folder / "data.csv").read_bytes()
    victim, other = own / "red" / "03.png", own / "green" / "03.png"
    sound, times = victim.read_bytes(), victim.stat()
    victim.write_bytes(other.read_bytes())
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))  # as `cp -p` and rsync leave it
    told = rf"a photo has been changed \({re.escape(str(victim))}\) since the run started.*SHA-256 is in .*data\.csv"
    for _ in range(2):
        with pytest.raises(TrainError, match=told):
            resume(folder)
    assert (folder / "data.csv").read_bytes() == table
    # The same content from elsewhere is the same photo.
    victim.write_bytes(sound)
    assert not any("changed" in note for note in resume(folder).metrics["notes"])


def test_a_photo_that_changes_during_the_run_is_noted(photos, tmp_path):
    own = shutil.copytree(photos, tmp_path / "photos")
    victim = own / "red" / "03.png"

    def change(what, done, total):
        if what.startswith("training"):
            victim.write_bytes((own / "green" / "03.png").read_bytes())

    found = vertebra.train(own, tmp_path / "run", progress=change, **OPTIONS)
    note = next(note for note in found.metrics["notes"] if "changed" in note)
    assert note.startswith(f"During the run, a photo has been changed ({victim})")
    assert note in html.unescape(found.report.read_text())


def test_a_table_that_says_otherwise_is_refused(begun):
    table = begun / "data.csv"
    sound = table.read_text()
    lines = sound.splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if ",red,train," in line)
    others = [*lines[:first], lines[first].replace(",red,", ",green,"), *lines[first + 1 :]]
    for damaged in ("".join(others), "".join(lines[:-1]), "".join([lines[0], *lines[:0:-1]])):
        table.write_text(damaged)
        with pytest.raises(TrainError, match=r"data\.csv has other photos, labels or splits than the run started with"):
            resume(begun)
    table.write_text(sound[: sound.rindex(",", 0, sound.rindex(","))])  # in the middle of the last line
    with pytest.raises(TrainError, match=r"data\.csv cannot be read \(a line is cut off\)"):
        resume(begun)
    table.write_text(sound)
    assert resume(begun).metrics["n"] > 0


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "best-0.safetensors"])
def test_damaged_weights_are_not_trained_on(begun, name):
    """A bit of a number: the file is still one of its format."""
    path = begun / name
    sound = path.read_bytes()
    path.write_bytes(sound[:-9] + bytes([sound[-9] ^ 0x80]) + sound[-8:])
    told = rf"{name} cannot be used \(it is damaged: its SHA-256 is another"
    with pytest.raises(TrainError, match=told):
        checkpoint_module.load_best(begun, 0) if name.startswith("best") else resume(begun)
    path.unlink()
    with pytest.raises(TrainError, match=rf"{name} cannot be used"):
        checkpoint_module.load_best(begun, 0) if name.startswith("best") else checkpoint_module.read_state(begun)


# --- from elsewhere ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["probe", "scratch"])
def test_a_run_is_gone_on_with_from_another_folder(method, photos, small_weights, tmp_path, monkeypatch):
    """Its data and weights are relative to where it began, also where there are others of that name."""
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
    shutil.copytree(photos, tmp_path / "here" / "photos")
    shutil.copy(small_weights, tmp_path / "here" / "drawn.pth")
    shutil.copytree(photos, tmp_path / "there" / "photos" / "blue")
    folder = tmp_path / "run"
    options = OPTIONS if method == "scratch" else {"model": "resnet18", "weights": "./drawn.pth"}

    def stop(what, done, total):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(TrainError, match="stopped"):
        vertebra.train("photos", folder, progress=stop, **options)
    monkeypatch.chdir(tmp_path / "there")
    found = resume(folder)
    assert found.card.classes == ("green", "red")
    assert found.card.weights.name.endswith("trained on photos")
    assert str(tmp_path) not in found.card.to_json()
    with pytest.raises(UsageError, match="is finished"):
        resume(folder, cwd="/")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_tensorboard_in_a_folder_whose_name_is_no_utf8(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    with training_log.Log(folder, 0) as log:
        log.write(1, loss=0.5)
    (events,) = (folder / training_log.BOARD).iterdir()
    assert b"loss" in events.read_bytes()
    assert read_log(folder) == [{"step": 1, "loss": 0.5}]

"""Files are written whole, results survive a power cut, and one process at a time writes to a path."""

import errno
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import filelock
import pytest

from vertebra import files
from vertebra.errors import InUseError, VertebraWarning
from vertebra.files import AppendOnlyFile, atomic_write, disk_is_full, lock_file, locked, make_folder, write_durably


@pytest.fixture
def calls(monkeypatch):
    """What is asked of the system, in order, by the names of the files."""
    found = []
    paths = {}

    def spy(module, name, of):
        real = getattr(module, name)

        def call(*args, **kwargs):
            found.append((name, of(*args)))
            result = real(*args, **kwargs)
            if name == "open":
                paths[result] = args[0]
            return result

        monkeypatch.setattr(module, name, call)

    spy(os, "open", lambda path, *rest: Path(path).name)
    spy(os, "fsync", lambda descriptor: Path(paths[descriptor]).name)
    spy(Path, "replace", lambda path, to: Path(to).name)
    return found


def no_room(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --- writing ----------------------------------------------------------------------------------------------------------


def test_a_durable_file_is_synced_before_its_name_and_its_folder_after(tmp_path, calls):
    write_durably(tmp_path / "report.html", b"all of it")
    assert (tmp_path / "report.html").read_bytes() == b"all of it"
    steps = [(name, what if what in ("report.html", tmp_path.name) else "temporary") for name, what in calls]
    steps = [step for step in steps if step[0] != "open"]
    assert steps == [("fsync", "temporary"), ("replace", "report.html"), ("fsync", tmp_path.name)]


def test_a_cache_is_not_synced(tmp_path, calls):
    with atomic_write(tmp_path / "kept.json") as temporary:
        temporary.write_text("{}")
    assert (tmp_path / "kept.json").read_text() == "{}"
    assert not [name for name, _ in calls if name == "fsync"]


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_on_a_failure_the_file_is_as_it_was(tmp_path, monkeypatch, at):
    path = tmp_path / "report.html"
    path.write_bytes(b"old")
    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[at], no_room)
    with pytest.raises(OSError, match="No space left"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_full_disk_is_known_beforehand(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: os.terminal_size((0, 0)) and type("", (), {"free": 3}))
    with pytest.raises(OSError, match="No space left"):
        write_durably(tmp_path / "report.html", b"four")
    write_durably(tmp_path / "report.html", b"two")


def test_a_failing_disk_is_told_also_where_the_folder_is_synced(tmp_path, monkeypatch):
    """The name alone may be lost: that is no durable file."""
    real = os.fsync

    def sync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(OSError, match="Input/output error"):
        write_durably(tmp_path / "report.html", b"whole")


def test_a_folder_that_cannot_be_synced_is_no_failure(tmp_path, monkeypatch):
    real = os.fsync

    def sync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    write_durably(tmp_path / "report.html", b"whole")
    assert (tmp_path / "report.html").read_bytes() == b"whole"


def test_names_as_long_as_they_can_be_and_rights_as_of_any_file(tmp_path):
    path = tmp_path / ("ä" * 125 + ".json")
    before = os.umask(0o027)
    try:
        write_durably(path, b"1")
        with locked(path, "stop"):
            pass
    finally:
        os.umask(before)
    assert path.read_bytes() == b"1"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_what_a_library_puts_in_its_place_has_the_rights_of_any_file(tmp_path):
    """safetensors writes a file that only its owner can read, and moves it there."""
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "weights") as temporary:
            other = tmp_path / "other"
            other.write_bytes(b"1")
            other.chmod(0o600)
            other.replace(temporary)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "weights").stat().st_mode) == 0o640


def test_a_new_folder_is_in_a_synced_one(tmp_path, calls):
    make_folder(tmp_path / "one" / "two")
    assert (tmp_path / "one" / "two").is_dir()
    assert {what for name, what in calls if name == "fsync"} == {tmp_path.name, "one"}
    calls.clear()
    make_folder(tmp_path / "one" / "two")
    assert not calls


def test_a_line_is_whole_or_not_there(tmp_path, monkeypatch):
    lines = AppendOnlyFile(tmp_path / "log")
    lines.append(b"one\n")

    class Full:
        def __init__(self, file):
            self.file, self.left = file, 4

        def write(self, data):
            if not self.left:
                no_room()
            written = self.file.write(data[: self.left])
            self.left -= written
            return written

        def fileno(self):
            return self.file.fileno()

    whole, lines.file = lines.file, Full(lines.file)
    with pytest.raises(OSError, match="No space left"):
        lines.append(b"a longer one\n")
    lines.file = whole
    lines.append(b"two\n")
    lines.sync()
    lines.close()
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"


# --- one process at a time --------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from vertebra.files import locked
with locked(Path(sys.argv[1]), "stop"):
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder():
    """Start a process that holds a path."""
    started = []

    def start(path):
        pipe = subprocess.PIPE
        process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=pipe, stdout=pipe, text=True)
        started.append(process)
        assert process.stdout.readline() == "in\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_path_that_another_process_holds(tmp_path, holder):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    process = holder(tmp_path / "run")
    for spelt in (tmp_path / "run", tmp_path / "link", tmp_path / "run" / ".." / "run"):
        with pytest.raises(InUseError) as error, locked(spelt, "give another --out"):
            pass
        assert str(error.value) == (
            f"{spelt} is being written by another process. Wait until that has ended, or give another --out."
        )
    process.communicate()
    with locked(tmp_path / "run", "give another --out"):
        assert lock_file(tmp_path / "run").exists()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_killed_process_holds_nothing(tmp_path, holder):
    process = holder(tmp_path / "out.csv")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (tmp_path / ".out.csv.lock").exists()
    with locked(tmp_path / "out.csv", "stop"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_a_forked_process_holds_nothing(tmp_path):
    """As the loader's workers are: they outlive a killed process by seconds."""
    context = multiprocessing.get_context("fork")
    begun, end = context.Event(), context.Event()

    def work():
        begun.set()
        end.wait(30)

    with locked(tmp_path, "stop"):
        worker = context.Process(target=work)
        worker.start()
        assert begun.wait(30)
    with locked(tmp_path, "stop"):
        pass
    end.set()
    worker.join()


def test_one_inside_at_a_time_and_all_of_them_in_the_end(tmp_path):
    """The file goes with each that leaves, while others wait for it."""
    inside, most, waits = 0, 0, []

    def enter():
        nonlocal inside, most
        with locked(tmp_path / "out.csv", "stop", wait=None, waiting=lambda: waits.append(1)):
            inside += 1
            most = max(most, inside)
            started.wait(0.01)
            inside -= 1

    started = threading.Event()
    threads = [threading.Thread(target=enter) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == 1
    assert waits
    assert not list(tmp_path.iterdir())


def test_it_waits_no_longer_than_it_is_told(tmp_path, holder):
    holder(tmp_path / "out.csv")
    with (
        pytest.raises(InUseError, match="is being written by another"),
        locked(tmp_path / "out.csv", "stop", wait=0.05),
    ):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, number):
    def refuse(descriptor, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    entered = False
    message = "nothing keeps another process from writing to"
    with pytest.warns(VertebraWarning, match=message) as told, locked(tmp_path / "out.csv", "stop"):
        entered = True
    assert entered
    assert len(told) == 1


def test_where_nothing_can_be_written_nothing_is_locked(tmp_path, monkeypatch, recwarn):
    """What comes then says so itself, and reading from there goes on."""

    def refuse(self, *args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)
    entered = False
    with locked(tmp_path / "out.csv", "stop"):
        entered = True
    assert entered
    assert not [warning for warning in recwarn if issubclass(warning.category, VertebraWarning)]


def test_there_is_no_folder_for_it_or_no_room(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError), locked(tmp_path / "none" / "out.csv", "stop"):
        pass
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(filelock.FileLock, "acquire", no_room)
    with pytest.raises(OSError, match="No space left"), locked(tmp_path / "out.csv", "stop"):
        pass


def test_a_link_to_itself_can_be_locked(tmp_path):
    (tmp_path / "out.csv").symlink_to("out.csv")
    with locked(tmp_path / "out.csv", "give another one"):
        assert lock_file(tmp_path / "out.csv") == tmp_path / ".out.csv.lock"


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
def test_what_a_link_leads_to_is_replaced(tmp_path, durable):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link.parquet"
    link.symlink_to("disk/file.parquet")
    for content in (b"new", b"newer"):  # nothing there, and a file
        with atomic_write(link, durable=durable) as temporary:
            temporary.write_bytes(content)
        assert link.is_symlink()
        assert (tmp_path / "disk" / "file.parquet").read_bytes() == content
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["file.parquet"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_recognised(number):
    assert disk_is_full(OSError(number, os.strerror(number)))


def test_a_full_disk_is_recognised_in_an_error_without_a_number():
    assert disk_is_full(ValueError("Error while serializing: I/O error: No space left on device (os error 28)"))


def test_other_errors_of_writing_are_no_full_disk():
    assert not disk_is_full(OSError(errno.EACCES, os.strerror(errno.EACCES)))
    assert not disk_is_full(ValueError("28"))

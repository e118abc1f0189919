"""The model's file on a node, fetched once for all processes there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from vertebra.cache import cache_dir, creation_lock, fingerprint
from vertebra.errors import VertebraError
from vertebra.files import atomic_write


def model_on_this_node(path: Path, sha256: str, content: Any) -> Path:
    """Return a file with that SHA-256: `path` where this node has it, else one in its cache.

    Args:
        path: where the driver has the file.
        sha256: of its content.
        content: a Ray object reference of the content, fetched if the node has no such file.

    Raises:
        VertebraError: it cannot be kept in the cache, or what comes has another SHA-256.
    """
    if _has(path, sha256):
        return path
    kept = cache_dir() / "models" / f"{sha256}.onnx"
    with creation_lock(kept):
        if _has(kept, sha256):
            return kept
        import ray

        fetched = ray.get(content)
        if hashlib.sha256(fetched).hexdigest() != sha256:
            raise VertebraError(f"the model {path.name} has not come whole. Run the same command again with --resume.")
        try:
            with atomic_write(kept) as temporary:
                temporary.write_bytes(fetched)
        except OSError as error:
            raise VertebraError(
                f"{kept} cannot be written ({error.strerror or error}). Make room there, or set VERTEBRA_CACHE to "
                "another folder before Ray is started on this node."
            ) from error
    return kept


def _has(path: Path, sha256: str) -> bool:
    try:
        return path.is_file() and fingerprint(path) == sha256
    except (OSError, VertebraError):
        return False

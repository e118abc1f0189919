"""The model on a node: its file fetched once for all processes there, its engine measured once."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vertebra.cache import cache_dir, creation_lock, fingerprint
from vertebra.errors import VertebraError
from vertebra.files import atomic_write

if TYPE_CHECKING:
    from vertebra.runtime.predictor import Predictor


@dataclass(frozen=True)
class NodeModel:
    """A model's file on the driver's machine, and how the nodes run it. It is pickled, without the file."""

    path: str
    sha256: str
    engine: str
    batch: int = 16
    threads: int = 1
    scaled: bool = False
    bits: int | None = None
    folder: str = field(default_factory=os.getcwd)  # the driver's, from which relative paths start

    def load(self, content: Any = None) -> Predictor:
        """Load it in a process of a node, which is then in `folder` where the node has that.

        Args:
            content: a Ray object reference of the file's bytes; None: every node has the file.

        Raises:
            VertebraError: the file cannot be kept on this node, or not be used.
        """
        from vertebra.runtime.predictor import Predictor

        with suppress(OSError):  # absolute paths do without; of others the read says what is missing
            os.chdir(self.folder)
        return Predictor(
            self.file(content),
            engine=self.engine,
            batch=self.batch,
            threads=self.threads,
            scaled=self.scaled,
            bits=self.bits,
        )

    def file(self, content: Any) -> Path:
        """Return the file where this node has it, else one in its cache; arguments and errors as of `load`."""
        path = Path(self.path)
        if _has(path, self.sha256):
            return path
        if content is None:
            raise VertebraError(f"{path} has changed or is gone. Put it back, and run the same command again.")
        kept = cache_dir() / "models" / f"{self.sha256}.onnx"
        with creation_lock(kept):
            if _has(kept, self.sha256):
                return kept
            import ray

            fetched = ray.get(content)
            if hashlib.sha256(fetched).hexdigest() != self.sha256:
                raise VertebraError(f"{path} has changed since the run began. Put it back, or give another --out.")
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

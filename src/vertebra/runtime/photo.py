"""One image to predict: where it is read from, or why it gives none."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from PIL import Image

from vertebra.decoding import Source
from vertebra.errors import ImageError
from vertebra.pixels import Pixels

from .photo_download import fetch, is_url


@dataclass(frozen=True)
class NetworkPixels:
    """The input of a network, made already: uint8 (S, S, 3), resized and cropped."""

    pixels: Pixels


Opened: TypeAlias = Source | Image.Image | NetworkPixels  # what the network's input is made of


@dataclass(frozen=True)
class Photo:
    """A file, a web address, an open file or an image in memory."""

    path: str  # a file or a web address; of others, how their results and errors call them
    error: str | None = None  # why there is nothing to read
    content: Opened | Pixels | None = None  # of an image in memory or an open file; None: it is read from `path`
    may_change: bool = False  # it has to be read before the next is asked for, and by one thread at a time

    def open(self) -> Opened:
        """What it is decoded from; a web address is downloaded.

        Raises:
            ImageError: there is nothing to read, or it cannot be downloaded.
        """
        if self.error is not None:
            raise ImageError(self.error)
        if self.content is None:
            return fetch(self.path) if is_url(self.path) else self.path
        if not isinstance(self.content, np.ndarray):
            return self.content
        if not self.content.size:
            height, width = self.content.shape[:2]
            raise ImageError(f"{self.path} has no pixels ({width} × {height})")
        return Image.fromarray(self.content)

    def opened(self) -> Photo:
        """The same with its content, or with the error that says why it has none."""
        try:
            return replace(self, content=self.open())
        except ImageError as error:
            return Photo(self.path, error=str(error))

    def exists(self) -> bool:
        """Whether there may be something to read: a file that is there, or a web address."""
        return self.error is None and (is_url(self.path) or os.path.exists(self.path))  # noqa: PTH110 - may be no path

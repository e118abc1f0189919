"""One image to predict."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vertebra.decoding import Source
from vertebra.errors import ImageError
from vertebra.photo_download import fetch, is_url
from vertebra.pixels import Pixels

from .array_inputs import Tensor


@dataclass(frozen=True)
class NetworkPixels:
    """A preprocessed image: uint8 (S, S, 3), resized and cropped."""

    pixels: Pixels


Opened: TypeAlias = Source | Image.Image | NetworkPixels  # what is preprocessed


@dataclass(frozen=True)
class Photo:
    """A photo with its name: what `predict` and `predict_many` take where photos come from elsewhere than files.

    `Photo("s3://bucket/1.jpg", content=data)` has the bytes of a file, and `Photo("s3://bucket/2.jpg", error="access is
    denied")` stands for one that could not be read. Of `predict_many` each is a result with that name: with the `error`
    given, or what is wrong with bytes that are empty, damaged or no image. Other content, such as an open file or
    pixels, is taken and refused as it is without a name.
    """

    path: str  # a file or a web address; for others, their name in results and errors
    error: str | None = None  # why it cannot be read
    # As `predict` takes it, such as bytes, an open file or an image in memory; None: read from `path`.
    content: Opened | bytearray | memoryview | NDArray[Any] | Tensor | None = None
    may_change: bool = False  # has to be read before the next item is requested, by one thread at a time

    def open(self) -> Opened:
        """Return what to decode; a web address is downloaded.

        Raises:
            ImageError: it has an error or no pixels, or cannot be downloaded.
        """
        if self.error is not None:
            raise ImageError(self.error)
        source: Any = self.path if self.content is None else self.content
        if self.is_remote():
            return fetch(source)
        if not isinstance(source, np.ndarray):
            return source  # type: ignore[no-any-return]
        if not source.size:
            height, width = source.shape[:2]
            raise ImageError(f"{self.path} has no pixels ({width} × {height})")
        return Image.fromarray(source)

    def is_remote(self) -> bool:
        """Whether `open` downloads it."""
        source = self.path if self.content is None else self.content
        return self.error is None and isinstance(source, str) and is_url(source)

    def opened(self) -> Photo:
        """Return the photo with its content, or with the error of `open`."""
        try:
            return replace(self, content=self.open())
        except ImageError as error:
            return Photo(self.path, error=str(error))

    def exists(self) -> bool:
        """Whether the file exists; always true for a web address."""
        return self.error is None and (is_url(self.path) or os.path.exists(self.path))  # noqa: PTH110 - may be no path

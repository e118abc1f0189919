"""Synthetic photos to run a network on where the user gives none.

As in real ones, amplitude falls with 1 / frequency (Field 1987), channels are correlated, and objects have edges.
"""

from __future__ import annotations

import numpy as np

from vertebra.pixels import Pixels


def synthetic_photos(count: int, size: int, seed: int = 0) -> Pixels:
    """uint8 (count, size, size, 3): clouds of colour with discs and bars before them, the same at each call."""
    random = np.random.default_rng(seed)
    return np.stack([_photo(random, size) for _ in range(count)])


def _photo(random: np.random.Generator, size: int) -> Pixels:
    fy, fx = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij")
    fall = 1 / np.maximum(np.hypot(fy, fx), 1 / size)
    common, *own = (np.fft.ifft2(np.fft.fft2(random.standard_normal((size, size))) * fall).real for _ in range(4))
    clouds = np.stack([common + 0.4 * channel for channel in own], axis=2)
    picture = random.uniform(70, 170) + random.uniform(30, 70) * (clouds - clouds.mean()) / clouds.std()
    y, x = np.mgrid[:size, :size] / size
    for _ in range(random.integers(1, 5)):
        centre, radius, angle = random.uniform(0, 1, 2), random.uniform(0.05, 0.35), random.uniform(0, np.pi)
        disc = np.hypot(y - centre[0], x - centre[1]) < radius
        bar = np.abs((y - centre[0]) * np.cos(angle) + (x - centre[1]) * np.sin(angle)) < radius / 5
        colour, opacity = random.uniform(0, 255, 3), random.uniform(0.5, 1)
        where = (disc if random.random() < 0.5 else bar)[..., None] * opacity
        picture = picture * (1 - where) + colour * where
    photo: Pixels = np.clip(picture + random.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)
    return photo

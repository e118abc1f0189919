"""Benchmarks of a network on this machine: Vertebra's choice of engine and each backend with default settings."""

from __future__ import annotations

from .backends import BACKENDS as BACKENDS
from .backends import Backend as Backend
from .backends import PreparedBackend as PreparedBackend
from .backends import find_backends as find_backends
from .backends import installed_backends as installed_backends
from .network_files import NetworkFiles as NetworkFiles
from .timing import Timing as Timing
from .timing import compare as compare

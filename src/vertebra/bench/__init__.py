"""How fast a network runs here: Vertebra's choice of engine beside each of its backends with default settings."""

from __future__ import annotations

from .backends import BACKENDS as BACKENDS
from .backends import Backend as Backend
from .backends import Ready as Ready
from .backends import find_backends as find_backends
from .backends import installed as installed
from .network_files import NetworkFiles as NetworkFiles
from .timing import Timing as Timing
from .timing import compare as compare

"""Look inside a network at work on a photo: one page that opens offline.

`vertebra.explore("photo.jpg", "efficientnet_lite0").save("page.html")`, or `vertebra explore photo.jpg`.
"""

from __future__ import annotations

from vertebra.callable_module import make_callable
from vertebra.errors import require_extra

with require_extra("torch", "vertebra.explore"):
    from .exploration import Exploration, explore

__all__ = ["Exploration", "explore"]

make_callable(__name__)

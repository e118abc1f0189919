"""Whether a node can take part in a run; sent to the node by value, since Vertebra may not be installed there."""

from __future__ import annotations

from typing import Any


def node_problem(version: str, folder: str, target: Any, token: bytes, sample: Any) -> str:
    """Return why this node cannot run Vertebra's actors, in one sentence with what to do; "" if it can.

    Args:
        version: of the driver's Vertebra.
        folder: that relative paths start from; absolute ones do without.
        target: the URI of the `Location` that nodes write to; None: they write to none.
        token: what is in the file of the target by which nodes tell that they see the same folder.
        sample: files of the source (`source_sample`).
    """
    import os
    from contextlib import suppress

    try:
        import vertebra
    except ImportError:
        return f"Vertebra is not installed there. Run there: pip install 'vertebra[ray]=={version}'"
    if vertebra.__version__ != version:
        return (
            f"it has Vertebra {vertebra.__version__}, and the command runs with {version}. Run there: "
            f"pip install 'vertebra[ray]=={version}'"
        )
    from vertebra.cluster.run_target import require_same_target
    from vertebra.cluster.source_sample import unseen
    from vertebra.errors import VertebraError
    from vertebra.storage import Location

    try:
        import vertebra.runtime.predictor

        with suppress(OSError):
            os.chdir(folder)
        if problem := unseen(sample):
            return problem
        if target is not None:
            require_same_target(Location(target), token)
    except (VertebraError, ImportError) as error:
        return str(error)
    return ""

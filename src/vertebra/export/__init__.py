"""A network and its card → one ONNX file that predicts without torch, written once it is verified against torch.

With photos to calibrate on the file is int8: smaller and faster, and written only if it keeps its accuracy.

`vertebra.export("efficientnet_lite0", "lite0.onnx")`, or `vertebra export efficientnet_lite0 --out lite0.onnx`.
"""

from __future__ import annotations

from vertebra.callable_module import make_callable
from vertebra.errors import ExportError, require_extra

with require_extra("torch", "vertebra.export"):
    from .accuracy_check import Calibration, Verdict, check_count
    from .classes_argument import class_names
    from .export_network import ExportReport, export
    from .int8 import Int8Report
    from .network_card import Prepared
    from .photo_labels import labels_of
    from .prepare_network import metadata, prepare

__all__ = [
    "Calibration",
    "ExportError",
    "ExportReport",
    "Int8Report",
    "Prepared",
    "Verdict",
    "check_count",
    "class_names",
    "export",
    "labels_of",
    "metadata",
    "prepare",
]

make_callable(__name__)

"""The six families, a drop-in for `torchvision.models`: the same names, numbers and state dicts, and more on top.

`create_model("resnet50", weights="DEFAULT", num_classes=10)` or `resnet50(weights=ResNet50_Weights.DEFAULT)`.
"""

from vertebra.errors import needing

with needing("torch", "vertebra.models"):
    import torch  # noqa: F401

from ._base import ConvNet as ConvNet
from ._base import Stage as Stage
from ._registry import FAMILIES as FAMILIES
from ._registry import best_top1 as best_top1
from ._registry import create_model as create_model
from ._registry import get_family as get_family
from ._registry import get_model as get_model
from ._registry import get_model_builder as get_model_builder
from ._registry import get_model_weights as get_model_weights
from ._registry import get_weight as get_weight
from ._registry import is_model as is_model
from ._registry import list_models as list_models
from ._registry import list_modules as list_modules
from ._registry import list_pretrained as list_pretrained
from ._registry import model_entrypoint as model_entrypoint
from ._weights import Weights as Weights
from ._weights import WeightsEnum as WeightsEnum
from .densenet import *
from .efficientnet import *
from .googlenet import *
from .mobilenetv2 import *
from .resnet import *
from .vgg import *

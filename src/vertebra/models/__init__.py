"""The six families, a drop-in for `torchvision.models`: the same names, numbers and state dicts, and more on top.

`create_model("resnet50", weights="DEFAULT", num_classes=10)` or `resnet50(weights=ResNet50_Weights.DEFAULT)`.
"""

from vertebra.errors import require_extra

with require_extra("torch", "vertebra.models"):
    import torch  # noqa: F401

from .convnet import ConvNet as ConvNet
from .convnet import Stage as Stage
from .create import create_model as create_model
from .create import get_model as get_model
from .create import get_model_builder as get_model_builder
from .create import model_entrypoint as model_entrypoint
from .published_weights import Weights as Weights
from .published_weights import WeightsEnum as WeightsEnum
from .registry import FAMILIES as FAMILIES
from .registry import best_top1 as best_top1
from .registry import get_family as get_family
from .registry import get_model_weights as get_model_weights
from .registry import get_weight as get_weight
from .registry import is_model as is_model
from .registry import list_models as list_models
from .registry import list_modules as list_modules
from .registry import list_pretrained as list_pretrained

# The families in the order of their papers, which is that of `FAMILIES`.
# isort: off
from .vgg import *
from .googlenet import *
from .resnet import *
from .densenet import *
from .mobilenetv2 import *
from .efficientnet import *

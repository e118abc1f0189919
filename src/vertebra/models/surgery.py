"""Changes to a network that is built: its classifier, its input channels, its resolution."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch import nn

from vertebra.errors import UsageError, require_positive_int


class NoClassifier(nn.Identity):
    """In the place of a classifier that was left out: the classifier's input comes out."""

    out_features = 0


class Adaptable(nn.Module):
    """A network whose family names its parts: the first convolution, the head, the layers that halve the resolution."""

    stem_path: str  # of the first convolution
    head_name: str = "classifier"  # the attribute that holds the head, whose last layer is the classifier
    min_size: int = 1  # smallest height and width of an image, in pixels
    low_resolution: bool = False  # whether `reset_resolution` was called
    head_hidden_size: Any  # `TimmMethods`
    _feature_info: Any
    _global_pool = "avg"  # "": the last feature map is not pooled, and there is no classifier

    def first_halvings(self) -> Sequence[nn.Module]:
        """The layers that halve the resolution first and second, which `reset_resolution` leaves out."""
        return [layer for layer in self.modules() if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)][:2]

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the weights of one layer as VGG and MobileNetV2 do; other families say where they do otherwise."""
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)

    def _check_head(self, what: str) -> None:
        if self._feature_info is not None:
            raise UsageError(
                f"this network returns feature maps alone (features_only=True), so there is no {what}. Call it as it "
                "is, or build it without features_only."
            )

    @property
    def head_module(self) -> nn.Module:
        """The layers behind the pooling (behind its dropout in GoogLeNet), of which the last is the classifier."""
        found: nn.Module = getattr(self, self.head_name)
        return found

    def get_classifier(self) -> nn.Module:
        """The last layer, an `nn.Linear` unless it was replaced."""
        self._check_head("classifier")
        return self.head_module[-1] if isinstance(self.head_module, nn.Sequential) else self.head_module

    def set_classifier(self, module: nn.Module) -> None:
        """Replace the last layer by any module that takes (N, D)."""
        if not isinstance(module, nn.Module):
            raise UsageError(
                f"the classifier is to be a {type(module).__name__}; give an nn.Module, e.g. nn.Identity()."
            )
        if isinstance(module, nn.Sequential) and not len(module):
            raise UsageError("the classifier is to be an empty nn.Sequential. Give nn.Identity() for none.")
        self._check_head("classifier")
        if isinstance(self.head_module, nn.Sequential):
            self.head_module[-1] = module
        else:
            setattr(self, self.head_name, module)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer by a linear one with random weights, or with 0 by none; the body is not touched.

        Without a classifier, `forward` returns the classifier's input: (N, head_hidden_size), and with `global_pool=""`
        the last feature map, (N, num_features, h, w) (in VGG what its fully connected layers make of each 7 × 7 values
        of it, (N, 4096, h - 6, w - 6)). `global_pool=None` leaves the pooling as it is.

        Raises:
            UsageError: `num_classes` is no whole number of at least 0, there is no such pooling, or a classifier is
                asked for without pooling.
        """
        pooling = self._global_pool if global_pool is None else parse_pooling(global_pool)
        if is_zero(num_classes):
            classifier: nn.Module = NoClassifier().train(self.training)
        else:
            num_classes = require_positive_int("num_classes", num_classes)
            if not pooling:
                raise UsageError(
                    f"num_classes is {num_classes} without pooling (global_pool=''), and a linear classifier takes no "
                    f"feature maps. Write reset_classifier({num_classes}, global_pool='avg')."
                )
            classifier = self._new_linear(self.get_classifier(), num_classes)
        self.set_classifier(classifier)
        self._global_pool = pooling

    def _new_linear(self, old: nn.Module, num_classes: int) -> nn.Linear:
        if isinstance(old, nn.Linear):
            width, like = old.in_features, old.weight
        elif isinstance(old, NoClassifier):
            width, like = self.head_hidden_size, next(self.parameters())
        else:
            raise UsageError(
                f"the classifier is a {type(old).__name__}, so its width is unknown. Use set_classifier(module)."
            )
        new = nn.Linear(width, num_classes, device=like.device, dtype=like.dtype)
        self._init_weights(new)
        return new.train(old.training)

    @property
    def num_classes(self) -> int:
        """Width of the logits.

        Raises:
            UsageError: the classifier was replaced by a module that does not say its width.
        """
        width = getattr(self.get_classifier(), "out_features", None)
        if width is None:
            raise UsageError(
                f"the classifier is a {type(self.get_classifier()).__name__}, so its width is unknown. End it with an "
                "nn.Linear, or give it an attribute `out_features`."
            )
        return int(width)

    @property
    def stem_module(self) -> nn.Module:
        """The first convolution."""
        return self.get_submodule(self.stem_path)

    @property
    def in_channels(self) -> int:
        """Channels of the images, as the first convolution is now."""
        return int(self.stem_module.in_channels)  # type: ignore[arg-type]

    def reset_stem(self, in_channels: int) -> None:
        """Let the first convolution take `in_channels` channels, keeping its trained weights.

        1: the kernels are summed over the channels, which equals a grey image given three times. More: the kernels
        are repeated and rescaled, so that the sum over the channels stays what it was.
        """
        in_channels = require_positive_int("in_channels", in_channels)
        old = self.stem_module
        if not isinstance(old, nn.Conv2d):
            raise UsageError(f"the first layer, {self.stem_path}, is a {type(old).__name__}, not a convolution.")
        if in_channels == old.in_channels:
            return
        weight = old.weight.detach()
        if in_channels == 1:
            weight = weight.sum(1, keepdim=True)
        else:
            repeats = [i % old.in_channels for i in range(in_channels)]
            weight = weight[:, repeats] * (old.in_channels / in_channels)
        # The kernel is replaced in place: the layer's other settings (padding, stride, hooks) stay as they are.
        old.weight = nn.Parameter(weight.contiguous(), requires_grad=old.weight.requires_grad)
        old.in_channels = in_channels

    def reset_resolution(self) -> None:
        """For images of some 32 pixels: leave out the first two halvings of the resolution (`first_halvings`).

        Convolutions get a stride of 1, pooling layers become `nn.Identity`, and a first convolution of 5 × 5 pixels or
        more becomes one of 3 × 3 with random weights, as in He et al. 2016, 4.2, for CIFAR.
        """
        if self.low_resolution:
            return
        paths = {module: path for path, module in self.named_modules()}
        for module in self.first_halvings():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
                continue
            parent, _, name = paths[module].rpartition(".")
            setattr(self.get_submodule(parent), name, nn.Identity())
        stem = self.stem_module
        if isinstance(stem, nn.Conv2d) and stem.kernel_size[0] > 3:
            stem.kernel_size, stem.padding = (3, 3), (1, 1)
            stem.weight = nn.Parameter(stem.weight.new_empty(*stem.weight.shape[:2], 3, 3))
            self._init_weights(stem)
        self.min_size = -(-self.min_size // 4)
        self.low_resolution = True


def is_zero(num_classes: Any) -> bool:
    """Whether it says that there is to be no classifier."""
    return not isinstance(num_classes, bool) and hasattr(num_classes, "__index__") and operator.index(num_classes) == 0


def parse_pooling(pooling: Any) -> str:
    """The pooling; None is "avg".

    Raises:
        UsageError: it is another of timm's poolings.
    """
    if pooling is None:
        return "avg"
    if pooling not in ("avg", ""):
        raise UsageError(
            f"global_pool is {pooling!r}; here it is 'avg' or ''. For another pooling build with num_classes=0, "
            "global_pool='' and pool the maps yourself, for example x.amax((2, 3))."
        )
    return str(pooling)

"""What every network can do: tell its stages, return their feature maps, change its classifier, save memory.

A family lists its stages once, in its constructor, as the paper's table does. Everything here follows from that list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from vertebra.errors import UsageError, WeightsError, check_count, warn

from ._timm import NoClassifier, TimmMethods, checked_pooling, is_zero, unpooled_head
from .timm_weights import named_as_here

if TYPE_CHECKING:
    from .origin import Origin


@dataclass(frozen=True)
class Stage:
    """One row of the paper's table: modules that run one after the other."""

    name: str
    modules: tuple[str, ...]  # paths inside the network
    channels: int  # of the output
    stride: int  # pixels of the input per pixel of the output, along each side

    @property
    def module(self) -> str:
        """Path of the last module: a forward hook on it sees the stage's output (DenseNet's last before its ReLU)."""
        return self.modules[-1]


class ConvNet(TimmMethods, nn.Module):
    """A convolutional classifier: stages, then pooling, then a head that ends in one linear classifier.

    `forward(x)` is `forward_head(forward_features(x))`: (N, in_channels, H, W) → logits (N, num_classes). Without a
    classifier (`reset_classifier(0)`) it is what the classifier would see, (N, head_hidden_size), and with
    `global_pool=""` the last feature map; built with `features_only=True` it is a list of feature maps
    (`feature_info`).

    Raises:
        UsageError: the input is not (N, in_channels, H, W) with H and W of at least `min_size` pixels.
    """

    min_size: int = 1  # smallest height and width, in pixels
    _body: str | None = None  # the attribute that holds all stages, where there is one
    _head: str = "classifier"  # the attribute that holds the head
    _stem: str  # path of the first convolution
    # Arguments of the constructor that decide what the network computes and that its tensors do not tell.
    _untold: tuple[str, ...] = ()
    avgpool: nn.Module  # where the family has it as a module
    # Whether the file that the weights are from leaves open what `reset_resolution` would have changed.
    resolution_assumed: bool = False
    # The weights that it was built with; None: randomly initialised ones. A copy, a pickle and a new head keep it.
    origin: Origin | None = None

    def __init__(self) -> None:
        super().__init__()
        self._stages: list[Stage] = []
        self._checkpointing = False
        self._low_resolution = False

    # --- stages -------------------------------------------------------------------------------------------------------

    def _stage(self, name: str, modules: Sequence[str], channels: int, stride: int) -> None:
        self._stages.append(Stage(name, tuple(modules), channels, stride))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in order; `forward_stages` returns one output for each."""
        return tuple(self._stages)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) → one feature map (N, channels, ~H/stride, ~W/stride) a stage."""
        self._check_head("forward_stages")
        x = self._prepare(x)
        outputs = []
        for stage in self._stages:
            x = self._run(x, stage.modules)
            outputs.append(x)
        outputs[-1] = self._finish(x)
        return outputs

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) → the last feature map, which is the last of `forward_stages`."""
        self._check_head("forward_features")
        x = self._prepare(x)
        if self._body is not None and not self._checkpointing:
            # As a whole, so that hooks on it are called, and layers that were added to it run.
            x = getattr(self, self._body)(x)
        else:
            for stage in self._stages:
                x = self._run(x, stage.modules)
        return self._finish(x)

    def _prepare(self, x: Tensor) -> Tensor:
        self._check_input(x)
        return x

    def _finish(self, x: Tensor) -> Tensor:
        """What comes after the last module of the last stage and before pooling."""
        return x

    @property
    def in_channels(self) -> int:
        """Channels of the images, as the first convolution is now."""
        stem = self.get_submodule(self._stem)
        return int(stem.in_channels)  # type: ignore[arg-type]

    def _run(self, x: Tensor, paths: Sequence[str]) -> Tensor:
        modules = [self.get_submodule(path) for path in paths]
        if self._checkpointing and torch.is_grad_enabled():
            for segment in _segments(modules):
                x = checkpointed(segment, x, norms=segment)
        else:
            for module in modules:
                x = module(x)
        return x

    def _check_input(self, x: Any) -> None:
        # Shapes are symbols while a graph is recorded; a check would become a guard, or fail.
        if isinstance(x, fx.Proxy) or torch.compiler.is_compiling() or torch._C._is_tracing():
            return
        name = type(self).__name__
        if not isinstance(x, Tensor):
            raise UsageError(
                f"{name} takes a tensor, got {type(x).__name__}. weights.transforms() makes one of a photo."
            )
        shape = tuple(x.shape)
        try:
            channels = self.in_channels
        except AttributeError:  # the stem was replaced by something else than a convolution, which may take anything
            channels = shape[1] if len(shape) > 1 else 3
        if len(shape) != 4 or shape[1] != channels:
            raise UsageError(
                f"{name} takes a batch of images of shape (N, {channels}, H, W), got {shape}. "
                "One image needs a batch dimension: x.unsqueeze(0). "
                "For another number of channels build the network with in_channels=…"
            )
        if not x.is_floating_point():
            raise UsageError(
                f"{name} takes floating-point images, got {x.dtype}. weights.transforms() makes them from a photo."
            )
        if min(shape[2:]) < self.min_size:
            raise UsageError(
                f"{name} takes images of at least {self.min_size} × {self.min_size} pixels, "
                f"got {shape[2]} × {shape[3]}. Resize them, or choose a family without a smallest size: "
                "resnet, mobilenetv2, efficientnet (V1)."
            )

    # --- head ---------------------------------------------------------------------------------------------------------

    def _check_head(self, what: str) -> None:
        if self._feature_info is not None:
            raise UsageError(
                f"this network returns feature maps alone (features_only=True), so there is no {what}. Call it as it "
                "is, or build it without features_only."
            )

    def pool(self, features: Tensor) -> Tensor:
        """The last feature map → (N, D), the input of the head."""
        return torch.flatten(self.avgpool(features), 1)

    def _pooled(self, features: Tensor) -> Tensor:
        x = self.pool(features)
        return F.dropout(x, self._head_dropout, self.training) if self._head_dropout else x

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """The last feature map → logits (N, num_classes); with `pre_logits` what the classifier sees.

        That is `forward_embedding`, or with `global_pool=""` the map without pooling.
        """
        self._check_head("forward_head")
        if not self._global_pool:
            return unpooled_head(self, features)
        if pre_logits:
            return self.forward_embedding(features)
        logits: Tensor = getattr(self, self._head)(self._pooled(features))
        return logits

    def forward_embedding(self, features: Tensor) -> Tensor:
        """The last feature map → (N, D), what the classifier sees (4096 values in VGG, pooled channels elsewhere)."""
        self._check_head("forward_embedding")
        x = self._pooled(features)
        head = getattr(self, self._head)
        if isinstance(head, nn.Sequential):
            for layer in list(head)[:-1]:
                x = layer(x)
        return x

    def forward(self, x: Tensor) -> Any:
        if self._feature_info is not None:
            return self._run_maps(x, self._feature_info.out_indices, to_end=False)[1]
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The last layer, an `nn.Linear` unless it was replaced."""
        self._check_head("classifier")
        head: nn.Module = getattr(self, self._head)
        return head[-1] if isinstance(head, nn.Sequential) else head

    def set_classifier(self, module: nn.Module) -> None:
        """Replace the last layer by any module that takes (N, D).

        Raises:
            UsageError: it is no module.
        """
        if not isinstance(module, nn.Module):
            raise UsageError(
                f"the classifier is to be a {type(module).__name__}; give an nn.Module, e.g. nn.Identity()."
            )
        if isinstance(module, nn.Sequential) and not len(module):
            raise UsageError("the classifier is to be an empty nn.Sequential. Give nn.Identity() for none.")
        self._check_head("classifier")
        head = getattr(self, self._head)
        if isinstance(head, nn.Sequential):
            head[-1] = module
        else:
            setattr(self, self._head, module)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer by a newly drawn linear one, or with 0 by none; the body is not touched.

        Without a classifier, `forward` returns what it would see: (N, head_hidden_size), and with `global_pool=""` the
        last feature map, (N, num_features, h, w) (in VGG what its fully connected layers make of each 7 × 7 values of
        it, (N, 4096, h - 6, w - 6)). `global_pool=None` leaves the pooling as it is.

        Raises:
            UsageError: `num_classes` is no whole number of at least 0, there is no such pooling, or a classifier is
                asked for without pooling.
        """
        pooling = self._global_pool if global_pool is None else checked_pooling(global_pool)
        if is_zero(num_classes):
            classifier: nn.Module = NoClassifier().train(self.training)
        else:
            num_classes = check_count("num_classes", num_classes)
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
            UsageError: the classifier was replaced by a module that does not tell its width.
        """
        width = getattr(self.get_classifier(), "out_features", None)
        if width is None:
            raise UsageError(
                f"the classifier is a {type(self.get_classifier()).__name__}, so its width is unknown. End it with an "
                "nn.Linear, or give it an attribute `out_features`."
            )
        return int(width)

    # --- weights ------------------------------------------------------------------------------------------------------

    def _init_weights(self, module: nn.Module) -> None:
        """Draw the weights of one layer as the family does."""
        raise NotImplementedError

    def _initialise(self) -> None:
        # On the meta device there is nothing to draw, and asking for it costs more than building the layers.
        if any(parameter.is_meta for parameter in self.parameters()):
            return
        for module in self.modules():
            self._init_weights(module)

    @classmethod
    def convert_state_dict(cls, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keys of older or foreign checkpoints → this family's keys; others pass unchanged."""
        return state_dict

    @classmethod
    def _own_names(cls, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keys of older checkpoints, and of timm's → this family's."""
        return cls.convert_state_dict(named_as_here(cls, state_dict))

    @classmethod
    def options_of(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """Arguments for the network that these tensors were saved from, as far as their shapes tell."""
        stem = state_dict.get(f"{cls._stem}.weight")
        heads = [k for k, v in state_dict.items() if k.startswith(f"{cls._head}.") and v.ndim == 2]
        if stem is None or stem.ndim != 4 or not heads:
            lacking = f"none is the convolution {cls._stem}.weight"
            if stem is not None and stem.ndim == 4:
                lacking = f"{cls._stem}.weight is there, and no linear layer is in {cls._head}"
            raise WeightsError(
                f"no {cls.__name__}: of {len(state_dict)} tensors ({', '.join(list(state_dict)[:3])}, …) {lacking}. "
                "Was it saved from another network? Then add --model NAME (`vertebra models` lists all)."
            )
        return {"num_classes": state_dict[heads[-1]].shape[0], "in_channels": stem.shape[1]}

    @property
    def untold(self) -> dict[str, Any]:
        """What this network does that the names and shapes of its tensors do not tell.

        It travels beside the tensors of `state_dict()`, in the `_metadata` that torch keeps there and saves.
        """
        return {"low_resolution": self._low_resolution} | {name: getattr(self, name) for name in self._untold}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if prefix.removesuffix(".") in (modules := getattr(destination, "_metadata", {})):
            modules[prefix.removesuffix(".")][UNTOLD] = self.untold

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `nn.Module.load_state_dict`, for the key names of older checkpoints too.

        Raises:
            WeightsError: the tensors were saved from a network that computes something else with them (`untold`). With
                `strict=False` that is a warning.
        """
        said = untold_of(state_dict)
        mine = self.untold
        if differing := {name: said[name] for name in said.keys() & mine if said[name] != mine[name]}:
            text = (
                f"these weights were saved from a {type(self).__name__} with "
                f"{' and '.join(f'{name}={value!r}' for name, value in sorted(differing.items()))}, and this one is "
                "built otherwise. Build it alike, or give create_model the file itself as weights=PATH."
            )
            if strict:
                raise WeightsError(text)
            warn(text)
        return super().load_state_dict(self._own_names(state_dict), strict=strict, assign=assign)

    def reset_stem(self, in_channels: int) -> None:
        """Let the first convolution take `in_channels` channels, keeping what it has learnt.

        1: the kernels are summed over the channels, which equals a grey picture given three times. More: the kernels
        are repeated and rescaled, so that the sum over the channels stays what it was.
        """
        in_channels = check_count("in_channels", in_channels)
        old = self.get_submodule(self._stem)
        if not isinstance(old, nn.Conv2d):
            raise UsageError(f"the first layer, {self._stem}, is a {type(old).__name__}, not a convolution.")
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
        """For pictures of some 32 pixels: leave out the first two halvings of the resolution.

        Convolutions get a stride of 1, pooling layers become `nn.Identity`, and a first convolution of 5 × 5 pixels or
        more becomes one of 3 × 3 with newly drawn weights, as He et al. 2016, 4.2 do it for CIFAR.
        """
        halving = [
            (path, module)
            for path, module in self.named_modules()
            if isinstance(module, nn.Conv2d | nn.MaxPool2d) and module.stride in (2, (2, 2))
        ]
        for path, module in halving[:2]:
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
                continue
            parent, _, name = path.rpartition(".")
            setattr(self.get_submodule(parent), name, nn.Identity())
        stem = self.get_submodule(self._stem)
        if isinstance(stem, nn.Conv2d) and stem.kernel_size[0] > 3:
            stem.kernel_size, stem.padding = (3, 3), (1, 1)
            stem.weight = nn.Parameter(stem.weight.new_empty(*stem.weight.shape[:2], 3, 3))
            self._init_weights(stem)
        self._stages = [replace(stage, stride=max(1, stage.stride // 4)) for stage in self._stages]
        self._map_ends = None
        self.min_size = -(-self.min_size // 4)
        self._low_resolution = True

    # --- memory -------------------------------------------------------------------------------------------------------

    def set_activation_checkpointing(self, enabled: bool = True) -> None:
        """Keep only the input of each block for the backward pass and compute the rest again (Chen et al. 2016).

        Gradients and running statistics are what they are without; a training step takes about a third longer.
        """
        if not isinstance(enabled, bool):
            raise UsageError(f"enabled is {enabled!r}; it must be True or False.")
        self._checkpointing = enabled


UNTOLD = "vertebra"  # the key of `ConvNet.untold` in the metadata of a state dict


def untold_of(state_dict: Any, module: str = "") -> dict[str, Any]:
    """What the network says of itself that was saved from `module` of a model; empty where it says nothing."""
    modules = getattr(state_dict, "_metadata", None)
    of_module = modules.get(module) if isinstance(modules, dict) else None
    said = of_module.get(UNTOLD) if isinstance(of_module, dict) else None
    return said if isinstance(said, dict) else {}


def _segments(modules: Sequence[nn.Module]) -> Iterator[nn.Sequential]:
    """Blocks one by one; runs of single layers (a stem, VGG's convolutions) as one."""
    run: list[nn.Module] = []
    for module in modules:
        if not any(module.children()):
            run.append(module)
            continue
        if run:
            yield nn.Sequential(*run)
            run = []
        blocks = list(module) if type(module) is nn.Sequential else [module]
        for block in blocks:
            yield nn.Sequential(block)
    if run:
        yield nn.Sequential(*run)


def checkpointed(run: Callable[..., Tensor], *inputs: Tensor, norms: nn.Module) -> Tensor:
    """`run(*inputs)`, computed again in the backward pass; the batch norms in `norms` count each batch once."""
    output: Tensor
    if torch.compiler.is_compiling():  # a compiled graph changes the statistics once, however often it recomputes
        output = checkpoint(run, *inputs, use_reentrant=False)
    else:
        contexts = partial(_forward_and_recompute_contexts, norms)
        output = checkpoint(run, *inputs, use_reentrant=False, context_fn=contexts)
    return output


def _forward_and_recompute_contexts(norms: nn.Module) -> tuple[Any, Any]:
    return nullcontext(), _statistics_kept(norms)


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """The second forward pass must not move the running statistics of batch norm a second time."""
    norms = [m for m in module.modules() if isinstance(m, _NormBase) and m.track_running_stats and m.training]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # Not track_running_stats = False: autograd would save two tensors less than in the first pass, and refuse.
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, num_batches_tracked in kept:
            norm.momentum, norm.num_batches_tracked = momentum, num_batches_tracked

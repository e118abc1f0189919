"""What every network can do: feature maps, embedding, logits; loading and saving weights.

A family writes `forward_maps`, which gives one feature map after the other. All other forward methods, the list of
stages and activation checkpointing follow from that.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from vertebra.errors import UsageError, WeightsError, warn
from vertebra.model_table import families_of_any_size

from .activation_checkpointing import run_checkpointed
from .stages import Stage as Stage
from .stages import final_map, recorded_layers, run_in_sequence, stages_of
from .surgery import Adaptable
from .timm_methods import TimmMethods, unpooled_head
from .timm_weights import to_torchvision_names

if TYPE_CHECKING:
    from .build import LoadedWeights

Run = Callable[..., Any]  # run(x, *layers): the layers one after the other


class ConvNet(TimmMethods, Adaptable):
    """A convolutional classifier: stages, then pooling, then a head that ends in one linear classifier.

    `forward(x)` is `forward_head(forward_features(x))`: (N, in_channels, H, W) → logits (N, num_classes). Without a
    classifier (`reset_classifier(0)`) it is the classifier's input, (N, head_hidden_size), and with `global_pool=""`
    the last feature map; built with `features_only=True` it is a list of feature maps (`feature_info`).

    Raises:
        UsageError: the input is not (N, in_channels, H, W) with H and W of at least `min_size` pixels.
    """

    # Arguments of the constructor that decide what the network computes and that its tensors do not show.
    hidden_options: tuple[str, ...] = ()
    avgpool: nn.Module  # where the family has it as a module
    # Whether the file that the weights are from leaves open what `reset_resolution` would have changed.
    resolution_assumed: bool = False
    # The weights that it was built with; None: randomly initialised ones. A copy, a pickle and a new head keep it.
    origin: LoadedWeights | None = None
    _checkpointing = False

    def forward_maps(self, x: Tensor, run: Run) -> Iterator[tuple[str, Tensor]]:
        """The body of the network: the name of each feature map and the map, in turn.

        Named are the stages, and with a dot what a stage begins with: "stem.relu", then "stem". A map is there for each
        end of a stage, and before each layer that halves the resolution.

        Args:
            x: images (N, in_channels, H, W).
            run: `run(x, *layers)` gives what the layers make of x one after the other, or records them.
        """
        raise NotImplementedError

    def forward_body(self, x: Tensor) -> Tensor:
        """The last of `forward_maps`. A family whose body is one module calls that as a whole, so that hooks on it are
        called, and layers that were added to it run.
        """
        for _, last in self.forward_maps(x, run_in_sequence):
            x = last
        return x

    def prepare_input(self, x: Tensor) -> Tensor:
        """The images as the first layer takes them; a `UsageError` where they are none for this network."""
        self._check_input(x)
        return x

    def maps_at(self, x: Tensor, *names: str) -> Iterator[Tensor]:
        """The maps of these names, in the order of `forward_maps`; what none of them needs does not run."""
        checkpoints = self._checkpointing and torch.is_grad_enabled()
        maps = self._checkpointed_maps(x, names) if checkpoints else self.forward_maps(x, run_in_sequence)
        for name, found in maps:
            if name in names:
                yield found
            if name == names[-1]:
                return

    def _checkpointed_maps(self, x: Tensor, names: Container[str]) -> Iterator[tuple[str, Tensor]]:
        layers: list[Callable[[Tensor], Tensor]] = []
        for name, more in recorded_layers(self):
            layers += more
            if "." not in name or name in names:  # no segment reaches over the end of a stage
                x = run_checkpointed(x, layers)
                layers = []
                yield name, x

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in order; `forward_stages` returns one output for each."""
        return stages_of(self)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) → one feature map (N, channels, ~H/stride, ~W/stride) a stage."""
        self._check_head("forward_stages")
        names = [name for name, _ in recorded_layers(self) if "." not in name]
        return list(self.maps_at(self.prepare_input(x), *names))

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) → the last feature map, which is the last of `forward_stages`."""
        self._check_head("forward_features")
        x = self.prepare_input(x)
        if not self._checkpointing:
            return self.forward_body(x)
        return next(self.maps_at(x, final_map(self)))

    def pool(self, features: Tensor) -> Tensor:
        """The last feature map → (N, D), the input of the head."""
        return torch.flatten(self.avgpool(features), 1)

    def _pooled(self, features: Tensor) -> Tensor:
        x = self.pool(features)
        return F.dropout(x, self._head_dropout, self.training) if self._head_dropout else x

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """The last feature map → logits (N, num_classes); with `pre_logits` the classifier's input.

        That is `forward_embedding`, or with `global_pool=""` the map without pooling.
        """
        self._check_head("forward_head")
        if not self._global_pool:
            return unpooled_head(self, features)
        if pre_logits:
            return self.forward_embedding(features)
        logits: Tensor = self.head_module(self._pooled(features))
        return logits

    def forward_embedding(self, features: Tensor) -> Tensor:
        """The last feature map → (N, D), the classifier's input (4096 values in VGG, pooled channels elsewhere)."""
        self._check_head("forward_embedding")
        x = self._pooled(features)
        if isinstance(self.head_module, nn.Sequential):
            for layer in list(self.head_module)[:-1]:
                x = layer(x)
        return x

    def forward(self, x: Tensor) -> Any:
        if self._feature_info is not None:
            return list(self.maps_at(self.prepare_input(x), *self.kept_maps))
        return self.forward_head(self.forward_features(x))

    def set_activation_checkpointing(self, enabled: bool = True) -> None:
        """Keep only the input of each block for the backward pass and compute the rest again (Chen et al. 2016).

        Gradients and running statistics are what they are without; a training step takes about a third longer.
        """
        if not isinstance(enabled, bool):
            raise UsageError(f"enabled is {enabled!r}; it must be True or False.")
        self._checkpointing = enabled

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
                f"{name} takes images of at least {self.min_size} × {self.min_size} pixels, got {shape[2]} × "
                f"{shape[3]}. Resize them, or choose a network that takes any size, of {families_of_any_size()}."
            )

    def _initialise(self) -> None:
        self.initialise(self)

    def initialise(self, module: nn.Module) -> None:
        """Initialise all layers of a module, which may be a new one, as this family initialises its own."""
        # On the meta device there is nothing to initialise, and asking for it costs more than building the layers.
        if any(parameter.is_meta for parameter in module.parameters()):
            return
        for layer in module.modules():
            self._init_weights(layer)

    @classmethod
    def convert_state_dict(cls, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keys of older or foreign checkpoints → this family's keys; others pass unchanged."""
        return state_dict

    @classmethod
    def own_names(cls, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keys of older checkpoints, and of timm's → this family's."""
        return cls.convert_state_dict(to_torchvision_names(cls, state_dict))

    @classmethod
    def options_of(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """Arguments for the network that these tensors were saved from, as far as their shapes show."""
        stem = state_dict.get(f"{cls.stem_path}.weight")
        heads = [k for k, v in state_dict.items() if k.startswith(f"{cls.head_name}.") and v.ndim == 2]
        if stem is None or stem.ndim != 4 or not heads:
            lacking = f"none is the convolution {cls.stem_path}.weight"
            if stem is not None and stem.ndim == 4:
                lacking = f"{cls.stem_path}.weight is there, and no linear layer is in {cls.head_name}"
            raise WeightsError(
                f"no {cls.__name__}: of {len(state_dict)} tensors ({', '.join(list(state_dict)[:3])}, …) {lacking}. "
                "Was it saved from another network? Then add --model NAME (`vertebra models` lists all)."
            )
        return {"num_classes": state_dict[heads[-1]].shape[0], "in_channels": stem.shape[1]}

    @property
    def hidden_settings(self) -> dict[str, Any]:
        """What this network does that its tensors do not show; saved in the `_metadata` of its `state_dict()`."""
        return {"low_resolution": self.low_resolution} | {name: getattr(self, name) for name in self.hidden_options}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if prefix.removesuffix(".") in (modules := getattr(destination, "_metadata", {})):
            modules[prefix.removesuffix(".")][SETTINGS_KEY] = self.hidden_settings

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `nn.Module.load_state_dict`, for the key names of older checkpoints too.

        Raises:
            WeightsError: the tensors were saved from a network of other `hidden_settings`, which computes something
                else with them. With `strict=False` that is a warning.
        """
        said = hidden_settings_of(state_dict)
        mine = self.hidden_settings
        if differing := {name: said[name] for name in said.keys() & mine if said[name] != mine[name]}:
            text = (
                f"these weights were saved from a {type(self).__name__} with "
                f"{' and '.join(f'{name}={value!r}' for name, value in sorted(differing.items()))}, and this one is "
                "built otherwise. Build it alike, or give create_model the file itself as weights=PATH."
            )
            if strict:
                raise WeightsError(text)
            warn(text)
        return super().load_state_dict(self.own_names(state_dict), strict=strict, assign=assign)


SETTINGS_KEY = "vertebra"  # the key of `ConvNet.hidden_settings` in the metadata of a state dict


def hidden_settings_of(state_dict: Any, module: str = "") -> dict[str, Any]:
    """What the network says of itself that was saved from `module` of a model; empty where it says nothing."""
    modules = getattr(state_dict, "_metadata", None)
    of_module = modules.get(module) if isinstance(modules, dict) else None
    said = of_module.get(SETTINGS_KEY) if isinstance(of_module, dict) else None
    return said if isinstance(said, dict) else {}

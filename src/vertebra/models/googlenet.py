"""GoogLeNet: convolutions of several sizes side by side, at a low cost (Szegedy et al. 2014, https://arxiv.org/abs/1409.4842).

1×1 convolutions reduce the channels before each larger one, and global average pooling takes the place of VGG's wide
layers: 6.6 M parameters instead of 138 M. This is the version with batch norm, as its published weights are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vertebra.errors import UsageError

from .build import build
from .convnet import ConvNet, Run
from .layers import Layer
from .published_weights import PORTED, REFERENCES, WeightsEnum, entry, published, resolve
from .registry import register_model

__all__ = [
    "GoogLeNet",
    "GoogLeNetOutputs",
    "_GoogLeNetOutputs",
    "GoogLeNet_Weights",
    "googlenet",
]


class GoogLeNetOutputs(NamedTuple):
    """What a network with auxiliary heads returns in training: logits, those of the head on 4d, and on 4a."""

    logits: Tensor
    aux_logits2: Tensor | None
    aux_logits1: Tensor | None


_GoogLeNetOutputs = GoogLeNetOutputs  # torchvision's older name


class BasicConv2d(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, **kwargs: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, bias=False, **kwargs)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))  # not in place, as torchvision's: a hook on bn was given that tensor


class Inception(nn.Module):
    """Four branches side by side, concatenated (Fig. 2b); the arguments are the columns of Table 1.

    (N, in_channels, H, W) → (N, ch1x1 + ch3x3 + ch5x5 + pool_proj, H, W)
    """

    def __init__(
        self,
        in_channels: int,
        ch1x1: int,
        ch3x3red: int,
        ch3x3: int,
        ch5x5red: int,
        ch5x5: int,
        pool_proj: int,
        conv_block: Layer | None = None,
    ) -> None:
        super().__init__()
        self.out_channels = ch1x1 + ch3x3 + ch5x5 + pool_proj
        conv = conv_block or BasicConv2d
        self.branch1 = conv(in_channels, ch1x1, kernel_size=1)
        self.branch2 = nn.Sequential(
            conv(in_channels, ch3x3red, kernel_size=1),
            conv(ch3x3red, ch3x3, kernel_size=3, padding=1),
        )
        self.branch3 = nn.Sequential(
            conv(in_channels, ch5x5red, kernel_size=1),
            # The paper has 5×5 here. The published weights are for 3×3, https://github.com/pytorch/vision/issues/906
            conv(ch5x5red, ch5x5, kernel_size=3, padding=1),
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1, ceil_mode=True),
            conv(in_channels, pool_proj, kernel_size=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class InceptionAux(nn.Module):
    """A second classifier half-way up, which brings gradient to the lower layers: (N, in_channels, H, W) → logits."""

    def __init__(
        self, in_channels: int, num_classes: int, conv_block: Layer | None = None, dropout: float = 0.7
    ) -> None:
        super().__init__()
        self.conv = (conv_block or BasicConv2d)(in_channels, 128, kernel_size=1)
        self.fc1 = nn.Linear(2048, 1024)
        self.fc2 = nn.Linear(1024, num_classes)
        self.dropout = nn.Dropout(p=dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(x, (4, 4))  # C × 4 × 4; the paper pools 5×5 at stride 3, the same size at 224 pixels
        x = torch.flatten(self.conv(x), 1)  # 128 × 4 × 4 → 2048
        x = self.dropout(F.relu(self.fc1(x)))
        logits: Tensor = self.fc2(x)
        return logits


class GoogLeNet(ConvNet):
    """Table 1. In training with `aux_logits`, returns `GoogLeNetOutputs`; the paper weighs the two other losses by 0.3.

    `transform_input` turns an input normalised with ImageNet's mean and deviation into one normalised with 0.5 and 0.5,
    which the published weights expect. `blocks` replaces BasicConv2d, Inception and InceptionAux. `init_weights`
    initialises from a normal distribution cut off at ±2 with deviation 0.01; None means True.
    """

    min_size = 15
    head_name = "fc"
    stem_path = "conv1.conv"
    hidden_options = ("transform_input",)

    def __init__(
        self,
        num_classes: int = 1000,
        aux_logits: bool = True,
        transform_input: bool = False,
        init_weights: bool | None = None,
        blocks: Sequence[Layer] | None = None,
        dropout: float = 0.2,
        dropout_aux: float = 0.7,
        *,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if blocks is not None and len(blocks) != 3:
            raise UsageError(f"blocks has {len(blocks)} elements; give three: convolution, Inception, auxiliary head.")
        conv, inception, aux = blocks or (BasicConv2d, Inception, InceptionAux)
        self.aux_logits = aux_logits
        self.transform_input = transform_input

        self.conv1 = conv(in_channels, 64, kernel_size=7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = conv(64, 64, kernel_size=1)
        self.conv3 = conv(64, 192, kernel_size=3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a = inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = inception(256, 128, 128, 192, 32, 96, 64)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = inception(528, 256, 160, 320, 32, 128, 128)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a = inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = inception(832, 384, 192, 384, 48, 128, 128)
        self.aux1 = aux(512, num_classes, dropout=dropout_aux) if aux_logits else None
        self.aux2 = aux(528, num_classes, dropout=dropout_aux) if aux_logits else None
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(p=dropout)
        self.fc = nn.Linear(1024, num_classes)

        if init_weights is None or init_weights:
            self._initialise()

    @classmethod
    def options_of(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        return super().options_of(state_dict) | {"aux_logits": any(key.startswith("aux1.") for key in state_dict)}

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.trunc_normal_(module.weight, mean=0.0, std=0.01, a=-2, b=2)
        else:
            super()._init_weights(module)

    def prepare_input(self, x: Tensor) -> Tensor:
        x = super().prepare_input(x)
        if not self.transform_input:
            return x
        # From (v - mean) / std to (v - 0.5) / 0.5. Channels beyond three begin again at red, as the kernels do.
        scales = [0.229 / 0.5, 0.224 / 0.5, 0.225 / 0.5]
        shifts = [(0.485 - 0.5) / 0.5, (0.456 - 0.5) / 0.5, (0.406 - 0.5) / 0.5]
        if self.in_channels == 1:  # one channel stands for all three: their mean
            scales, shifts = [sum(scales) / 3], [sum(shifts) / 3]
        return torch.cat([x[:, c : c + 1] * scales[c % 3] + shifts[c % 3] for c in range(self.in_channels)], 1)

    def pool(self, features: Tensor) -> Tensor:
        pooled: Tensor = self.dropout(super().pool(features))
        return pooled

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        if not num_classes:  # the auxiliary classifiers would have no classes either
            self.aux_logits, self.aux1, self.aux2 = False, None, None
        for aux in (self.aux1, self.aux2):
            if isinstance(aux, InceptionAux):
                aux.fc2 = self._new_linear(aux.fc2, num_classes)

    def forward_maps(self, x: Tensor, run: Run) -> Iterator[tuple[str, Tensor]]:
        """Shapes are for 224 × 224 pixels. An auxiliary head takes "inception4.a", another "inception4.d"."""
        yield "stem.conv1", (x := run(x, self.conv1))  # 64 × 112 × 112
        yield "stem", (x := run(x, self.maxpool1, self.conv2, self.conv3))  # 192 × 56 × 56
        yield "inception3", (x := run(x, self.maxpool2, self.inception3a, self.inception3b))  # 480 × 28 × 28
        yield "inception4.a", (x := run(x, self.maxpool3, self.inception4a))  # 512 × 14 × 14
        yield "inception4.d", (x := run(x, self.inception4b, self.inception4c, self.inception4d))  # 528 × 14 × 14
        yield "inception4", (x := run(x, self.inception4e))  # 832 × 14 × 14
        yield "inception5", (x := run(x, self.maxpool4, self.inception5a, self.inception5b))  # 1024 × 7 × 7

    def forward(self, x: Tensor) -> Tensor | GoogLeNetOutputs:
        if not (self.training and self.aux_logits):
            logits: Tensor = super().forward(x)
            return logits
        maps = self.maps_at(self.prepare_input(x), "inception4.a", "inception4.d", "inception5")
        after_4a = next(maps)
        aux1 = None if self.aux1 is None else self.aux1(after_4a)
        after_4d = next(maps)
        aux2 = None if self.aux2 is None else self.aux2(after_4d)
        return GoogLeNetOutputs(self.forward_head(next(maps)), aux2, aux1)

    def first_halvings(self) -> Sequence[nn.Module]:
        return self.stem_module, self.maxpool1


class GoogLeNet_Weights(WeightsEnum):
    IMAGENET1K_V1 = entry(
        "googlenet-1378be20",
        params=6_624_904,
        acc=(69.778, 89.530),
        gmacs=1.498,
        mib=49.731,
        min_size=15,
        recipe=f"{REFERENCES}#googlenet",
        docs=PORTED,
    )
    DEFAULT = IMAGENET1K_V1


@register_model(GoogLeNet_Weights)
def googlenet(*, weights: GoogLeNet_Weights | None = None, progress: bool = True, **kwargs: Any) -> GoogLeNet:
    """GoogLeNet (Inception v1): 6.6 M parameters, 1.5 GMACs.

    With weights, the auxiliary heads are left out unless `aux_logits=True`; in the published file they are not trained.
    """
    source = resolve(GoogLeNet_Weights, weights)
    if source is None:
        return build(GoogLeNet, GoogLeNet_Weights, None, progress, **kwargs)
    # No tensor shows how the input was normalised; what was published, under its name, has 0.5 and 0.5.
    assumed = {"transform_input": published(GoogLeNet_Weights, source) is not None}
    aux_logits = kwargs.pop("aux_logits", False)
    model = build(GoogLeNet, GoogLeNet_Weights, source, progress, assumed=assumed, **kwargs)
    if not aux_logits:
        model.aux_logits, model.aux1, model.aux2 = False, None, None
    elif not model.aux_logits:
        raise UsageError(f"{source} has no auxiliary heads; leave aux_logits out, or train from a file that has them.")
    return model

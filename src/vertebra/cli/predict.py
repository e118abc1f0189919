"""`vertebra predict`: photos → their most likely classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vertebra.cli._output import console, print_json
from vertebra.errors import ImageError, UsageError, WeightsError, printable

if TYPE_CHECKING:
    from torch import Tensor

    from vertebra.models import ConvNet, WeightsEnum

app = typer.Typer(add_completion=False, rich_markup_mode=None)

BAR_WIDTH = 30


@dataclass(frozen=True)
class Settings:
    """What to predict, and with what."""

    photos: tuple[str, ...]
    model: str = "efficientnet_lite0"
    weights: str = "DEFAULT"
    top: int = 5
    # Photos that go through the network at once: enough to keep the cores busy, few enough for any memory.
    batch_size: int = 16


@dataclass
class Prediction:
    """What one photo gave: classes, or the reason why there are none."""

    path: str
    predictions: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The object that `--json` prints: path, predictions (class, index, probability), error."""
        return {"path": self.path, "predictions": self.predictions, "error": self.error}


@app.command()
def predict(
    photos: Annotated[list[str], typer.Argument(metavar="PHOTO", help="Photos, or folders of them.")],
    model: Annotated[
        str, typer.Option(metavar="NAME", help="A network that `vertebra models` lists.")
    ] = Settings.model,
    weights: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Published weights, or a .pth or .safetensors file.")
    ] = Settings.weights,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="How many classes to show.")] = Settings.top,
    json: Annotated[bool, typer.Option("--json", help="Print JSON: a list with one object a photo.")] = False,
) -> None:
    """Classify photos with a pretrained network.

    A photo that cannot be read is reported while the others are still predicted; the exit code is then 1.
    """
    settings = Settings(tuple(photos), model=model, weights=weights, top=top)
    results = []
    for result in predict_photos(settings):
        results.append(result)
        if not json:
            _show(result)
    if json:
        print_json([result.as_dict() for result in results])
    failed = sum(result.error is not None for result in results)
    if failed:
        raise ImageError(f"{failed} of {len(results)} photos could not be classified.")


def predict_photos(settings: Settings) -> Iterator[Prediction]:
    """Predict photo after photo, in the order given; a folder gives its photos in the order of their paths.

    Raises:
        UsageError: there is no such network, or it has no such weights.
        WeightsError: the weights cannot be had, do not fit the network, or give no numbers.
    """
    import torch

    from vertebra import create_model

    if "" in settings.photos:
        raise UsageError(
            "a PHOTO is empty, as an unset variable would be. Give a file or a folder; `.` is this folder."
        )
    transform, categories = _preprocessing_and_classes(settings)
    todo = list(_expand(settings.photos))
    if not any(Path(result.path).is_file() for result in todo):
        # Weights may be half a gigabyte to fetch: not for photos that are not there.
        for result in todo:
            _read(result, transform)
        yield from todo
        return
    network = create_model(settings.model, weights=settings.weights).eval()
    names = _class_names(network, categories)
    remaining = iter(todo)
    while batch := list(islice(remaining, settings.batch_size)):
        inputs = [(result, _read(result, transform)) for result in batch]
        ready = [(result, tensor) for result, tensor in inputs if tensor is not None]
        if ready:
            with torch.inference_mode():
                probabilities = network(torch.stack([tensor for _, tensor in ready])).float().softmax(dim=1)
            if not probabilities.isfinite().all():
                raise WeightsError(f"{settings.weights} gives outputs that are no numbers: the weights are damaged.")
            values, indices = probabilities.topk(min(settings.top, len(names)), dim=1)
            for (result, _), row, columns in zip(ready, values.tolist(), indices.tolist(), strict=True):
                result.predictions = [
                    {"class": names[index], "index": index, "probability": value}
                    for value, index in zip(row, columns, strict=True)
                ]
        yield from batch


def _preprocessing_and_classes(settings: Settings) -> tuple[Any, list[str]]:
    """The transform (RGB picture → tensor) and the class names that belong to the weights.

    A file of one's own says neither: it gets those of the network's default weights.
    """
    from vertebra.models import get_model_weights
    from vertebra.models._weights import published, resolve

    enum = get_model_weights(settings.model)
    source = resolve(enum, settings.weights)
    member: WeightsEnum | None = published(enum, source) if isinstance(source, Path) else source
    member = member or enum["DEFAULT"]
    if member.meta["categories"] is None:
        usable = [repr(other) for other in enum if other.meta["categories"] is not None]
        raise UsageError(f"{member!r} has no classifier to predict with. Use {' or '.join(usable)}.")
    return member.transforms(), member.meta["categories"]


def _class_names(network: ConvNet, categories: Sequence[str]) -> Sequence[str]:
    if network.num_classes == len(categories):
        return categories
    return [f"class {index}" for index in range(network.num_classes)]


def _expand(photos: Sequence[str]) -> Iterator[Prediction]:
    """One result, still empty, for each photo; folders are searched with all below them."""
    from vertebra.runtime.image import SUFFIXES

    for photo in photos:
        folder = Path(photo)
        if not folder.is_dir():
            yield Prediction(photo)
            continue
        # Broken links and pipes too: what is there and cannot be read is named.
        found = sorted(path for path in folder.rglob("*") if not path.is_dir() and _is_photo(path.relative_to(folder)))
        if not found:
            endings = ", ".join(sorted(SUFFIXES))
            yield Prediction(photo, error=f"{photo}: there is no photo in this folder (looked for {endings})")
        yield from (Prediction(str(path)) for path in found)


def _is_photo(path: Path) -> bool:
    """Judged by the name; a hidden file is none (macOS puts a "._photo.jpg" beside each photo on foreign disks)."""
    from vertebra.runtime.image import SUFFIXES

    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _read(result: Prediction, transform: Any) -> Tensor | None:
    """The network's input from one photo; where that fails, None, and the reason is kept in the result."""
    from vertebra.runtime.image import open_image

    if result.error is not None:
        return None
    try:
        picture = open_image(result.path)
    except ImageError as error:
        result.error = str(error)
        return None
    try:
        tensor: Tensor = transform(picture)
    except ImageError as error:  # knows the picture, not the file that it came from
        result.error = f"{result.path}: {error}"
        return None
    return tensor


def _show(result: Prediction) -> None:
    """Print one photo's classes as bars; an error goes to stderr."""
    if result.error is not None:
        typer.echo(f"vertebra: {printable(result.error)}", err=True)
        return
    from rich.table import Table
    from rich.text import Text

    out = console()
    # Terminals that know no blocks get another sign.
    sign = "█" if out.encoding.startswith("utf") else "#"
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", width=7)
    table.add_column(width=BAR_WIDTH)
    table.add_column(no_wrap=True)
    for entry in result.predictions:
        bar = sign * round(entry["probability"] * BAR_WIDTH)
        table.add_row(f"{entry['probability']:.1%}", Text(bar, style="cyan"), Text(entry["class"]))
    out.print(Text(printable(result.path), style="bold"))
    out.print(table)

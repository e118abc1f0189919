"""`vertebra card`: print the card of an exported file."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vertebra.cli._options import model_help
from vertebra.cli._output import note
from vertebra.errors import MissingExtraError, UsageError, WeightsError, printable
from vertebra.files import wrap_write_errors, write_durably
from vertebra.units import count, three_figures

if TYPE_CHECKING:
    from vertebra.card import Card, Decoding

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def card(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=model_help("card"))],
    json: Annotated[bool, typer.Option("--json", help="Print the card as it is in the file.")] = False,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE.md", help="Write a model card to read.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read the whole file: is it as it was exported?")] = False,
) -> None:
    """Show the card inside an exported file: network, classes, preprocessing, weights, accuracy, licence.

    Of a network's name it is the card of the file that predicts by that name, which is exported once; where that cannot
    be done, its published figures.
    """
    from vertebra.card import read_card
    from vertebra.loading import exported_file
    from vertebra.model_argument import ModelKind, resolve_model

    if markdown is not None:
        check_markdown(markdown)
    found_model = resolve_model(model, "card")
    try:
        file = exported_file(found_model)
    except (MissingExtraError, WeightsError) as error:
        if json or markdown is not None or verify or found_model.kind is not ModelKind.NETWORK:
            raise
        _show_published(found_model.name)
        why = (
            "needs torch. Run: pip install 'vertebra[torch]'"
            if isinstance(error, MissingExtraError)
            else f"cannot be made: {error}"
        )
        note(f"that is what is published; the card of its exported file {' '.join(why.split())}")
        return
    found = verify_card(file) if verify else read_card(file)
    if markdown is not None:
        write_markdown(found, markdown)
    if json:
        typer.echo(json_format.dumps(json_format.loads(found.to_json()), indent=2))
        return
    if verify:
        typer.echo(f"{file} is as it was exported: the SHA-256 of its contents is {found.content_sha256}")
        return
    _print(card_rows(found))


def _print(rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        typer.echo(f"{name:{width}}  {value}")


def _show_published(name: str) -> None:
    """Print the published figures of a network that cannot be exported here."""
    from vertebra.model_table import find_network

    network = find_network(name)
    weights = network.default
    _print(
        [
            ("network", f"{network.name}, of the family {network.family}"),
            ("parameters", count(weights.parameters)),
            ("cost", f"{three_figures(weights.gmacs)} GMACs an image of {weights.crop_size} × {weights.crop_size}"),
            ("weights", f"{weights.name}, {three_figures(weights.mb)} MB"),
            ("from", weights.url),
            ("ImageNet", f"top-1 {weights.top1:.2f} %"),
        ]
    )


def verify_card(file: Path) -> Card:
    """Return the card of an unmodified file.

    Raises:
        CardError: the file has changed since it was exported, or has no checksum.
    """
    from vertebra.card import CardError
    from vertebra.model_checksum import verify

    found = verify(file)
    if found.content_sha256 is None:
        raise CardError(
            f"{file} has no checksum: it was made by an older Vertebra, so it cannot be known whether it is as it was "
            "exported. Files that are exported now have one."
        )
    return found


def _describe_white(decoding: Decoding) -> str:
    if decoding.rule == 1:
        return "white at 65,535 whatever the file says; alpha of 0 everywhere is white (the rule of older files)"
    return f"white at {2 ** (decoding.bits or 16) - 1:,}, or where the file says"


def card_rows(card: Card) -> list[tuple[str, str]]:
    """List the rows of a card as (name, value), with control characters escaped: cards are untrusted input."""
    steps = card.preprocessing
    names = (
        "numbers"
        if card.classes is None
        else f"{len(card.classes)}: {', '.join(card.classes[:3])}{', …' if len(card.classes) > 3 else ''}"
    )
    rows = [
        ("network", f"{card.architecture}, {card.precision}"),
        ("input", f"image: uint8 (N, {steps.crop_size}, {steps.crop_size}, 3), RGB"),
        (
            "preprocessing",
            f"{steps.describe()}; the graph normalises",
        ),
        ("16-bit photos", _describe_white(steps.decoding)),
        ("outputs", "probabilities (N, K), embedding (N, D), features (N, C, h, w)"),
        ("classes", names),
    ]
    if card.weights is None:
        rows.append(("weights", "random"))
    else:
        digest = f", SHA-256 {card.weights.sha256}" if card.weights.sha256 is not None else ""
        rows.append(("weights", f"{card.weights.name}{digest}"))
        if card.weights.url is not None:
            rows.append(("from", card.weights.url))
    rows.append(("licence", card.licence or "not known"))
    for data, measures in card.metrics.items():
        rows.append((data, ", ".join(f"{name} {value}" for name, value in measures.items())))
    if card.threshold is not None:
        rows.append(("unsure below", f"{card.threshold:.3f}"))
    rows.append(("contents", f"SHA-256 {card.content_sha256}" if card.content_sha256 else "without a checksum"))
    rows.append(("made", f"{card.created or 'at an unknown time'} with {_versions(card)}"))
    return [(printable(name), printable(value)) for name, value in rows]


def _versions(card: Card) -> str:
    return ", ".join(f"{name} {version}" for name, version in card.versions.items()) or "unknown versions"


def check_markdown(path: Path) -> None:
    """Require a target that ends in .md, so that no other file is overwritten."""
    if path.suffix.lower() != ".md":
        raise UsageError(f"the model card to write is {str(path)!r}; its name must end in .md")


def write_markdown(card: Card, path: Path) -> None:
    """Write the card as a README-style model card.

    Raises:
        VertebraError: the file cannot be written.
    """
    title = printable(card.architecture) + ("" if card.precision == "float32" else f" ({card.precision})")
    table = "\n".join(f"| {name} | {value} |" for name, value in card_rows(card))
    classes = (
        ""
        if card.classes is None
        else "\n\n## Classes\n\n" + "\n".join(f"1. {each}" for each in map(printable, card.classes))
    )
    text = (
        f"# {title}\n\nAn image classifier in one ONNX file. A client decodes a photo, resizes and crops it as below, "
        f"and gives the pixels as they are.\n\n| | |\n| --- | --- |\n{table}{classes}\n"
    )
    with wrap_write_errors(path):
        write_durably(path, text.encode("utf-8", "backslashreplace"))

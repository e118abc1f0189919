"""`vertebra audit`: find problems of a data set before training."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from vertebra.card import Decoding
from vertebra.cli._options import AllowUnseen, Bits, Ignore, ImageRoot, LabelColumn, PathColumn, SplitColumn
from vertebra.cli._output import print_json, require_html_suffix
from vertebra.errors import printable

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def audit(
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="Class folders, a table, shards or Parquet, here or on s3://, or a name."),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with thumbnails of the findings.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if there are problems.")] = False,
    ignore: Ignore = None,
    allow_unseen: AllowUnseen = False,
    bits: Bits = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    image_root: ImageRoot = None,
) -> None:
    """Find broken photos, duplicates across labels and splits, mislabelled photos and imbalance in a data set.

    Each photo is decoded once, then cached by its content. Near-duplicates that are rotated by a few degrees, cropped
    to less than 7/8 of a side or framed by a border are not found.
    """
    from vertebra.data import DataError, open_dataset, read_image_info, select_usable, write_page
    from vertebra.data import audit as audit_dataset
    from vertebra.progress import progress_bar

    require_html_suffix(html)
    columns: dict[str, Any] = {"path_column": path_column, "label_column": label_column}
    columns |= {"split_column": split_column, "image_root": image_root}
    dataset = open_dataset(data, ignore=ignore or (), allow_unseen=allow_unseen, **columns)
    decoding = Decoding(bits=bits)
    with progress_bar("auditing the photos", bar=not json) as progress:
        infos = read_image_info(dataset, progress=progress, decoding=decoding)
    found = audit_dataset(dataset, infos, decoding=decoding)
    usable = [index for index, info in enumerate(infos) if info.broken is None]
    try:
        notes = select_usable(replace(dataset, notes=found.notes), usable, allow_unseen)[0].notes
    except DataError as error:
        notes = (*found.notes, f"Training on these is refused: {error}")
    found = replace(found, notes=notes)
    if json:
        print_json(found.to_dict())
    else:
        for line in found.lines():
            typer.echo(printable(line))
    if html is not None:
        command = ["vertebra", "audit", data, "--html", str(html)]
        for name in ignore or ():
            command += ["--ignore", name]
        command += ["--allow-unseen"] * allow_unseen
        for name, value in {"bits": bits, **columns}.items():
            command += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
        write_page(dataset, found, html, decoding, shlex.join(command), infos)
        if not json:
            typer.echo(f"page: {html}")
    if strict:
        found.check()

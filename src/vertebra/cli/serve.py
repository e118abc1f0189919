"""`vertebra serve`: exported classifiers behind HTTP, with a page."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Annotated

import typer

from vertebra.cli._options import model_help
from vertebra.errors import UsageError
from vertebra.signals import Terminated

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def serve(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL…", help=f"{model_help('serve')} NAME=MODEL serves it under that name."),
    ],
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 is everywhere.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="0: any that is free.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Require this key; better set in VERTEBRA_API_KEY.")
    ] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Let other machines in without a key.")] = False,
    cors: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="Let pages of https://… call it; may be repeated.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Answer to this name besides localhost, or to *.NAME; may be repeated."),
    ] = None,
    engine: Annotated[str, typer.Option(metavar="NAME", help="auto, onnxruntime or mnn.")] = "auto",
    tune: Annotated[bool, typer.Option("--tune", help="Find the fastest engine first; takes some seconds.")] = False,
    timeout: Annotated[float, typer.Option(metavar="S", help="Seconds until each request is answered.")] = 30.0,
    read_timeout: Annotated[
        float, typer.Option(metavar="S", help="Seconds in which a request's headers, and then its body, must arrive.")
    ] = 10.0,
    keep_alive: Annotated[int, typer.Option(metavar="S", help="Seconds until an idle connection is closed.")] = 75,
    queue: Annotated[int, typer.Option(metavar="N", help="Images in the queue of each model, at most.")] = 256,
    max_images: Annotated[int, typer.Option(metavar="N", help="Images of one request.")] = 64,
    max_mb: Annotated[float, typer.Option(metavar="MB", help="Size of one request, in 10⁶ bytes.")] = 32.0,
    max_megapixels: Annotated[float, typer.Option(metavar="N", help="Of one image.")] = 50.0,
) -> None:
    """Serve classifiers over HTTP, with a page to use them. A file that is replaced is loaded anew."""
    import logging

    from vertebra.errors import require_extra

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with require_extra("serve", "vertebra serve"):
        from vertebra.serve import ServerSettings, run
        from vertebra.serve.server_settings import API_KEY_VARIABLE
    settings = ServerSettings(
        models=tuple(models),
        host=host,
        port=port,
        api_key=api_key or os.environ.get(API_KEY_VARIABLE) or None,
        no_auth=no_auth,
        cors=tuple(cors or ()),
        allow_host=tuple(allow_host or ()),
        engine=engine,
        tune=tune,
        timeout=timeout,
        read_seconds=read_timeout,
        keep_alive=keep_alive,
        queue=queue,
        max_images=max_images,
        max_bytes=_count("--max-mb", max_mb),
        max_pixels=_count("--max-megapixels", max_megapixels),
    )
    with suppress(Terminated):  # once what was accepted is finished, which is what was asked for
        run(settings, logging.getLogger("vertebra.serve").info)


def _count(option: str, millions: float) -> int:
    """What the option means, in ones."""
    if not 1e-6 <= millions <= 1e9:
        raise UsageError(f"{option} is {millions}; it must be above 0 and at most 10⁹.")
    return int(millions * 1e6)

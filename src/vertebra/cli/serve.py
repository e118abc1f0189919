"""`vertebra serve`: an HTTP server for classifiers, with a web page."""

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
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="Port; 0 for any free one.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Require this key; better set in VERTEBRA_API_KEY.")
    ] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Allow other machines without a key.")] = False,
    cors: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="Allow pages of https://…; may be repeated.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Host name to allow besides localhost, or *.NAME; may be repeated."),
    ] = None,
    engine: Annotated[str, typer.Option(metavar="NAME", help="auto, onnxruntime, mnn or kernels.")] = "auto",
    tune: Annotated[bool, typer.Option("--tune", help="Measure the fastest engine first; takes seconds.")] = False,
    timeout: Annotated[float, typer.Option(metavar="S", help="Seconds within which a request is answered.")] = 30.0,
    read_timeout: Annotated[
        float, typer.Option(metavar="S", help="Seconds in which a request's headers, and then its body, must arrive.")
    ] = 10.0,
    keep_alive: Annotated[int, typer.Option(metavar="S", help="Seconds until an idle connection is closed.")] = 75,
    queue: Annotated[int, typer.Option(metavar="N", help="Maximum number of images in each queue.")] = 256,
    max_images: Annotated[int, typer.Option(metavar="N", help="Maximum number of images in a request.")] = 64,
    max_mb: Annotated[float, typer.Option(metavar="MB", help="Maximum size of a request, in 10⁶ bytes.")] = 32.0,
    max_megapixels: Annotated[float, typer.Option(metavar="N", help="Maximum size of an image.")] = 50.0,
) -> None:
    """Serve classifiers over HTTP, with a web page. Files that are replaced are reloaded."""
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
        max_bytes=_from_millions("--max-mb", max_mb),
        max_pixels=_from_millions("--max-megapixels", max_megapixels),
    )
    with suppress(Terminated):  # raised after a clean shutdown
        run(settings, logging.getLogger("vertebra.serve").info)


def _from_millions(option: str, millions: float) -> int:
    if not 1e-6 <= millions <= 1e9:
        raise UsageError(f"{option} is {millions}; it must be above 0 and at most 10⁹.")
    return int(millions * 1e6)

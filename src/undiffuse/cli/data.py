"""The commands ``undiffuse data ...``. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from undiffuse.api import catalogue
from undiffuse.cli.checks import completion
from undiffuse.cli.checks.commands import checked
from undiffuse.cli.options import RecipeReadsOption, list_rows

data_app = typer.Typer(help="Look at, fetch and prepare data sets.", no_args_is_help=True, rich_markup_mode=None)

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SRC",
        help="a source's name, a folder of images, an archive or another file of them",
        autocompletion=completion.data,
    ),
]
SourceOptions = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="of the source, such as labels=leaf, also data.labels=leaf"),
]


@data_app.command("list")
def data_list() -> None:
    """List the data sources."""
    list_rows(catalogue.data_sources())


@data_app.command("info")
@checked("data info")
def data_info(
    source: SourceArgument,
    options: SourceOptions = None,
    grid: Annotated[Path | None, typer.Option(help="write a contact grid of 64 items here (PNG)")] = None,
    augment: Annotated[
        str | None, typer.Option(help="the grid shows this augmentation instead: flip, document or karras")
    ] = None,
    recipe: RecipeReadsOption = None,
) -> None:
    """Say what is in a data set: counts, shape, classes, split, fingerprint."""
    from undiffuse.cli.data_info import show_data

    show_data(source, grid, augment, options or [], recipe)


@data_app.command("prepare")
@checked("data prepare")
def data_prepare(
    source: SourceArgument,
    out: Annotated[Path, typer.Option(help="the archive to write, such as flowers-64.zip")],
    options: SourceOptions = None,
    size: Annotated[
        str | None, typer.Option(help="side of the square, such as 64, or 48x64; without it, as training would choose")
    ] = None,
    fit: Annotated[str | None, typer.Option(help="crop cuts the centre out, letterbox keeps all in bars")] = None,
    channels: Annotated[
        int | None, typer.Option(help="1 (grey) or 3 (RGB); grey if all images are, by default")
    ] = None,
    background: Annotated[
        str | None, typer.Option(help="level or [r,g,b] under transparency and in bars; 255 by default")
    ] = None,
    upscale: Annotated[bool, typer.Option("--upscale", help="enlarge images below --size")] = False,
    classes: Annotated[str | None, typer.Option(help="keep these alone, such as daisy,roses")] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", help="min_side=64, max_aspect=2, min_contrast=4; repeat for several"),
    ] = None,
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="keep images that come out the same in every pixel")
    ] = False,
    on_error: Annotated[
        str, typer.Option(help="an image that cannot be read or is too small: fail, or skip and count it")
    ] = "fail",
    workers: Annotated[int | None, typer.Option(help="processes; all cores by default")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the archive, or one begun otherwise")] = False,
) -> None:
    """Make any source into one archive of images of one size, with labels, captions and a manifest.

    Stopped or killed, the same command goes on where it was. Any tool that reads StyleGAN's and EDM's zip reads it.
    """
    from undiffuse.api.datasets import preparing
    from undiffuse.cli.tables import print_manifest

    given = {"size": size, "fit": fit, "channels": channels, "background": background, "classes": classes}
    manifest = preparing.prepare(
        source,
        out,
        options=options or [],
        given={**given, **({"upscale": True} if upscale else {})},
        filters=filters or [],
        keep_duplicates=keep_duplicates,
        on_error=on_error,
        workers=workers,
        overwrite=overwrite,
    )
    print_manifest(manifest, out)


@data_app.command("get")
@checked("data get")
def data_get(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="of the set; without it, all are listed", autocompletion=completion.sets),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder to put it in; data/NAME by default")] = None,
) -> None:
    """Fetch a public data set from its publisher, check it, and say what to give to --data."""
    from undiffuse.cli import download

    if name is None:
        download.list_sets()
    else:
        download.get_set(name, out)

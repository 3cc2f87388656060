"""The commands ``undiffuse data ...``. Heavy imports are inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from undiffuse.api import catalogue
from undiffuse.cli.checks import completion
from undiffuse.cli.checks.commands import checked
from undiffuse.cli.options import RecipeReadsOption, list_rows

data_app = typer.Typer(help="Inspect, download and prepare data sets.", no_args_is_help=True, rich_markup_mode=None)

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SRC",
        help="a source's name, a folder of images, an archive or another image file",
        autocompletion=completion.data,
    ),
]
SourceOptions = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="options of the source, such as labels=leaf or data.labels=leaf"),
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
    """Describe a data set: counts, shape, classes, split, fingerprint."""
    from undiffuse.cli.data_info import show_data

    show_data(source, grid, augment, options or [], recipe)


@data_app.command("prepare")
@checked("data prepare")
def data_prepare(
    source: SourceArgument,
    out: Annotated[Path, typer.Option(help="the archive to write, such as flowers-64.zip")],
    options: SourceOptions = None,
    size: Annotated[
        str | None, typer.Option(help="side of the square, such as 64, or 48x64; by default, as in training")
    ] = None,
    fit: Annotated[str | None, typer.Option(help="crop: the centre; letterbox: the whole image, padded")] = None,
    channels: Annotated[
        int | None, typer.Option(help="1 (grey) or 3 (RGB); grey if all images are, by default")
    ] = None,
    background: Annotated[
        str | None, typer.Option(help="level or [r,g,b] behind transparency and for padding; 255 by default")
    ] = None,
    upscale: Annotated[bool, typer.Option("--upscale", help="enlarge images below --size")] = False,
    classes: Annotated[str | None, typer.Option(help="keep only these, such as daisy,roses")] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", help="min_side=64, max_aspect=2, min_contrast=4; may be repeated"),
    ] = None,
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="keep images with identical pixels after conversion")
    ] = False,
    on_error: Annotated[
        str, typer.Option(help="an image that cannot be read or is too small: fail, or skip and count it")
    ] = "fail",
    workers: Annotated[int | None, typer.Option(help="processes; all cores by default")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace the archive, or a partial one with other settings")
    ] = False,
) -> None:
    """Convert a source to one archive of images of one size, with labels, captions and a manifest.

    After an interruption, the same command resumes. Any tool that reads the zip format of StyleGAN and EDM reads it.
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
        typer.Argument(metavar="[NAME]", help="name of the set; lists all if omitted", autocompletion=completion.sets),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder to put it in; data/NAME by default")] = None,
) -> None:
    """Download a public data set from its publisher, verify it, and print the value for --data."""
    from undiffuse.cli import download

    if name is None:
        download.list_sets()
    else:
        download.get_set(name, out)

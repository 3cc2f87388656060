"""The command ``seal``."""

from __future__ import annotations

from typing import Annotated

import typer

from undiffuse.cli.checks.commands import checked
from undiffuse.cli.options import ModelArgument


@checked("seal")
def seal(
    model: ModelArgument,
    restore: Annotated[
        bool, typer.Option("--restore", help="restore the configuration that the weights were saved with")
    ] = False,
) -> None:
    """Accept an intended edit of a run's or model's config.json, or restore the original one."""
    from undiffuse.api import sealing

    sealing.seal(model, restore)

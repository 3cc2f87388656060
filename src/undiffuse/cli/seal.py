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
        bool, typer.Option("--restore", help="put back the configuration that the weights were saved with")
    ] = False,
) -> None:
    """Accept config.json of a run or model that was edited on purpose, or put back the one that was."""
    from undiffuse.api import sealing

    sealing.seal(model, restore)

"""``undiffuse seal``: an edited configuration is meant, or the one that the weights were saved with comes back."""

from __future__ import annotations

from pathlib import Path

from undiffuse.app.models import find_model
from undiffuse.app.show import say
from undiffuse.errors import UsageError
from undiffuse.models.record import accept
from undiffuse.models.record import restore as put_back
from undiffuse.models.saved import kept_configs


def seal(model: str | Path, restore: bool = False) -> None:
    """Make ``config.json`` of a run or a model folder sound again; weights and checkpoints are not touched.

    Args:
        model: the folder, or the name of a bundled model.
        restore: put back the copy that the weights were saved with, instead of accepting the file as it stands.
    Raises:
        UsageError: nothing to accept or to put back.
    """
    folder = find_model(model)
    kept = kept_configs(folder)
    if not restore:
        differs = accept(folder, kept)
        say(f"accepted: {folder / 'config.json'}{' (' + '; '.join(differs) + ')' if differs else ''}")
        return
    if not kept:
        raise UsageError(f"{folder} has no sound weights with a copy of config.json; put a sound copy back yourself")
    put_back(folder, kept[0])
    say(f"put back: {folder / 'config.json'}, as the weights were saved with it")

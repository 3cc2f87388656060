"""``undiffuse models``: the bundled models."""

from __future__ import annotations

import json
from typing import Any

from undiffuse.api.catalogue import Bundled, bundled, bundled_models
from undiffuse.cli.terminal import print_line
from undiffuse.wording import count_noun


def list_models(name: str | None, as_json: bool) -> None:
    """Print a line for each bundled model, or one model's card.

    Args:
        name: the model whose card is printed; None lists all models.
        as_json: print JSON instead: a list, or one object.
    Raises:
        UsageError: no such model.
    """
    if name is not None:
        found = bundled(name)
        print_line(
            _json(_row(found)) if as_json else (found.folder / "model_card.md").read_text(encoding="utf-8").rstrip()
        )
        return
    rows = [bundled(name) for name in bundled_models()]
    if as_json:
        print_line(_json([_row(row) for row in rows]))
        return
    width = max(map(len, bundled_models()), default=0)
    for row in rows:
        print_line(f"{row.name:<{width}}  {_line(row)}")
    print_line("next: undiffuse sample NAME -n 64, or undiffuse models NAME for its card")


def _line(model: Bundled) -> str:
    card = model.card
    parts = [
        f"{card.title}, {'×'.join(map(str, model.shape))}",
        count_noun(len(model.class_names), "class") if model.class_names else "no classes",
        f"{card.evaluations} NFE",
        card.headline,
        f"{model.num_bytes / 1e6:.1f} MB",
        f"{card.licence}, data: {', '.join(trained_on.licence for trained_on in card.sets)}",
    ]
    return "; ".join(filter(None, parts))


def _row(model: Bundled) -> dict[str, Any]:
    """The summary as plain values, without the folder, which depends on the machine."""
    return model.model_dump(mode="json", exclude={"folder"})


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)

"""``undiffuse data info``: a data set in a table, and on a sheet."""

from __future__ import annotations

from pathlib import Path

from undiffuse.app.show import say, table
from undiffuse.data import load_dataset, source_config_for
from undiffuse.data.audit import contact_sheet, describe
from undiffuse.files import replacing


def show_data(source: str, sheet: Path | None) -> None:
    """Print the facts of a data set and, if asked, write a contact sheet."""
    config = source_config_for(source)
    dataset = load_dataset(config)
    facts = describe(dataset, config)
    classes = ", ".join(f"{name}: {count}" for name, count in facts["classes"].items()) or "none"
    rows = [
        ["items", f"{facts['num_items']} {facts['kind']} of shape {tuple(facts['shape'])}"],
        ["classes", classes],
        *[["captions, such as" if row == 0 else "", text] for row, text in enumerate(facts["captions"])],
        ["split", f"{facts['split']['train']} training, {facts['split']['validation']} held out"],
        ["duplicates", str(facts["num_duplicates"])],
        ["values", f"{facts['value_range'][0]:g} to {facts['value_range'][1]:g}"],
        ["fingerprint", facts["fingerprint"]],
        *[[key, value] for key, value in facts["provenance"].items()],
    ]
    table(facts["name"], ["", ""], rows)
    if sheet is not None:
        with replacing(sheet) as path:
            contact_sheet(dataset).save(path, format="PNG")
        say(f"contact sheet: {sheet}")

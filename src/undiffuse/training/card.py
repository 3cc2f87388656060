"""The model card next to the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from undiffuse.files import write_text

#: Commands of systems that do not generate samples.
_USES = {
    "classifier": "undiffuse sample MODEL -n 16 --classifier .",
    "contrastive": "undiffuse evaluate MODEL --metrics text_retrieval --evaluator .",
}


def write_model_card(folder: Path, record: Mapping[str, Any], images: int) -> None:
    """Write ``model_card.md``: a description of the model, its training data, and its use."""
    config, model, data = record["config"], record["model"], record["data"]
    system = config["system"]
    conditional = system.get("class_conditional") or system["name"] == "classifier"
    classes = ", ".join(model["class_names"]) if conditional else ""
    write_text(
        folder / "model_card.md",
        f"""# {config["recipe"]}

A {system["name"]} model trained with undiffuse.

| | |
|---|---|
| data | {config["data"]["name"]}, {data["train"]} training items, fingerprint {data["fingerprint"]} |
| shape | {" x ".join(map(str, model["shape"]))} |
| classes | {classes or "none"} |
| trained for | {images} images, seed {config["seed"]} |
{_origin(config.get("start"))}{_kind(system)}
| weights | exponential moving average, half-life {config["ema"]["halflife_images"]} images |

In this folder:

    {_USES.get(system["name"], "undiffuse sample . -n 16")}
""",
    )


def _origin(start: Mapping[str, Any] | None) -> str:
    """A line about the model that the training started from, if any."""
    if start is None:
        return ""
    return f"| fine-tuned from | {start['name']}, {start['weights']} weights {start['sha256']} |\n"


def _kind(system: Mapping[str, Any]) -> str:
    """Lines about the components of the system."""
    parts = {
        "process": system.get("process", {}).get("name"),
        "text encoder": _text_encoder(system.get("text")),
        "network predicts": system.get("parameterization"),
        "objective": system["objective"]["name"] if isinstance(system.get("objective"), Mapping) else None,
        "generator": system.get("generator", {}).get("name"),
        "discriminator": system.get("discriminator", {}).get("name"),
    }
    return "\n".join(f"| {name} | {value} |" for name, value in parts.items() if value)


def _text_encoder(text: Mapping[str, Any] | None) -> str:
    """Kind of text encoder, and which one if it comes from elsewhere."""
    if text is None:
        return ""
    return f"{text['name']} {Path(text['folder']).name}, SHA-256 {text['sha256']}" if "folder" in text else text["name"]

"""An image file with its record: the model, the options and the class that made it. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from undiffuse.api.configuration.parsing import parse_interval
from undiffuse.api.loading import display_name, find_model
from undiffuse.conditioning.wildcards import escape
from undiffuse.errors import UsageError
from undiffuse.files import sha256_of
from undiffuse.models.options import NO_OPTIONS, LogSNRInterval, SamplingOptions, option_rows
from undiffuse.models.sample_sets.image_record import read_record, unknown_keys
from undiffuse.observer import note
from undiffuse.zoo import bundled_models

_SHOWN_DIGITS = 12


@dataclass(frozen=True)
class RecordedImage:
    """An image file with its record.

    Args:
        path: of the file.
    Raises:
        UsageError: if the file has no valid record, or is a grid of several samples.
    """

    path: Path

    def __post_init__(self) -> None:
        if "num" in self.record:
            raise UsageError(
                f"{self.path} is a grid of samples; give one image, such as "
                f"{self.path.with_name('000000.png')}, and -n for more"
            )

    @cached_property
    def record(self) -> dict[str, Any]:
        """Its record, see ``undiffuse.read_record``."""
        return read_record(self.path)

    @property
    def class_name(self) -> list[str] | None:
        """Its class as ``sample`` takes it; None for no class."""
        return [self.record["class"]] if self.record.get("class") is not None else None

    @property
    def prompt(self) -> list[str] | None:
        """Its prompt as ``sample`` takes it; None for none."""
        return self._text("prompt")

    @property
    def negative(self) -> list[str] | None:
        """Its negative prompt; None for none."""
        return self._text("negative")

    def _text(self, key: str) -> list[str] | None:
        text = self.record.get(key)
        return None if text is None else [escape(text)]

    def note_unknown(self) -> None:
        """Note entries that this version does not know."""
        if unknown := unknown_keys(self.record):
            note(f"{self.path}: ignored unknown entries of its record: {', '.join(unknown)[:200]}")

    def folders(self, model: str | Path | None) -> list[Path]:
        """Folders of the given model, or of those with the recorded name.

        Args:
            model: a folder or a bundled name.
        Raises:
            UsageError: if there is none.
        """
        return self._named() if model is None else [find_model(model)]

    def find_weights(self, model: str | Path | None, weights: str | None, allow_other: bool) -> tuple[Path, str]:
        """Folder and kind of the weights that made the image.

        Args:
            model: a folder or a bundled name; by default the name in the record: a bundled model, a folder, or one in
                ``runs``.
            weights: ``ema`` or ``raw``; by default those with the recorded SHA-256.
            allow_other: whether other weights may be used, with a note.
        Raises:
            UsageError: if there is no such model, or its weights are others.
        """
        from undiffuse.models.files.weights import WEIGHTS  # imports torch

        folders = self.folders(model)
        kinds = list(WEIGHTS) if weights is None else [weights]
        found = {}
        for folder in folders:
            for kind in (kind for kind in kinds if (folder / WEIGHTS.get(kind, "")).is_file()):
                found[sha256_of(folder / WEIGHTS[kind])] = (folder, kind)
        recorded = self.record["model_sha256"]
        if recorded in found:
            return found[recorded]
        if not found:  # loading the model states what is missing
            return folders[0], weights or "ema"
        sha256, (folder, kind) = next(iter(found.items()))
        self.check_weights(sha256, folder, allow_other)
        return folder, kind

    def check_weights(self, sha256: str, folder: Path, allow_other: bool) -> None:
        """Check that weights are those that made the image.

        Args:
            sha256: of the weights file.
            folder: of the model, for the message.
            allow_other: whether other weights only get a note.
        Raises:
            UsageError: if they are others.
        """
        recorded, name = self.record["model_sha256"], self.record["model"][:100]
        if sha256 == recorded:
            return
        text = (
            f"{self.path} was sampled with weights of SHA-256 {recorded[:_SHOWN_DIGITS]}..., those of "
            f"{display_name(folder)} have {sha256[:_SHOWN_DIGITS]}..."
        )
        if not allow_other:
            raise UsageError(
                f"{text}; give the folder of {name!r} as it was then, or --allow-other-model to use these weights"
            )
        note(f"{text}: the image will differ")

    def options(self, given: SamplingOptions, defaults: Mapping[str, Any]) -> SamplingOptions:
        """The recorded options, replaced by those that are given.

        Args:
            given: options of the request.
            defaults: the model's, see ``sampling_record``; recorded values that equal them are left to the model.
        Raises:
            UsageError: if a recorded value is invalid.
        """
        own = NO_OPTIONS.record(defaults)
        values = {name: self.record.get(row.key) for name, row in option_rows().items()}
        rows = {name: row for name, row in option_rows().items() if values[name] not in (None, own[row.key])}
        try:
            recorded = {
                name: parse_interval(name, str(values[name])) if row.type is LogSNRInterval else values[name]
                for name, row in rows.items()
            }
            if recorded.get("classifier") is not None and given.classifier is None:
                recorded["classifier"] = self._classifier(str(recorded["classifier"]))
            if self.has_image:
                recorded["strength"] = self.record.get("strength", 1.0)
            checked = SamplingOptions.of(**recorded)
        except UsageError as error:
            raise UsageError(f"the record in {self.path} is invalid: {error}") from None
        return SamplingOptions.of(**checked.given() | given.given())

    def _classifier(self, name: str) -> str:
        """Folder of the classifier with the recorded name and weights, here or in ``runs``.

        Raises:
            UsageError: if there is none.
        """
        sha256 = self.record.get("classifier_sha256")
        for folder in (Path(name), Path("runs") / name):
            weights = folder / "model.safetensors"
            if Path(name).name == name and weights.is_file() and sha256_of(weights) == sha256:
                return str(folder)
        raise UsageError(
            f"the classifier {name[:100]!r} with weights of SHA-256 {str(sha256)[:_SHOWN_DIGITS]}... is not here or in "
            "runs; give its folder with --classifier"
        )

    def check_image(self, image: Any) -> None:
        """Check that an initial image is given if the recorded image started from one.

        Args:
            image: the initial image, if any.
        Raises:
            UsageError: if it is absent.
        """
        if self.has_image and image is None:
            raise UsageError(
                f"{self.path} started from an image, of which its record has only the SHA-256; give that image with "
                "--image"
            )

    def compare_inputs(self, shared: Mapping[str, Any]) -> None:
        """Note if the classifier of classifier guidance or the initial image is not the recorded one.

        Args:
            shared: record of the samples.
        """
        if shared.get("classifier_sha256", (own := self.record.get("classifier_sha256"))) != own:
            note(f"the classifier is not the one that guided {self.path}: the result will differ")
        recorded, used = self.record.get("image") or {}, shared.get("image") or {}
        for key in recorded.keys() & used.keys():
            if recorded[key] != used[key]:
                note(f"the initial image is not the one that {self.path} started from: the result will differ")

    @property
    def has_image(self) -> bool:
        """Whether it started from an initial image."""
        return bool(self.record.get("image"))

    def _named(self) -> list[Path]:
        """Models with the recorded name."""
        name = self.record["model"]
        if Path(name).name != name or name in ("", ".", ".."):
            raise UsageError(f"the record in {self.path} is invalid: {name[:200]!r} is not a model's name; give MODEL")
        bundled = bundled_models()
        places = [bundled.get(name), Path(name), Path("runs") / name]
        folders = [folder for folder in places if folder is not None and (folder / "config.json").is_file()]
        if not folders:
            raise UsageError(
                f"{self.path} was made with {name!r}, neither a bundled model nor a folder here or in runs; "
                "give its folder as MODEL"
            )
        return folders

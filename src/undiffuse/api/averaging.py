"""``undiffuse ema``: the weights of a finished run, averaged over another length."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from undiffuse.api.configuration.runs import saved_config
from undiffuse.api.exporting import export
from undiffuse.api.loading import load
from undiffuse.errors import UsageError
from undiffuse.files import write_text
from undiffuse.locking import locks
from undiffuse.observer import announce, note, stage
from undiffuse.training.posthoc import Reconstruction, reconstruct

#: Fraction of the target profile that may be missing without a warning.
_WARN_ABOVE = 0.1


@locks("out")
def average(run: Path, sigma_rel: float, out: Path, *, overwrite: bool = False) -> Path:
    """Write the model of a run with its weights averaged over a relative width of ``sigma_rel``.

    Args:
        run: folder of a run that was trained with ``ema.posthoc``.
        sigma_rel: standard deviation of the averaging profile as a fraction of the run's length.
        out: folder of the model.
        overwrite: replace an existing exported model.
    Raises:
        UsageError: a run without snapshots, an impossible width, or a folder that is not an exported model.
    """
    if not (run / "config.json").is_file():
        raise UsageError(f"no run at {run}; give the folder of a run that was trained with ema.posthoc={{}}")
    posthoc = saved_config(run).ema.posthoc
    if posthoc is None:
        raise UsageError(f"{run} kept no snapshots of averages; train with ema.posthoc={{}} to keep them")
    with stage("averaging") as observer:
        found = reconstruct(run, posthoc.sigma_rel, sigma_rel, observer)
    model = load(run, "cpu")
    model.module.load_state_dict({**model.module.state_dict(), **found.tensors})
    averaging = {"sigma_rel": sigma_rel, "images": found.images, "missed": round(found.error, 4)}
    export(dataclasses.replace(model, config={**model.config, "averaging": averaging}), out, overwrite=overwrite)
    _correct_card(out / "model_card.md", sigma_rel, found)
    _report_error(found)
    return out


def _correct_card(card: Path, sigma_rel: float, found: Reconstruction) -> None:
    line = f"| weights | power-function average, sigma_rel {sigma_rel:g}, at {found.images} images |"
    write_text(card, re.sub(r"^\| weights \|.*$", line, card.read_text(encoding="utf-8"), flags=re.MULTILINE))


def _report_error(found: Reconstruction) -> None:
    text = f"{found.error:.1%} of the target profile is missing"
    if found.error > _WARN_ABOVE:
        note(f"{text}; more snapshots approximate it better: ema.posthoc.snapshot_every_images")
    else:
        announce(text)

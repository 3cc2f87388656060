"""``undiffuse demo``: samples of the bundled models, then a complete training run on the bundled digits."""

from __future__ import annotations

import time
from pathlib import Path

from undiffuse.api.bundled_grid import save_bundled_grid
from undiffuse.api.configuration.runs import configure, saved_config
from undiffuse.api.evaluating import Protocol, evaluate_to_file
from undiffuse.api.loading import load
from undiffuse.api.outputs import BUNDLED_GRID
from undiffuse.api.reporting import report_run
from undiffuse.api.training import check_folder, train_run
from undiffuse.cli.tables import results_table
from undiffuse.cli.terminal import print_line
from undiffuse.errors import RERUN, StoppedError
from undiffuse.locking import locks
from undiffuse.progress import duration
from undiffuse.wording import command

RECIPE = "ddpm-digits"


@locks("out")
def run_demo(out: Path, device: str) -> None:
    """Show the bundled models, then train, sample, evaluate and report.

    An interrupted demo is resumed; a finished one is evaluated again.
    """
    started = time.monotonic()
    resume = (out / "config.json").is_file() and saved_config(out).recipe == RECIPE
    config = configure(RECIPE, [], None, None, False, device)
    check_folder(config, out, resume)
    names = save_bundled_grid(out / BUNDLED_GRID, device)
    print_line(f"fresh samples of the bundled models ({', '.join(names)}), one row per model: {out / BUNDLED_GRID}")
    try:
        train_run(config, out, resume=resume, device=device)
    except StoppedError as stop:
        raise stop.with_advice(RERUN) from None
    model = load(out, device)
    results_table(evaluate_to_file(model, Protocol(num=1000, bound_images=32), [], None, out / "evaluation.json"))
    page = report_run(model)
    print_line(f"report: {page}   ({duration(time.monotonic() - started)})")
    print_line(f"next: {command('sample', out, '-n', 64)}")

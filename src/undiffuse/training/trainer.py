"""The training loop. Progress is counted in images; random numbers are a function of the step, so none are saved.

The loop treats all ranks and phases alike: it has one optimizer per phase of the objective and depends on nothing else
about what it trains.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undiffuse.compute import wait_policy
from undiffuse.compute.environment import compute_environment, describe_differences
from undiffuse.compute.memory import keep_freed_memory
from undiffuse.core.random import StepRandom
from undiffuse.data.dataset import Batch, Dataset
from undiffuse.data.loader import Loader
from undiffuse.errors import RunError, UsageError
from undiffuse.leftovers import remove_leftovers
from undiffuse.locking import locked
from undiffuse.models.files.components import text_folder, with_text_folder
from undiffuse.models.files.parts import load_parts, save_parts
from undiffuse.models.files.record import check_belongs, differences, result_record, write_record
from undiffuse.models.files.weights import WEIGHTS, save_weights
from undiffuse.models.parts import freeze_parts, load_model_state, model_state
from undiffuse.models.prompts import MOST_EXAMPLES
from undiffuse.models.saved import read_config
from undiffuse.objectives.base import AnyObjective, LossReport, ObjectiveConfig, Phase
from undiffuse.observer import SILENT, Observer
from undiffuse.training import nonfinite
from undiffuse.training.augment import Augmenter
from undiffuse.training.captions import with_drawn_captions
from undiffuse.training.card import write_model_card
from undiffuse.training.checkpoint import (
    Checkpoint,
    joined,
    newest_checkpoint,
    parts_of,
    save_checkpoint,
    set_aside_damaged,
)
from undiffuse.training.config import RunConfig
from undiffuse.training.ema import EMA
from undiffuse.training.metric_accumulator import MetricAccumulator
from undiffuse.training.metrics_log import MetricsLog, check_tensorboard
from undiffuse.training.optimizer import Optimizers
from undiffuse.training.posthoc import save_snapshot
from undiffuse.training.prior import Prior
from undiffuse.training.quality import Measure, draw_samples, example_prompts, save_preview
from undiffuse.training.record import run_record
from undiffuse.training.selection import freeze, rate_factors
from undiffuse.training.start import kept_classes, load_start, train_new_rows, with_new_words
from undiffuse.training.validation import validation_row


def finalized(config: RunConfig, class_names: Sequence[str], captions: Sequence[str] | None = None) -> RunConfig:
    """``config`` with all options resolved that depend on the data, as it is saved and trained.

    Args:
        config: configuration of the run.
        class_names: class names of the data.
        captions: training captions, if the data has them.
    """
    assert isinstance(config.system, ObjectiveConfig)
    return config.model_copy(update={"system": config.system.finalized(class_names, captions)})


class Trainer:
    """One training run in one folder.

    Args:
        config: configuration of the run.
        train: training data.
        validation: held-out data; may be empty.
        folder: output folder of the run.
        device: device to train on.
        observer: receives progress, the rows of the metrics log, and messages.
        measure: measures the quality of samples every ``quality_every_images``; None to skip it.
    """

    def __init__(
        self,
        config: RunConfig,
        train: Dataset,
        validation: Dataset,
        folder: Path,
        device: str | torch.device = "cpu",
        observer: Observer = SILENT,
        measure: Measure | None = None,
    ) -> None:
        check_tensorboard(config.tensorboard)
        config = finalized(with_new_words(config, train.captions), train.class_names, train.captions)
        self.augmenter = Augmenter(config, train)
        self.config, self.folder, self.device = config, folder, torch.device(device)
        self.observer = observer
        self.measure = measure
        self.validation = validation
        self._prompts = example_prompts(validation if len(validation) else train)
        self.loader = Loader(train, config.seed, config.loader, device=self.device, kept=config.num_micro_batches)
        self.record = run_record(config, train, validation, self.augmenter.label_names)
        self.record["model"]["class_names"] += kept_classes(config, train.class_names)
        if getattr(config.system, "text", None) is not None:
            self.record["model"]["prompts"] = self._prompts[:MOST_EXAMPLES]
        self.prior = Prior(config, self.record["model"]["class_names"]) if config.prior is not None else None
        if self.device.type == "cpu":
            keep_freed_memory()
        self.objective = self._build_objective()
        freeze_parts(self.objective.model)
        self.objective.model.locate_parts(None)
        self._start_notes = self._load_start()
        freeze(self.objective.model, config.freeze)
        train_new_rows(self.objective.model, config)
        self.objective.begin(self.device)
        self.ema = EMA(self.objective.model, config.ema)
        self.optimizers = Optimizers(
            self.objective.phases, config.optimizer, rate_factors(self.objective.model, config.optimizer.rates)
        )
        self.step = 0
        self._accumulator = MetricAccumulator()
        self._seconds = 0.0
        self._saved_step: int | None = None
        self._written: dict[str, Any] = {}  # content of ``config.json``
        precision = getattr(config.system, "precision", "fp32")
        optimizer_dtype = self.optimizers.product_dtype(self.device)
        self._settings = [{"images": 0, **compute_environment(precision, self.device, optimizer_dtype)}]
        self._stop_requested = self._reported_busy = False

    @property
    def images(self) -> int:
        """Number of images seen."""
        return self.step * self.config.batch_images

    def request_stop(self) -> None:
        """Make ``run`` finish the current step, write a checkpoint and return."""
        self._stop_requested = True

    def resume(self) -> bool:
        """Resume from the newest valid checkpoint; returns False if there are no checkpoints.

        Raises:
            UsageError: if all checkpoints are damaged, or the newest is from a newer version.
        """
        checkpoint, damaged = newest_checkpoint(self.folder / "checkpoints")
        if checkpoint is None and damaged:
            raise UsageError(
                f"no checkpoint of {self.folder} is intact ({damaged[0]}); nothing was changed: restore an intact "
                "copy, or start again in another --out"
            )
        for line in damaged:
            self.observer.message(f"{line}; set aside, the newest intact one is used")
        if checkpoint is None:
            return False
        self._check_config(checkpoint)
        load_parts(self.objective.model, self._written, self.folder)
        with locked(self.folder):
            set_aside_damaged(self.folder / "checkpoints", checkpoint.counters["images"])
            self._record_locations()
        try:
            self._restore(checkpoint)
        except UsageError:
            raise
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UsageError(
                f"the newest checkpoint of {self.folder} does not fit this run ({first}); restore the original one, "
                "or start again in another --out"
            ) from None
        self._note_changed_environment(checkpoint.counters)
        return True

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Load the state of a checkpoint."""
        parts = parts_of(checkpoint.tensors)
        load_model_state(self.objective.model, parts["model"])
        load_model_state(self.ema.average, parts["ema"])
        if self.ema.posthoc is not None:
            self.ema.posthoc.load_tensors(parts["posthoc"])
        self.optimizers.load_tensors(parts["optimizer"])
        self.objective.load_state(parts["training"])
        self.step = int(checkpoint.counters["step"])
        self._accumulator = MetricAccumulator.of(checkpoint.counters["window"])
        self._seconds = float(checkpoint.counters["seconds"])

    def _check_config(self, checkpoint: Checkpoint) -> None:
        """Check that ``config.json`` was not changed since this checkpoint; report a change that was accepted."""
        self._written = read_config(self.folder)
        name = f"the checkpoint at {checkpoint.counters['images']} images"
        check_belongs(self.folder, self._written, checkpoint.config, name)
        if text := "; ".join(differences(self._written, checkpoint.config) if checkpoint.config is not None else ()):
            self.observer.message(f"the configuration was changed since {name}: {text}")

    def _record_locations(self) -> None:
        """Update the locations of the data and of the text encoder in ``config.json``, which evaluation reads.

        They do not affect the result.
        """
        moved = {**self._written, "config": {**self._written["config"], "data": self.record["config"]["data"]}}
        if (folder := text_folder(self.record)) is not None:
            moved = with_text_folder(moved, folder)
        if moved != self._written and result_record(moved) == result_record(self._written):
            self._written = write_record(self.folder, moved)

    def _note_changed_environment(self, counters: Mapping[str, Any]) -> None:
        """Report that the run continues on another device or with other arithmetic; checkpoints save all settings."""
        if (before := counters.get("device", self.device.type)) != self.device.type:
            self.observer.message(
                f"this run was on {before} and continues on {self.device.type}: their random numbers differ, so the "
                "result will differ from that of an uninterrupted run"
            )
        earlier, now = counters.get("settings") or [], self._settings[0]
        was, is_now = describe_differences(_with_default_dtype(earlier[-1], now), now) if earlier else ("", "")
        if was and before == self.device.type:
            self.observer.message(
                f"this run was computed with {was} and continues with {is_now}: rounding differs, so the result will "
                "be close to that of an uninterrupted run, but not identical"
            )
        changed = [{**now, "images": self.images}] if was else []
        self._settings = [*earlier, *changed] if earlier else self._settings

    def run(self, stop_after_seconds: float | None = None) -> bool:
        """Train to the end of the run, a stop request, or a time limit; returns True if the run is complete.

        Raises:
            NonFiniteError: if a loss or gradient is not finite; the weights are those before the step.
            HeldError: if another process trains in this folder.
        """
        with locked(self.folder):
            remove_leftovers(self.folder)
            return self._run(stop_after_seconds)

    def _run(self, stop_after_seconds: float | None) -> bool:
        if self.prior is not None:
            self._prepare_prior(self.prior)
        if self.step == 0:
            self.record["components"] |= save_parts(self.folder, self.objective.model)
            self._written = write_record(self.folder, self.record)
            for text in filter(None, [self.augmenter.note, *self._start_notes]):
                self.observer.message(text)
        log = MetricsLog(self.folder, self.images, self.config.tensorboard)
        if log.note:
            self.observer.message(log.note)
        if self.config.compile and (note := self.objective.model.compile_networks()):
            self.observer.message(note)
        started = self._mark = self._saved_at = time.monotonic()
        self._seconds_before = self._seconds
        try:
            if self.step and not log.has("quality", self.images):  # stopped between checkpoint and measurement
                self._measure_quality(log)
            while self.step < self.config.num_steps:
                self._one_step()
                self._after_step(log)
                self.observer.progress(self.images, self.config.num_images)
                spent = time.monotonic() - started
                if self._stop_requested or (stop_after_seconds is not None and spent >= stop_after_seconds):
                    break
            if self._saved_step != self.step:
                self._save()
        finally:
            self.loader.close()
            log.close()
        return self.step >= self.config.num_steps

    def _build_objective(self) -> AnyObjective:
        section, config = self.record["model"], self.config.system
        assert isinstance(config, ObjectiveConfig)
        with torch.random.fork_rng([]):
            torch.manual_seed(self.config.seed)
            objective = config.build(tuple(section["shape"]), section["class_names"], len(section["augment_labels"]))
        return objective.to(self.device)

    def _load_start(self) -> list[str]:
        """Load the weights of the start model, unless there are checkpoints; returns lines for the user."""
        if self.config.start is None or any(self.folder.glob("checkpoints/images_*")):
            return []
        return load_start(self.objective.model, self.config.start, self.record)

    def _prepare_prior(self, prior: Prior) -> None:
        """Sample the prior images before the first step; later, read them from the run's folder."""
        if self.step:
            prior.read(self.folder, self._written)
        else:
            self.record["prior"] = prior.sample_into(self.folder, self.device)

    def encode_captions(self) -> int:
        """Encode the training captions in advance if the text encoder is not trained; returns their number."""
        captions = self.loader.dataset.captions
        if captions is None:
            return 0
        count: int = self.objective.model.conditioner.prepare(captions, self.config.num_images)
        return count

    def trial_step(self) -> None:
        """Run one training step without writing any files."""
        self._one_step()

    def trial_micro_batch(self, size: int) -> None:
        """Run forward and backward passes of a micro-batch in each phase of a step, without updating the weights."""
        self.objective.train()
        for phase in self.objective.phases_due(self.step):
            self.optimizers.zero_grad(phase.name)
            with self.objective.learning(phase):
                self._forward_backward(phase.name, 0, size)

    def trial_update(self) -> None:
        """Run the rest of a step: optimizers and averages, with the current gradients."""
        for phase in self.objective.phases_due(self.step):
            self._update(phase)
        self.ema.update(self.objective.model, self.images, self.config.batch_images)

    def _one_step(self) -> None:
        wait_policy.update()
        self.objective.train()
        first, *others = [(phase.name, *self._run_phase(phase)) for phase in self.objective.phases_due(self.step)]
        self._accumulator.add_step(*first[1:])
        self._accumulator.add_metrics({f"grad_norm_{phase}": torch.tensor(norm) for phase, _, norm in others})
        self.ema.update(self.objective.model, self.images, self.config.batch_images)
        self.step += 1
        self.objective.after_step(self.ema.average, self.images)

    def _run_phase(self, phase: Phase) -> tuple[float, float]:
        """Run one phase of a step; returns (loss, gradient norm)."""
        self.optimizers.zero_grad(phase.name)
        count = self.config.num_micro_batches
        with self.objective.learning(phase):
            reports = [self._forward_backward(phase.name, number) for number in range(count)]
        norm = self._update(phase, [report.records for report in reports])
        return sum(float(report.loss) for report in reports) / count, norm

    def _forward_backward(self, phase: str, number: int, size: int | None = None) -> LossReport:
        """Forward and backward pass of a micro-batch; returns its report with a detached loss."""
        batch, rng = self._micro_batch(number, size)
        report: LossReport = self.objective(batch, phase, rng)
        self._check_loss(report, batch, phase, rng)
        self._accumulator.add_metrics(report.metrics)
        (report.loss / self.config.num_micro_batches).backward()  # type: ignore[no-untyped-call]
        return report._replace(loss=report.loss.detach())

    def _update(self, phase: Phase, records: Sequence[Mapping[str, Tensor]] = ()) -> float:
        """Clip the gradients, step the phase's optimizer, and notify the objective; returns the gradient norm."""
        total = self.optimizers.norm(phase.name)
        norm = float(total)
        if not norm < float("inf"):
            self._stop_at_gradient(phase)
        self.optimizers.clip(phase.name, total)
        self.optimizers.step(phase.name, self.images + self.config.batch_images, self.config.num_images)
        self.objective.absorb(phase.name, records)
        return norm

    def _micro_batch(self, number: int, size: int | None = None) -> tuple[Batch, StepRandom]:
        size = size or self.config.batch_images // self.config.num_micro_batches
        rng = StepRandom(self.config.seed, self.step, number, device=self.device)
        batch = self.loader.batch(self.images + number * size, size).to(self.device)
        share = self.loader.dataset.last_caption_share
        batch = with_drawn_captions(batch, self.config.seed, self.step, number * size, self.config.batch_images, share)
        if self.prior is not None:
            batch = self.prior.mixed(batch, rng)
        return self.augmenter(batch, rng, self.step, number), rng

    def _check_loss(self, report: LossReport, batch: Batch, phase: str, rng: StepRandom) -> None:
        if abs(float(report.loss.detach())) < float("inf"):
            return
        model = self.objective.model
        cause = nonfinite.cause_of(model, batch.x_0, lambda: self.objective(batch, phase, rng))
        for other in self.objective.phases:
            learning = [parameter for module in other.modules for parameter in module.parameters()]
            if nonfinite.nonfinite_outside(model, learning):
                cause = f"weights of {_outside_model(other.name)}"
        rows = ~torch.isfinite(report.per_sample)
        self._stop("the loss is not finite", cause, [batch], rows if bool(rows.any()) else ~rows, report.t)

    def _stop_at_gradient(self, phase: Phase) -> None:
        parts, model = (
            [self._micro_batch(number) for number in range(self.config.num_micro_batches)],
            self.objective.model,
        )
        name = nonfinite.first_bad_gradient(model, lambda: self.objective(parts[0][0], phase.name, parts[0][1]))
        if name is None and nonfinite.nonfinite_outside(model, [value.grad for value in phase.parameters()]):
            name = _outside_model(phase.name)
        cause = f"gradient of {name}" if name else "none, every gradient is finite and their norm is not"
        self._stop("a gradient is not finite", cause, [batch for batch, _ in parts])

    def _stop(
        self, what: str, cause: str, batches: list[Batch], rows: Tensor | None = None, t: Tensor | None = None
    ) -> None:
        item_name = self.loader.dataset.item_name
        now = {"step": self.step, "images_seen": self.images}
        nonfinite.stop(self.folder, nonfinite.evidence_of(what, cause, batches, rows, t, item_name=item_name, **now))

    def _after_step(self, log: MetricsLog) -> None:
        config = self.config
        if self._due(config.log_every_images):
            self._write_row(log)
        if self.ema.posthoc is not None and self._due(self.ema.posthoc.snapshot_every_images):
            save_snapshot(self.folder, self.ema.posthoc, self.images)
        if self._due(config.validate_every_images):
            self._validate(log)
        late = config.checkpoint_every_seconds and time.monotonic() - self._saved_at >= config.checkpoint_every_seconds
        if self._due(config.checkpoint_every_images) or late or self.step == config.num_steps:
            self._save()
        self._measure_quality(log)  # after the checkpoint, because some samplers take long
        if self.objective.model.generates and self._due(config.preview_every_images):
            path = self.folder / "previews" / f"images_{self.images:012d}.png"
            save_preview(path, self.ema.average, config.preview_samples, self._prompts)

    def _due(self, every_images: int) -> bool:
        """Whether this step crossed a multiple of ``every_images`` or is the last of the run."""
        if not every_images:
            return False
        crossed = self.images // every_images > (self.images - self.config.batch_images) // every_images
        return crossed or self.step == self.config.num_steps

    def _wall(self) -> dict[str, float]:
        return {"seconds": round(self._elapsed(), 3)}

    def _elapsed(self) -> float:
        """Seconds of training so far, including those before resuming."""
        now = time.monotonic()
        self._seconds += now - self._mark
        self._mark = now
        return self._seconds

    def _write_row(self, log: MetricsLog) -> None:
        values = {"step": self.step, **self._accumulator.means(), "learning_rate": self.optimizers.learning_rate}
        seconds = self._elapsed()
        rate = self._accumulator.steps * self.config.batch_images / max(seconds - self._seconds_before, 1e-9)
        self._seconds_before = seconds
        wall = {"seconds": round(seconds, 3), "images_per_second": round(rate, 1)}
        self._accumulator = MetricAccumulator()
        log.write("train", self.images, values, wall)
        if wait_policy.busy() and not self._reported_busy:
            self._reported_busy = True
            self.observer.message("other processes use this machine; training continues with a share of the CPU")
        self.observer.row("train", {"images": self.images, **values, **wall})

    def _validate(self, log: MetricsLog) -> None:
        count = min(self.config.validation_images, len(self.validation))
        if count == 0:
            return
        averaged = self.objective.around(self.ema.average)
        sets = (self.validation, self.loader.dataset)
        values = validation_row(self.objective, averaged, *sets, count, self.config.seed, self.device)
        log.write("validation", self.images, values, self._wall())
        self.observer.row("validation", {"images": self.images, **values})

    def _measure_quality(self, log: MetricsLog) -> None:
        """Measure samples of the averaged weights if due; no row is written if sampling fails."""
        if self.measure is None or not self.objective.model.generates:
            return
        if not self._due(self.config.quality_every_images):
            return
        before = self._elapsed()
        try:
            values = self.measure(draw_samples(self.ema.average, self.config.quality_samples, self._prompts))
        except RunError as error:
            self.observer.message(f"quality at {self.images} images was not measured: {error}")
            return
        wall = {**self._wall(), "measuring_seconds": round(self._seconds - before, 3)}
        self._seconds_before += self._seconds - before  # excluded from the training rate
        log.write("quality", self.images, values, wall)
        self.observer.row("quality", {"images": self.images, **values})

    def _save(self) -> None:
        tensors = joined(
            model=model_state(self.objective.model),
            ema=model_state(self.ema.average),
            optimizer=self.optimizers.tensors(),
            posthoc={} if self.ema.posthoc is None else self.ema.posthoc.tensors(),
            training=self.objective.state(),
        )
        counters = {
            "images": self.images,
            "step": self.step,
            "window": self._accumulator.counters(),
            "seconds": self._elapsed(),
            "device": self.device.type,
            "settings": self._settings,
        }
        save_checkpoint(self.folder / "checkpoints", tensors, counters, self.config.keep_checkpoints, self._written)
        save_weights(self.folder / WEIGHTS["ema"], model_state(self.ema.average), self._written)
        save_weights(self.folder / WEIGHTS["raw"], model_state(self.objective.model), self._written)
        write_model_card(self.folder, self.record, self.images)
        self._saved_at, self._saved_step = time.monotonic(), self.step


def _with_default_dtype(setting: Mapping[str, Any], now: Mapping[str, Any]) -> Mapping[str, Any]:
    """A checkpoint's setting; earlier versions did not record the dtype of Muon's products, always bfloat16."""
    return {"optimizer": "bfloat16", **setting} if "optimizer" in now else setting


def _outside_model(phase: str) -> str:
    return f"the network trained in phase {phase!r}, which is not part of the model"

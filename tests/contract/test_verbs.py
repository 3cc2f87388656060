"""Every verb prints nothing, returns something, reports its progress, runs in any thread and can be cancelled."""

from __future__ import annotations

import inspect
import signal
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import undiffuse
from undiffuse.advice import command_line, with_keywords
from undiffuse.api import VERBS
from undiffuse.api.training import TrainedRun
from undiffuse.cancellation import Cancel
from undiffuse.errors import CancelledError, KeywordError, StoppedError, UsageError
from undiffuse.files import sha256_of
from undiffuse.observer import Silent
from undiffuse.registry import resolve
from undiffuse.samplers.tuned_grids import Trial

TINY = (
    *(
        "system.parameterization=v",
        "system.network.channels=8",
        "num_images=128",
        "batch_images=16",
        "optimizer.warmup_images=0",
    ),
    *("log_every_images=32", "validation_images=16", "preview_every_images=0", "quality_every_images=0"),
)
STUDENT = ("num_images=64", *TINY[3:])


class Recorder(Silent):
    """Counts what it hears, and makes a request to stop when it first hears of progress."""

    def __init__(self, cancel: Cancel | None = None) -> None:
        self.progressed, self.rows, self.lines = 0, list[str](), list[str]()
        self._cancel = cancel

    def progress(self, done: float, total: float, part: str = "") -> None:
        self.progressed += 1
        if self._cancel is not None:
            self._cancel.request()

    def row(self, kind: str, values: dict[str, Any]) -> None:
        self.rows.append(kind)

    def announce(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned next to nothing."""
    out = tmp_path_factory.mktemp("verbs") / "run"
    assert undiffuse.train("ddpm-digits", TINY, out=out, device="cpu").finished
    return out


@pytest.fixture(autouse=True)
def coarse_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a grid is tuned against takes 12 steps and not 96."""
    monkeypatch.setattr(Trial.solved, "__defaults__", (12,))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number, array in enumerate(np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)):
        Image.fromarray(array).save(folder / f"{number:02d}.png")
    return folder


#: verb → a small call of it, given (verb, run, images, where to write, what hears and what cancels)
CALLS: dict[str, Callable[..., Any]] = {
    "train": lambda verb, run, images, out, **received: verb("ddpm-digits", TINY, out=out, device="cpu", **received),
    "distill": lambda verb, run, images, out, **received: verb(
        run, 2, "consistency", STUDENT, out=out, device="cpu", **received
    ),
    "sample": lambda verb, run, images, out, **received: verb(run, 4, steps=3, sampler="ddim", out=out, **received),
    "evaluate": lambda verb, run, images, out, **received: verb(
        run,
        ["precision_recall"],
        num=24,
        steps=2,
        batch_size=8,
        features="pixels",
        out=out.with_suffix(".json"),
        **received,
    ),
    "compare": lambda verb, run, images, out, **received: verb(
        images, images, ["precision_recall"], features="pixels", out=out.with_suffix(".json"), **received
    ),
    "export": lambda verb, run, images, out, **received: verb(
        run, out, tune_steps=(2,), sampler="ddim", seeds=2, tolerance=9.0, **received
    ),
    "study": lambda verb, run, images, out, **received: verb("forward", run, out, **received),
    "report": lambda verb, run, images, out, **received: verb(run, out.with_suffix(".html"), **received),
    "doctor": lambda verb, run, images, out, **received: verb(images, out=out.with_suffix(".json"), **received),
    "invert": lambda verb, run, images, out, **received: verb(
        run, images, out, num=2, sampler="heun", steps=2, **received
    ),
    "prepare": lambda verb, run, images, out, **received: verb(images, out.with_suffix(".zip"), workers=1, **received),
}


def in_a_thread(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What a call returns, or raises, in a thread of its own."""
    returned: list[Any] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            returned.append(call())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return (returned or [None])[0], (raised or [None])[0]


def test_every_verb_is_called_here_and_is_a_name_of_the_front_door() -> None:
    assert CALLS.keys() == VERBS.keys()
    for name, home in VERBS.items():
        assert getattr(undiffuse, name) is resolve(home) and name in undiffuse.__all__
        parameters = inspect.signature(resolve(home)).parameters
        assert {"observer", "cancel"} <= parameters.keys(), name
        assert parameters["observer"].default is None and parameters["cancel"].default is None


@pytest.mark.parametrize("name", VERBS)
def test_a_misspelt_keyword_is_answered_with_the_nearest(name: str) -> None:
    with pytest.raises(KeywordError, match="has no argument 'obzerver'; did you mean 'observer'"):
        resolve(VERBS[name])("x", obzerver=print)


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_in_a_thread_prints_nothing_and_reports(
    name: str, run: Path, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        returned, raised = in_a_thread(
            lambda: CALLS[name](resolve(VERBS[name]), run, images, tmp_path / "out", observer=recorder, cancel=Cancel())
        )
    assert raised is None and returned is not None
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "") and [str(one.message) for one in caught] == []
    assert recorder.progressed > 0
    assert "train" in recorder.rows or not isinstance(returned, TrainedRun)
    assert [path for path in tmp_path.iterdir() if path.name.startswith("out")]


@pytest.mark.parametrize("name", VERBS)
def test_a_cancelled_verb_leaves_nothing_half_written(name: str, run: Path, images: Path, tmp_path: Path) -> None:
    cancel = Cancel()
    returned, raised = in_a_thread(
        lambda: CALLS[name](
            resolve(VERBS[name]), run, images, tmp_path / "out", observer=Recorder(cancel), cancel=cancel
        )
    )
    if name in ("train", "distill"):  # stops with a checkpoint, which is what a person wants of it
        assert raised is None and not returned.finished and returned.cause == "cancelled"
        assert 0 < returned.num_images < 64 and list(returned.folder.glob("checkpoints/images_*"))
    else:
        assert isinstance(raised, CancelledError)
        left = [path for path in tmp_path.rglob("*") if path.is_file() and ".partial" not in path.name]
        assert left == [] or name == "prepare"  # which goes on from what it has


def test_a_cancelled_training_resumes_to_the_same_bits(run: Path, tmp_path: Path) -> None:
    cancel = Cancel()
    stopped = undiffuse.train(
        "ddpm-digits", TINY, out=tmp_path / "run", device="cpu", observer=Recorder(cancel), cancel=cancel
    )
    assert not stopped.finished
    assert undiffuse.train(out=stopped.folder, resume=True, device="cpu").finished
    for name in ("model.safetensors", "raw.safetensors"):
        assert sha256_of(stopped.folder / name) == sha256_of(run / name)


def test_what_is_cancelled_before_it_begins_does_not_begin(run: Path, tmp_path: Path) -> None:
    cancel = Cancel()
    cancel.request("no longer wanted")
    with pytest.raises(CancelledError, match="no longer wanted"):
        undiffuse.sample(run, 4, steps=2, out=tmp_path / "out", cancel=cancel)
    assert not (tmp_path / "out").exists()


def test_two_threads_receive_of_their_own_work_alone(run: Path) -> None:
    hearers = [Recorder(), Recorder()]
    threads = [
        threading.Thread(target=undiffuse.sample, args=(run, 2), kwargs={"steps": number + 2, "observer": recorder})
        for number, recorder in enumerate(hearers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = (recorder.progressed for recorder in hearers)
    assert 0 < first < second


def test_an_observer_may_be_a_function(run: Path) -> None:
    received: list[tuple[float, float, str]] = []
    samples = undiffuse.sample(run, 2, steps=2, observer=lambda *progress: received.append(progress))
    assert samples.shape[0] == 2 and received[-1][0] == received[-1][1] and received[-1][2] == "sampling"


def test_sample_writes_what_it_returns_and_a_sampler_is_rejected(run: Path, tmp_path: Path) -> None:
    samples = undiffuse.sample(run, 3, steps=2, seed=5, out=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("0*.png")) == ["000000.png", "000001.png", "000002.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "000001.png")), samples[1, 0].numpy())
    alone = undiffuse.sample(run, 1, steps=2, seed=6, class_name=samples.classes[1])
    assert np.array_equal(alone.numpy(), samples[1:2].numpy())
    with pytest.raises(UsageError, match="run_sampler"):
        undiffuse.sample(undiffuse.make_sampler("ddim"))  # type: ignore[arg-type]


def test_sample_does_what_the_command_does(run: Path, tmp_path: Path) -> None:
    """An image file to start from, the predictions of every step, and a set that was interrupted."""
    image = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(image).save(tmp_path / "image.png")
    options: dict[str, Any] = {"steps": 4, "strength": 0.5}
    written = undiffuse.sample(run, 2, image=tmp_path / "image.png", out=tmp_path / "a", progressive=True, **options)
    assert (tmp_path / "a" / "progressive.npz").is_file()
    in_memory = [
        undiffuse.sample(run, 2, image=given, **options)
        for given in (tmp_path / "image.png", str(tmp_path / "image.png"), image)
    ]
    assert all(np.array_equal(samples.numpy(), written.numpy()) for samples in in_memory)
    assert written.record["image"]["source"] == "image.png"
    cancel = Cancel()

    def stop(done: float, total: float, part: str) -> None:
        if done > 1:  # the first batch is written
            cancel.request()

    with pytest.raises(CancelledError):
        undiffuse.sample(run, 4, steps=2, batch_size=1, out=tmp_path / "b", observer=stop, cancel=cancel)
    recorder = Recorder()
    resumed = undiffuse.sample(run, 4, steps=2, batch_size=1, out=tmp_path / "b", observer=recorder)
    assert any("continuing" in line for line in recorder.lines)
    assert np.array_equal(resumed.numpy(), undiffuse.sample(run, 4, steps=2).numpy())
    with pytest.raises(UsageError, match="name a folder with out"):
        undiffuse.sample(run, 4, progressive=True)


def test_advice_names_keywords_in_python_and_options_on_the_command_line(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    undiffuse.sample(run, 1, steps=1, out=out)
    with pytest.raises(UsageError, match=r"^out .* holds samples already; name another folder or add overwrite=True$"):
        undiffuse.sample(run, 1, steps=1, out=out)
    with pytest.raises(UsageError, match=r"add resume=True .* another out$"):
        undiffuse.train("ddpm-digits", TINY, out=run)
    with command_line(), pytest.raises(UsageError, match=r"add --overwrite$"):
        undiffuse.sample(run, 1, steps=1, out=out)
    parameters = inspect.signature(undiffuse.train).parameters
    kept = "run it with: undiffuse train --resume --out a; or leave --near out"
    assert with_keywords(kept, parameters) == kept


def test_a_request_with_a_signal_is_a_result(tmp_path: Path) -> None:
    """The exit code is the command line's matter."""
    cancel = Cancel()

    def stop(done: float, total: float, part: str) -> None:
        if part == "training" and done == 48:
            cancel.request("the scheduler needs the node", signal.SIGTERM)

    run = undiffuse.train("ddpm-digits", TINY, out=tmp_path / "run", device="cpu", observer=stop, cancel=cancel)
    assert (run.finished, run.num_images, run.cause, run.signal) == (
        *(False, 48),
        *("the scheduler needs the node", signal.SIGTERM),
    )


def test_an_interrupt_ends_a_training_with_a_checkpoint(run: Path, tmp_path: Path) -> None:
    """In the main thread of a script or a notebook, where no terminal of ours takes the signal."""

    def interrupt(done: float, total: float, part: str) -> None:
        if part == "training" and done == 48:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
    try:
        with pytest.raises(
            StoppedError, match=r"stopped at 48 images .*; resume with undiffuse\.train\(out='.*', resume=True\)"
        ):
            undiffuse.train("ddpm-digits", TINY, out=tmp_path / "run", device="cpu", observer=interrupt)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert undiffuse.train(out=tmp_path / "run", resume=True, device="cpu").finished
    assert sha256_of(tmp_path / "run" / "model.safetensors") == sha256_of(run / "model.safetensors")


def test_an_observer_that_raises_costs_no_training(run: Path, tmp_path: Path) -> None:
    def fail(done: float, total: float, part: str) -> None:
        if part == "training" and done >= 32:
            raise ZeroDivisionError("the bar is gone")

    with pytest.raises(ZeroDivisionError, match="the bar is gone"):
        undiffuse.train("ddpm-digits", TINY, out=tmp_path / "run", device="cpu", observer=fail)
    assert undiffuse.train(out=tmp_path / "run", resume=True, device="cpu").finished
    assert sha256_of(tmp_path / "run" / "model.safetensors") == sha256_of(run / "model.safetensors")


def test_notes_of_a_verb_that_nobody_observes_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    overrides = [*TINY, "num_images=16", "optimizer.warmup_images=3000"]
    for observer in (None, lambda done, total, part: None):
        caplog.clear()
        undiffuse.train("ddpm-digits", overrides, out=tmp_path / str(observer is None), device="cpu", observer=observer)
        assert "more than noise" in caplog.text
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_the_first_of_two_requests_counts_and_a_handler_may_make_the_second() -> None:
    cancel, calls = Cancel(), list[int]()

    def again() -> None:  # as a signal's handler that comes while a request is made
        calls.append(1)
        cancel.request("second", 15)

    with cancel.calling(again):
        cancel.request("first", 2)
        cancel.request("third")
    assert (cancel.cause, cancel.number, calls) == ("first", 2, [1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"overrides": "num_images=3"}, r"overrides must be a list of texts, such as \['num_images=3'\]"),
        ({"overrides": [3]}, "overrides must be a list of texts"),
        ({"observer": 3}, r"observer must be a function of \(done, total, part\)"),
        ({"observer": Recorder}, "observer must be a function"),
        ({"cancel": 3}, "cancel must be an undiffuse.Cancel"),
    ],
    ids=str,
)
def test_senseless_arguments_are_answered_in_one_line(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        undiffuse.train("ddpm-digits", out=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()

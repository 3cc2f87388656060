"""The loader: however items are fetched, the same ones come out, and what goes wrong is said in one line."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from undiffuse.config import validate
from undiffuse.data import Dataset, FolderConfig, Loader, load_dataset
from undiffuse.data import loader as loader_module
from undiffuse.data.config.loader import LoaderConfig
from undiffuse.data.dataset import ArrayDataset, Batch
from undiffuse.data.loader import num_workers
from undiffuse.data.storage.resident import Resident
from undiffuse.data.workers import Prefetcher
from undiffuse.errors import RunError, UsageError

COUNT = 30


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two classes with captions."""
    for index in range(COUNT):
        path = tmp_path / "set" / "ab"[index % 2] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        levels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(levels).save(path)
        path.with_suffix(".txt").write_text(f"image {index}")
    return tmp_path / "set"


@pytest.fixture
def lazy(images: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Its images, decoded whenever they are fetched."""
    monkeypatch.setattr("undiffuse.data.storage.encoded.MAX_BYTES_IN_MEMORY", 1)
    return load_dataset(FolderConfig(path=str(images), cache="none"))


@pytest.fixture
def loaders() -> Iterator[list[Loader | Prefetcher]]:
    """What a test opens is closed."""
    opened: list[Loader | Prefetcher] = []
    yield opened
    for one in opened:
        one.close()


def same(one: Batch, other: Batch) -> bool:
    labels = one.given.label, other.given.label
    return (
        torch.equal(one.items, other.items)
        and torch.equal(one.indices, other.indices)
        and one.captions == other.captions
        and (labels[0] is labels[1] is None or torch.equal(*labels))  # type: ignore[arg-type]
    )


def children() -> set[int]:
    """Processes that this one has started and that are alive."""
    return {child.pid or 0 for child in multiprocessing.active_children()}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_bring_what_the_process_itself_would_fetch(lazy: Dataset, workers: int, loaders: list[Loader]) -> None:
    loaders += [Loader(lazy, 5, LoaderConfig(workers=0)), Loader(lazy, 5, LoaderConfig(workers=workers, prefetch=3))]
    alone, helped = loaders
    places = [(start, 7) for start in range(0, 70, 7)]
    places += [(63, 7)]  # asked for again
    places += [(400, 7), (407, 7)]  # resumed elsewhere
    places += [(414, 4), (418, 4), (2, 1)]  # cut otherwise
    for start, count in places:
        batch = helped.batch(start, count)
        assert same(batch, alone.batch(start, count)) and len(batch) == count
        assert batch.captions[0] == f"image {lazy.item_name(int(batch.indices[0]))[-6:-4].lstrip('0') or '0'}"


def test_a_loader_resumed_in_mid_epoch_goes_on_where_it_was(lazy: Dataset, loaders: list[Loader]) -> None:
    loaders += [Loader(lazy, 1, LoaderConfig(workers=workers)) for workers in (0, 1, 2)]
    whole = [loaders[0].batch(start, 8) for start in range(0, 80, 8)]
    for loader in loaders:
        assert all(same(loader.batch(start, 8), whole[start // 8]) for start in range(40, 80, 8))


def test_ranks_with_workers_share_the_batches_of_one_process(lazy: Dataset, loaders: list[Loader]) -> None:
    loaders += [Loader(lazy, 1, LoaderConfig(workers=1), rank=rank, num_ranks=2) for rank in range(2)]
    alone = Loader(lazy, 1, LoaderConfig(workers=0))
    for start in range(0, 60, 10):
        parts = [loader.batch(start, 10) for loader in loaders]
        assert [len(part) for part in parts] == [5, 5]
        assert torch.equal(torch.cat([part.items for part in parts]), alone.batch(start, 10).items)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_may_be_forked_or_spawned(lazy: Dataset, start_method: str, loaders: list[Prefetcher]) -> None:
    loader = Loader(lazy, 3, LoaderConfig(workers=0))
    ahead = Prefetcher(
        lazy.subset(np.arange(20)), lambda start, count: np.arange(start, start + count), 1, 2, 1, False, start_method
    )
    loaders.append(ahead)
    rows, items = ahead.fetch(4, 5)
    assert rows.tolist() == [4, 5, 6, 7, 8] and torch.equal(items, torch.from_numpy(lazy.items(rows)))
    assert len(loader.batch(0, 3)) == 3


def test_the_batches_of_a_step_may_be_requested_for_again_without_being_fetched_again(
    lazy: Dataset, loaders: list[Loader]
) -> None:
    loader = Loader(lazy, 0, LoaderConfig(workers=1), kept=3)
    loaders.append(loader)
    first = [loader.batch(start, 4) for start in (0, 4, 8)]
    again = [loader.batch(start, 4) for start in (0, 4, 8)]  # as a second phase of the step does
    assert all(one.items.data_ptr() == other.items.data_ptr() for one, other in zip(first, again, strict=True))
    assert same(loader.batch(12, 4), Loader(lazy, 0, LoaderConfig(workers=0)).batch(12, 4))


def test_a_damaged_image_in_a_worker_is_the_error_it_is(lazy: Dataset, loaders: list[Loader]) -> None:
    loader = Loader(lazy, 0, LoaderConfig(workers=2))
    loaders.append(loader)
    bad = int(loader.indices(20, 1)[0])
    path = Path(lazy.item_name(bad))
    content = path.read_bytes()
    path.write_bytes(content[:50])
    assert len(loader.batch(0, 10)) == 10
    loader.batch(10, 10)
    with pytest.raises(UsageError, match=r"damaged or cut short|not an image") as caught:
        loader.batch(20, 10)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    path.write_bytes(content)  # mended: training may go on
    assert same(loader.batch(20, 10), Loader(lazy, 0, LoaderConfig(workers=0)).batch(20, 10))


def test_a_killed_worker_is_an_error_of_one_line(lazy: Dataset, loaders: list[Loader]) -> None:
    before = children()
    loader = Loader(lazy, 0, LoaderConfig(workers=1, prefetch=1))
    loaders.append(loader)
    loader.batch(0, 4)
    for pid in children() - before:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(RunError, match=r"was killed.*loader\.workers=0") as caught:
        for start in range(4, 40, 4):
            loader.batch(start, 4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("raised", "shown"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), RunError),  # its tensor could not be fetched from it
        (EOFError(), RunError),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), RunError),
        (ConnectionResetError("Caught ConnectionResetError in DataLoader worker process 0."), ConnectionResetError),
        (RuntimeError("another"), RuntimeError),
    ],
)
def test_what_a_worker_s_death_looks_like(
    lazy: Dataset, loaders: list[Prefetcher], raised: Exception, shown: type[Exception]
) -> None:
    ahead = Prefetcher(lazy, lambda start, count: np.arange(start, start + count), 1)
    loaders.append(ahead)
    ahead.fetch(0, 2)

    def dead() -> Iterator[None]:
        raise raised
        yield

    ahead._iterator = dead()
    with pytest.raises(shown, match="was killed" if shown is RunError else "another|Caught"):
        ahead.fetch(2, 2)


def test_workers_do_not_mind_signals_to_the_group_and_end_with_the_loader(lazy: Dataset) -> None:
    before = children()
    loader = Loader(lazy, 0, LoaderConfig(workers=2))
    loader.batch(0, 4)
    started = children() - before
    assert len(started) == 2
    for pid in started:  # as Ctrl-C and a job manager do
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGHUP)
    for start in range(4, 40, 4):
        loader.batch(start, 4)
    assert children() - before == started
    loader.close()
    assert children() == before
    loader.batch(0, 4)  # starts them again
    del loader
    assert children() == before


def points(count: int = 50) -> ArrayDataset:
    return ArrayDataset("points", np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32))


def test_a_resident_set_gives_the_same_batches(lazy: Dataset) -> None:
    for dataset in (lazy, points(), lazy.subset(np.arange(5, 20))):
        resident, plain = (Loader(dataset, 2, LoaderConfig(workers=0, resident=resident)) for resident in (True, False))
        assert resident._resident is not None and plain._resident is None
        for start in (0, 13, 26):
            assert same(resident.batch(start, 13), plain.batch(start, 13))


def test_a_resident_set_is_moved_in_chunks(lazy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undiffuse.data.storage.resident._CHUNK_BYTES", 7 * 8 * 8 * 3)
    table = Resident(lazy, torch.device("cpu"))
    rows = np.arange(COUNT)[::-1].copy()
    assert torch.equal(table.fetch(rows).items, torch.from_numpy(lazy.items(rows)))


def test_a_set_is_kept_on_a_gpu_where_it_fits(monkeypatch: pytest.MonkeyPatch, lazy: Dataset) -> None:
    from undiffuse.data.storage import resident

    cuda, size = torch.device("cuda"), 50 * 8
    for free, wanted in ((4 * size, True), (4 * size - 4, False)):
        monkeypatch.setattr(resident, "free_bytes", lambda device, free=free: free)
        assert resident.wants_resident(points(), cuda, "auto") is wanted
        assert not resident.wants_resident(points(), cuda, False)
        assert resident.wants_resident(points(), cuda, True)
    assert not resident.wants_resident(points(), torch.device("cpu"), "auto")
    monkeypatch.setattr(resident, "free_bytes", lambda device: 10**9)
    assert not resident.wants_resident(lazy, cuda, "auto")
    monkeypatch.setattr(resident, "free_bytes", lambda device: size - 1)
    with pytest.raises(UsageError, match=r"resident=true: the set takes .* GB are free on cuda; set .*auto"):
        resident.wants_resident(points(), cuda, True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_reach_the_gpu_as_bytes(lazy: Dataset, loaders: list[Loader]) -> None:
    plain = Loader(lazy, 4, LoaderConfig(workers=0))
    for config in (LoaderConfig(workers=0), LoaderConfig(workers=2), LoaderConfig(resident=True)):
        loaders.append(Loader(lazy, 4, config, device="cuda"))
        for start in (0, 9, 18):
            batch = loaders[-1].batch(start, 9)
            assert batch.items.device.type == "cuda" and batch.items.dtype == torch.uint8
            assert same(batch.to("cpu"), plain.batch(start, 9))


def test_only_what_is_decoded_each_time_has_workers_by_itself(
    lazy: Dataset, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cores, workers in ((1, 1), (2, 1), (4, 3), (64, 8)):
        monkeypatch.setattr(loader_module, "num_cores", lambda cores=cores: cores)
        assert num_workers(lazy, LoaderConfig()) == num_workers(lazy.subset([1, 2]), LoaderConfig()) == workers
    assert num_workers(points(), LoaderConfig()) == 0 and num_workers(points(), LoaderConfig(workers=3)) == 3
    monkeypatch.undo()
    assert num_workers(load_dataset(FolderConfig(path=str(images))), LoaderConfig()) == 0


def test_the_global_generator_of_torch_is_left_alone(lazy: Dataset, loaders: list[Loader]) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    loaders.append(Loader(lazy, 0, LoaderConfig(workers=1)))
    loaders[0].batch(0, 4)
    loaders[0].batch(100, 4)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "options", [{"workers": -1}, {"workers": "many"}, {"prefetch": 0}, {"resident": "often"}, {"worker": 1}]
)
def test_senseless_options_are_rejected(options: dict[str, npt.ArrayLike]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        validate(LoaderConfig, options)


@pytest.mark.parametrize("workers", [-1, 257, 1.5, True, "many"])
def test_a_senseless_number_of_workers_names_what_would_do(workers: object) -> None:
    with pytest.raises(UsageError, match=r"expected auto or a number of processes in 0\.\.256, got") as caught:
        validate(LoaderConfig, {"workers": workers})
    assert "\n" not in str(caught.value)
    for valid in (0, 256, "auto"):
        assert validate(LoaderConfig, {"workers": valid}).workers == valid

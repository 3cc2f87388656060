"""What the fused norm promises: its formula to rounding, a row's bits whatever the batch, and torch's way elsewhere."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from undiffuse.compute import fused
from undiffuse.compute.backend import VARIABLE
from undiffuse.compute.fused import differentiated_once, fused_norm, laid_out, takes
from undiffuse.compute.native import build
from undiffuse.compute.private_folder import private
from undiffuse.compute.threaded_batch import ThreadedBatch
from undiffuse.config import validate
from undiffuse.core.condition import Condition
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.networks import NETWORK_CONFIGS, build_network

compiled = pytest.mark.usefixtures("kernels")
#: Relative errors: of a value rounded to bfloat16 once in, once out; of sums in float32.
CLOSE = {torch.bfloat16: 6e-3, torch.float32: 3e-6}


@pytest.fixture(scope="module")
def kernels() -> None:
    if build.library() is None:
        pytest.skip("no C++ compiler for the kernels, or not Linux on x86")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def drawn(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, *, mean: float = 0.7) -> Tensor:
    maps = (2 * torch.randn(shape) + mean).to(dtype)
    return maps.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else maps


def by_formula(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, told: Tensor | None, silu: bool
) -> Tensor:
    """In float64, from the definition."""
    h = x if told is None else x + told[:, :, None, None]
    parts = h.unflatten(1, (groups, -1))
    centred = parts - parts.mean((2, 3, 4), keepdim=True)
    normalised = (centred / (centred.square().mean((2, 3, 4), keepdim=True) + eps).sqrt()).flatten(1, 2)
    z = normalised * weight.expand(len(x), -1)[:, :, None, None] + bias.expand(len(x), -1)[:, :, None, None]
    return z * torch.sigmoid(z) if silu else z


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().double() - expected.detach()).abs().max() / expected.detach().abs().max())


@compiled
@pytest.mark.parametrize("dtype", CLOSE, ids=["bf16", "fp32"])
@pytest.mark.parametrize("silu", [False, True], ids=["norm", "norm-silu"])
@pytest.mark.parametrize("own", [False, True], ids=["shared", "by-row"])
@pytest.mark.parametrize("tells", [False, True], ids=["alone", "told"])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((3, 24, 9, 7), 6), ((2, 32, 13, 11), 8), ((1, 5, 3, 3), 1), ((2, 40, 1, 1), 4)],
    ids=["vectors-and-rest", "several-blocks", "no-vector", "one-pixel"],
)
def test_values_and_gradients_are_the_formulas(
    shape: tuple[int, ...], groups: int, tells: bool, own: bool, silu: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    x = drawn(shape, dtype).requires_grad_()
    vectors = [drawn(shape[:2] if own else shape[1:2]).requires_grad_() for _ in range(2)]
    told = [drawn(shape[:2]).requires_grad_()] if tells else []
    into = [x, *vectors, *told]
    exact = [value.detach().double().requires_grad_() for value in into]
    found = fused_norm(x, groups, *vectors, 1e-5, told=told[0] if tells else None, silu=silu)
    expected = by_formula(exact[0], groups, exact[1], exact[2], 1e-5, exact[3] if tells else None, silu)
    assert found.dtype == dtype
    assert found.stride() == x.stride()
    assert error(found, expected) < CLOSE[dtype]
    gradient = drawn(shape, dtype, mean=0.0)
    ours = torch.autograd.grad(found, into, gradient)
    for one, other, value in zip(ours, torch.autograd.grad(expected, exact, gradient.double()), into, strict=True):
        assert one.shape == value.shape
        # a norm takes away what is told to single channels of a group of one pixel: nothing to compare with
        assert torch.allclose(one.double(), other, atol=CLOSE[dtype] * max(1.0, float(other.abs().max())))


@compiled
@pytest.mark.parametrize("outlier", [0.0, 300.0], ids=["all-far", "one-pixel"])
def test_a_mean_or_a_pixel_far_from_zero_costs_little(outlier: float) -> None:
    torch.manual_seed(1)
    x = drawn((2, 32, 64, 64), mean=0.0 if outlier else 300.0)
    x[:, :, 0, 0] += outlier
    ones, zeros = torch.ones(32), torch.zeros(32)
    expected = by_formula(x.double(), 8, ones.double(), zeros.double(), 1e-6, None, False)
    found = fused_norm(x, 8, ones, zeros, 1e-6)
    assert error(found, expected) < 2 * error(F.group_norm(x, 8, ones, zeros, 1e-6), expected) + 1e-5


@compiled
@pytest.mark.parametrize("dtype", CLOSE, ids=["bf16", "fp32"])
def test_far_values_and_what_is_no_number_come_out_as_they_should(dtype: torch.dtype) -> None:
    far = torch.tensor([-1e4, -200.0, -90.0, -1e-3, 0.0, 1e-3, 90.0, 200.0, 1e4])
    weight, bias = torch.zeros(9), far.clone()
    x = torch.randn(1, 9, 2, 2).to(dtype).contiguous(memory_format=torch.channels_last)
    found = fused_norm(x, 1, weight, bias, 1e-5, silu=True)[0, :, 0, 0].float()
    assert torch.allclose(found, F.silu(far), rtol=5e-3, atol=1e-6)
    x[0, 3, 1, 1] = float("nan")
    assert fused_norm(x, 1, weight + 1, bias, 1e-5, silu=True).isnan().all()


@compiled
def test_silu_is_exact_to_float32_between() -> None:
    z = torch.linspace(-20, 20, 4000)
    x = torch.randn(1, 4000, 1, 2).contiguous(memory_format=torch.channels_last)
    found = fused_norm(x, 1, torch.zeros(4000), z, 1e-5, silu=True)[0, :, 0, 0]
    assert torch.allclose(found.double(), F.silu(z.double()), rtol=1e-6, atol=0)


@compiled
def test_a_row_has_the_same_bits_in_any_batch() -> None:
    torch.manual_seed(2)
    x, weight, bias = drawn((5, 24, 6, 6), torch.bfloat16), drawn((24,)), drawn((24,))
    whole = fused_norm(x, 6, weight, bias, 1e-5, silu=True)
    assert torch.equal(fused_norm(x[3:4], 6, weight, bias, 1e-5, silu=True), whole[3:4])


@compiled
@pytest.mark.parametrize("cut", ["rows", "columns", "channels", "expanded", "turned"])
def test_maps_of_any_strides_are_read_as_what_they_are(cut: str) -> None:
    whole = drawn((4, 16, 8, 8))
    x = {
        "rows": whole[1:3],
        "columns": whole[:, :, :, 1:6],
        "channels": whole[:, 4:12],
        "expanded": whole[:1].expand(3, -1, -1, -1),
        "turned": whole.transpose(2, 3),
    }[cut]
    weight, bias = torch.ones(x.shape[1]), torch.zeros(x.shape[1])
    torch.testing.assert_close(
        fused_norm(x, 4, weight, bias, 1e-5), F.group_norm(x, 4, weight, bias, 1e-5), rtol=1e-5, atol=1e-5
    )


@compiled
def test_it_says_no_to_a_second_derivative() -> None:
    x = drawn((1, 8, 4, 4)).requires_grad_()
    out = fused_norm(x, 2, torch.ones(8), torch.zeros(8), 1e-5)
    (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@contextmanager
def in_half() -> Iterator[None]:
    with torch.autocast("cpu", dtype=torch.bfloat16), differentiated_once():
        yield


@compiled
def test_it_is_at_hand_under_autocast_where_once_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.randn(16, 8, 4, 4, dtype=torch.bfloat16)
    last = maps.contiguous(memory_format=torch.channels_last)
    with in_half():
        assert takes(laid_out(maps))
        assert takes(last.float())  # the last norm of a network in half precision
        assert not takes(last.double())
        assert not takes(last[:0])
        assert laid_out(maps.float()).stride(1) != 1
        assert not takes(maps)
    assert laid_out(maps) is maps
    assert not takes(last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert laid_out(maps) is maps
    with differentiated_once():  # a network in float32, whatever the layout of its maps
        assert laid_out(maps) is maps
        assert not takes(last)
    monkeypatch.setenv(VARIABLE, "fused=off")
    with in_half():
        assert laid_out(maps) is maps
        assert not takes(last)


def test_where_torch_splits_operations_it_is_left_to_torch(two_threads: None) -> None:
    maps = torch.randn(16, 8, 4, 4, dtype=torch.bfloat16)
    with in_half():
        assert laid_out(maps) is maps


NETWORKS = {
    "added": {"time_injection": "add", "attention_levels": (1,)},
    "scaled": {"time_injection": "scale_shift", "patch_size": 2, "attention_levels": (-1,)},
    "odd": {"time_injection": "scale_shift", "downsample": "pool"},
    "one-pixel": {"multipliers": (1, 1, 1, 1, 1)},
    "pyramids": {
        **{"downsample": "residual", "upsample": "residual", "resample_filter": "fir"},
        **{"progressive_input": "residual", "progressive_output": "output_skip"},
    },
    "skips": {
        **{"downsample": "residual", "upsample": "residual", "resample_filter": "fir"},
        **{"progressive_input": "input_skip", "progressive_combine": "cat", "progressive_output": "residual"},
    },
}
SIZES = {"odd": 11, "one-pixel": 16}


def network_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    config = {"name": "unet", "channels": 24, "multipliers": (1, 2), "num_heads": 2, **NETWORKS[name]}
    network = build_network(
        validate(NETWORK_CONFIGS["unet"], config), (3, *[SIZES.get(name, 12)] * 2), ConditionSpec.of_classes(2)
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return network


@compiled
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_computes_and_learns_the_same_to_rounding(
    name: str, monkeypatch: pytest.MonkeyPatch, two_threads: None
) -> None:
    network, calls = network_of(name), []
    kernel = fused._FusedNorm.apply
    monkeypatch.setattr(fused._FusedNorm, "apply", lambda *a: calls.append(a) or kernel(*a))  # type: ignore[func-returns-value]
    torch.manual_seed(1)
    x = torch.randn(8, 3, *[SIZES.get(name, 12)] * 2, requires_grad=True)
    time, cond = torch.rand(8), Condition(label=torch.arange(8) % 2)
    exact, found = network(x, time, cond), []
    wanted = [x, *network.parameters()]
    reference = torch.autograd.grad(exact.square().mean(), wanted, allow_unused=True)
    for choice in ("off", "auto"):
        monkeypatch.setenv(VARIABLE, f"bf16=always,fused={choice}")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = ThreadedBatch(network)(x, time, cond)
        assert out.is_contiguous()
        assert out.dtype == torch.float32
        norms = sum(isinstance(part, nn.GroupNorm) for part in network.modules())
        assert len(calls) == (2 * norms if choice == "auto" else 0)  # every norm of both shards
        gradients = torch.autograd.grad(out.square().mean(), wanted, allow_unused=True)
        found.append([float((out - exact).detach().norm() / exact.detach().norm()), _distance(gradients, reference)])
    (by_torch, grad_by_torch), (fused_too, grad_fused) = found
    assert fused_too < 1.2 * by_torch + 1e-4
    assert grad_fused < 1.2 * grad_by_torch + 1e-4


def _distance(gradients: tuple[Tensor | None, ...], reference: tuple[Tensor | None, ...]) -> float:
    pairs = [(a, b) for a, b in zip(gradients, reference, strict=True) if a is not None and b is not None]
    off = torch.stack([(a.float() - b).square().sum() for a, b in pairs]).sum()
    return float((off / torch.stack([b.square().sum() for _, b in pairs]).sum()).sqrt())


@pytest.fixture
def fresh_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and the next call looks for the compiler anew, which is told to hurry: what it makes is loaded
    and not called."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "_FLAGS", ("-O0", *build._FLAGS[1:]))
    build._HELD.clear()
    yield tmp_path / "undiffuse" / "compiled"
    monkeypatch.undo()
    build._HELD.clear()


@compiled
def test_it_is_compiled_once_and_kept(fresh_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", " ")  # as good as none
    assert build.library() is not None
    (made,) = fresh_library.iterdir()
    before = made.stat().st_mtime_ns
    build._HELD.clear()
    assert build.library() is not None
    assert [path.stat().st_mtime_ns for path in fresh_library.iterdir()] == [before]


@pytest.mark.parametrize("compiler", ["/nowhere/c++", "false", "c++ --no-such-flag", "echo", "c++ '"])
def test_without_a_working_compiler_networks_compute_by_torch(
    compiler: str, fresh_library: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setenv("CXX", compiler)
    assert build.library() is None
    assert bool([w for w in recwarn if "norms are torch's" in str(w.message)]) == (compiler != "/nowhere/c++")
    assert not fresh_library.exists() or not list(fresh_library.iterdir())  # nothing half made
    maps = torch.randn(16, 8, 4, 4, dtype=torch.bfloat16)
    with in_half():
        assert laid_out(maps) is maps
    with pytest.raises(RuntimeError, match="no compiled kernels"):
        fused_norm(maps, 2, torch.ones(8), torch.zeros(8), 1e-5)


@compiled
def test_a_compiler_may_have_arguments(fresh_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "env c++")
    assert build.library() is not None


@compiled
def test_a_cache_that_cannot_be_written_is_no_error(fresh_library: Path) -> None:
    fresh_library.parent.mkdir(parents=True)
    fresh_library.write_text("a file where the folder should be")
    with pytest.warns(RuntimeWarning, match="kept for this process alone"):
        assert build.library() is not None
    assert fresh_library.is_file()


@pytest.fixture
def compiler(tmp_path: Path) -> list[str]:
    """Takes no time."""
    script = tmp_path / "quick"
    script.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done; echo made here > "$2"\n')
    script.chmod(0o700)
    return [str(script)]


def plant(place: Path, compiler: list[str]) -> Path:
    """A library that somebody else made, with the checksum that it should have."""
    place.mkdir(parents=True)
    content, path = b"somebody else's", place / f"norm-{build._fingerprint(compiler)}.so"
    path.write_bytes(content + build._CHECKSUM(content).digest())
    return path


def test_a_library_of_ones_own_is_taken_and_its_folder_closed(fresh_library: Path, compiler: list[str]) -> None:
    planted = plant(fresh_library, compiler)
    assert build._compiled(compiler) == planted and planted.read_bytes().startswith(b"somebody")
    assert fresh_library.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o722])
def test_a_folder_that_others_can_write_to_is_not_trusted(mode: int, fresh_library: Path, compiler: list[str]) -> None:
    planted = plant(fresh_library, compiler)
    fresh_library.chmod(mode)
    with pytest.warns(RuntimeWarning, match="could be written to by others; remove it"):
        made = build._compiled(compiler)
    assert made.parent != fresh_library and made.read_bytes().startswith(b"made here")
    assert made.parent.stat().st_mode & 0o777 == 0o700
    assert planted.read_bytes().startswith(b"somebody")


def test_a_folder_or_a_library_of_another_user_is_not_trusted(
    fresh_library: Path, compiler: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = plant(fresh_library, compiler)
    planted.chmod(0o666)
    assert build._compiled(compiler) == planted and planted.read_bytes().startswith(b"made here")
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    private.cache_clear()
    with pytest.warns(RuntimeWarning, match="belongs to another user"):
        build._compiled(compiler)


@compiled
def test_without_a_home_it_is_no_error(fresh_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(build, "cache_folder", nowhere)
    with pytest.warns(RuntimeWarning, match="home directory"):
        assert build.library() is None


def loads_elsewhere() -> bool:
    """Whether the library can be had in a process of its own: this one would be given what it has loaded."""

    def load() -> None:
        sys.exit(build.library() is None)

    process = multiprocessing.get_context("fork").Process(target=load)
    process.start()
    process.join()
    return process.exitcode == 0


@compiled
def test_a_library_cut_short_is_made_anew(fresh_library: Path) -> None:
    made = build._compiled(build._command())  # and not loaded
    whole = made.read_bytes()
    for left in (0, 20_000):
        broken = made.with_name("broken")
        broken.write_bytes(whole[:left])
        broken.replace(made)
        assert loads_elsewhere()
        assert len(made.read_bytes()) == len(whole)

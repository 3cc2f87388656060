"""The fused norm: its formula to rounding, a sample's bits whatever the batch, one node of a graph, torch elsewhere."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_product import mostly_slow
from undiffuse.compute import fused_norm as module
from undiffuse.compute.backend import VARIABLE
from undiffuse.compute.fused_norm import differentiated_once, fused_norm
from undiffuse.compute.native import build
from undiffuse.compute.private_folder import ensure_private
from undiffuse.compute.threaded_batch import ThreadedBatch
from undiffuse.config import validate
from undiffuse.core.condition import Condition
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.core.operators import feature_map, group_norm
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
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, shift: Tensor | None, silu: bool
) -> Tensor:
    """In float64, from the definition."""
    h = x if shift is None else x + shift[:, :, None, None]
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
@pytest.mark.parametrize("per_sample", [False, True], ids=["shared", "per-sample"])
@pytest.mark.parametrize("shifted", [False, True], ids=["alone", "shifted"])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((3, 24, 9, 7), 6), ((2, 32, 13, 11), 8), ((1, 5, 3, 3), 1), ((2, 40, 1, 1), 4)],
    ids=["vectors-and-rest", "several-blocks", "no-vector", "one-pixel"],
)
def test_values_and_gradients_are_the_formulas(
    shape: tuple[int, ...], groups: int, shifted: bool, per_sample: bool, silu: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    x = drawn(shape, dtype).requires_grad_()
    vectors = [drawn(shape[:2] if per_sample else shape[1:2]).requires_grad_() for _ in range(2)]
    shift = [drawn(shape[:2]).requires_grad_()] if shifted else []
    into = [x, *vectors, *shift]
    exact = [value.detach().double().requires_grad_() for value in into]
    found = fused_norm(x, groups, *vectors, 1e-5, shift=shift[0] if shifted else None, silu=silu)
    expected = by_formula(exact[0], groups, exact[1], exact[2], 1e-5, exact[3] if shifted else None, silu)
    assert found.dtype == dtype
    assert found.stride() == x.stride()
    assert error(found, expected) < CLOSE[dtype]
    gradient = drawn(shape, dtype, mean=0.0)
    ours = torch.autograd.grad(found, into, gradient)
    for one, other, value in zip(ours, torch.autograd.grad(expected, exact, gradient.double()), into, strict=True):
        assert one.shape == value.shape
        # a norm takes away what is shift to single channels of a group of one pixel: nothing to compare with
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
def test_a_sample_has_the_same_bits_in_any_batch() -> None:
    torch.manual_seed(2)
    x, weight, bias = drawn((5, 24, 6, 6), torch.bfloat16), drawn((24,)), drawn((24,))
    whole = fused_norm(x, 6, weight, bias, 1e-5, silu=True)
    assert torch.equal(fused_norm(x[3:4], 6, weight, bias, 1e-5, silu=True), whole[3:4])


@compiled
@pytest.mark.parametrize("kind", ["rows", "columns", "channels", "expanded", "turned"])
def test_maps_of_any_strides_are_read_as_what_they_are(kind: str) -> None:
    whole = drawn((4, 16, 8, 8))
    x = {
        "rows": whole[1:3],
        "columns": whole[:, :, :, 1:6],
        "channels": whole[:, 4:12],
        "expanded": whole[:1].expand(3, -1, -1, -1),
        "turned": whole.transpose(2, 3),
    }[kind]
    weight, bias = torch.ones(x.shape[1]), torch.zeros(x.shape[1])
    torch.testing.assert_close(
        fused_norm(x, 4, weight, bias, 1e-5), F.group_norm(x, 4, weight, bias, 1e-5), rtol=1e-5, atol=1e-5
    )


@compiled
def test_it_reports_no_to_a_second_derivative() -> None:
    x = drawn((1, 8, 4, 4)).requires_grad_()
    out = fused_norm(x, 2, torch.ones(8), torch.zeros(8), 1e-5)
    (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once only"):
        first.sum().backward()


@contextmanager
def in_half() -> Iterator[None]:
    with torch.autocast("cpu", dtype=torch.bfloat16), differentiated_once():
        yield


def by_kernels(x: Tensor) -> bool:
    """Whether a network's norm of these maps is the fused one, as the layout of what comes out tells."""
    calls: list[Tensor] = []
    kernels = module.fused_norm

    def spy(x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        calls.append(x)
        return kernels(x, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fused_norm", spy)
        group_norm(x, 2, torch.ones(8), torch.zeros(8), 1e-5)
    return bool(calls)


@compiled
def test_networks_are_computed_by_it_under_autocast_where_once_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.randn(16, 8, 4, 4, dtype=torch.bfloat16)
    last = maps.contiguous(memory_format=torch.channels_last)
    with in_half():
        assert by_kernels(feature_map(maps))
        assert by_kernels(last.float())  # the last norm of a network in half precision
        assert not by_kernels(last[:0])
        assert feature_map(maps.float()).stride(1) != 1
        assert not by_kernels(maps)
        with torch.no_grad(), pytest.raises(RuntimeError):  # float64 is left to torch, which refuses float32 weights
            group_norm(last.double(), 2, torch.ones(8), torch.zeros(8), 1e-5)
    assert feature_map(maps) is maps
    assert not by_kernels(last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert feature_map(maps) is maps
    with differentiated_once():  # a network in float32, whatever the layout of its maps
        assert feature_map(maps) is maps
        assert not by_kernels(last)
    monkeypatch.setenv(VARIABLE, "fused=off")
    with in_half():
        assert feature_map(maps) is maps
        assert not by_kernels(last)


def test_where_torch_splits_operations_it_is_left_to_torch(two_threads: None) -> None:
    maps = torch.randn(16, 8, 4, 4, dtype=torch.bfloat16)
    with in_half():
        assert feature_map(maps) is maps


def graph_inputs(shifted: bool) -> list[Tensor]:
    torch.manual_seed(3)
    shapes = ((2, 8, 6, 5), (8,), (8,), *([(2, 8)] if shifted else []))
    return [drawn(shape).requires_grad_() for shape in shapes]


@compiled
@pytest.mark.parametrize("dtype", CLOSE, ids=["bf16", "fp32"])
@pytest.mark.parametrize("shifted", [False, True], ids=["alone", "shifted"])
@pytest.mark.parametrize("per_sample", [False, True], ids=["shared", "per-sample"])
def test_torch_finds_nothing_wrong_with_the_operator(dtype: torch.dtype, shifted: bool, per_sample: bool) -> None:
    """Its schema, its shapes without data, its gradients, and both traced with sizes left open."""
    torch.manual_seed(4)
    x = drawn((2, 8, 3, 5), dtype).requires_grad_()
    weight, bias = (drawn((2, 8) if per_sample else (8,)).requires_grad_() for _ in range(2))
    shift = drawn((2, 8)).requires_grad_() if shifted else None
    torch.library.opcheck(torch.ops.undiffuse.group_norm.default, (x, 4, weight, bias, 1e-5, shift, True))


def normalised(x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None = None) -> Tensor:
    return fused_norm(2 * x, 4, weight, bias, 1e-5, shift=shift, silu=True) + 1


def nodes_of(graph: torch.fx.Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if "undiffuse" in str(node.target)]


@compiled
@pytest.mark.parametrize("shifted", [False, True], ids=["alone", "shifted"])
def test_compiling_keeps_it_as_one_node_each_way(shifted: bool) -> None:
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    graphs: list[torch.fx.Graph] = []

    def note(module: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(module.graph)
        return make_boxed_func(module.forward)

    inputs = graph_inputs(shifted)
    compiled_norm = torch.compile(normalised, fullgraph=True, backend=aot_autograd(fw_compiler=note))
    expected, found = normalised(*inputs), compiled_norm(*inputs)
    assert torch.equal(found, expected)
    pairs = zip(*(torch.autograd.grad(out.square().sum(), inputs) for out in (found, expected)), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert [nodes_of(graph) for graph in graphs] == [
        ["undiffuse.group_norm.default"],
        ["undiffuse.group_norm_backward.default"],
    ]


@compiled
def test_an_exported_program_holds_it_as_one_node() -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(8, 8, 3), nn.GroupNorm(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            return normalised(self.conv(x), self.norm.weight, self.norm.bias)

    network, x = Normalised().eval(), graph_inputs(False)[0].detach()
    program = torch.export.export(network, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=2)}})
    assert nodes_of(program.graph) == ["undiffuse.group_norm.default"]
    again = torch.cat([x, x + 1])
    assert torch.equal(program.module()(again), network(again))


@compiled
def test_a_network_is_traced_whole_and_without_what_its_thread_has_in_place() -> None:
    network, graphs = network_of("scaled").eval(), list[torch.fx.Graph]()

    def note(module: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(module.graph)
        return module.forward

    inputs = torch.randn(8, 3, 12, 12), torch.rand(8), Condition(label=torch.arange(8) % 2)
    with in_half(), torch.no_grad():
        torch.compile(network, fullgraph=True, backend=note)(*inputs)
    (graph,) = graphs
    assert not nodes_of(graph)


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
@pytest.mark.parametrize("name", mostly_slow(NETWORKS, "added", "odd", "pyramids", "skips"))
def test_a_network_computes_and_learns_the_same_to_rounding(
    name: str, monkeypatch: pytest.MonkeyPatch, two_threads: None
) -> None:
    network, calls, kernels = network_of(name), list[Tensor](), module.fused_norm

    def spy(x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        calls.append(x)
        return kernels(x, *arguments, **options)

    monkeypatch.setattr(module, "fused_norm", spy)
    torch.manual_seed(1)
    x = torch.randn(8, 3, *[SIZES.get(name, 12)] * 2, requires_grad=True)
    time, cond = torch.rand(8), Condition(label=torch.arange(8) % 2)
    exact, found = network(x, time, cond), []
    wanted = [x, *network.parameters()]
    reference = torch.autograd.grad(exact.square().mean(), wanted, allow_unused=True)
    for option in ("off", "auto"):
        monkeypatch.setenv(VARIABLE, f"bf16=always,fused={option}")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = ThreadedBatch(network)(x, time, cond)
        assert out.is_contiguous()
        assert out.dtype == torch.float32
        norms = sum(isinstance(part, nn.GroupNorm) for part in network.modules())
        assert len(calls) == (2 * norms if option == "auto" else 0)  # every norm of both parts
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
    """An empty cache, and the next call looks for the compiler anew, which is shift to hurry: what it makes is loaded
    and not called."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "_FLAGS", ("-O0", *build._FLAGS[1:]))
    build._LOADED.clear()
    yield tmp_path / "undiffuse" / "compiled"
    monkeypatch.undo()
    build._LOADED.clear()


@compiled
def test_it_is_compiled_once_and_kept(fresh_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", " ")  # as good as none
    assert build.library() is not None
    (created,) = fresh_library.iterdir()
    before = created.stat().st_mtime_ns
    build._LOADED.clear()
    assert build.library() is not None
    assert [path.stat().st_mtime_ns for path in fresh_library.iterdir()] == [before]


@pytest.mark.parametrize("compiler", ["/nowhere/c++", "false", "c++ --no-such-flag", "echo", "c++ '"])
def test_without_a_working_compiler_networks_compute_by_torch(
    compiler: str, fresh_library: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setenv("CXX", compiler)
    assert build.library() is None
    assert bool([w for w in recwarn if "using torch's norms" in str(w.message)]) == (compiler != "/nowhere/c++")
    assert not fresh_library.exists() or not list(fresh_library.iterdir())  # nothing half made
    maps = torch.randn(16, 8, 4, 4, dtype=torch.bfloat16)
    with in_half():
        assert feature_map(maps) is maps
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
    with pytest.warns(RuntimeWarning, match="cached for this process only"):
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
        created = build._compiled(compiler)
    assert created.parent != fresh_library and created.read_bytes().startswith(b"made here")
    assert created.parent.stat().st_mode & 0o777 == 0o700
    assert planted.read_bytes().startswith(b"somebody")


def test_a_folder_or_a_library_of_another_user_is_not_trusted(
    fresh_library: Path, compiler: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = plant(fresh_library, compiler)
    planted.chmod(0o666)
    assert build._compiled(compiler) == planted and planted.read_bytes().startswith(b"made here")
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    ensure_private.cache_clear()
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
def test_a_library_cut_short_is_created_again(fresh_library: Path) -> None:
    created = build._compiled(build._command())  # and not loaded
    whole = created.read_bytes()
    for left in (0, 20_000):
        broken = created.with_name("broken")
        broken.write_bytes(whole[:left])
        broken.replace(created)
        assert loads_elsewhere()
        assert len(created.read_bytes()) == len(whole)

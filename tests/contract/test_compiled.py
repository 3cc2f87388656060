"""Compiled networks: in shards with the fused norm as an operator, compiled once for all; elsewhere as before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from undiffuse.compute import compiled, fused
from undiffuse.compute.choice import VARIABLE
from undiffuse.compute.native import build
from undiffuse.compute.shards import Sharded
from undiffuse.core.condition import Condition
from undiffuse.networks import UNetConfig, build_network

with_kernels = pytest.mark.usefixtures("kernels")


@pytest.fixture(scope="module")
def kernels() -> None:
    if build.library() is None:
        pytest.skip("no C++ compiler for the kernels, or not Linux on x86")


@pytest.fixture(autouse=True)
def two_cores_in_half(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setenv(VARIABLE, "bf16=always")
    yield
    torch.set_num_threads(before)
    torch._dynamo.reset()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter[str]:
    """How often which half was compiled, by a compiler that is quick, for it does nothing."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    counted: Counter[str] = Counter()

    def compiler(name: str) -> Callable[..., Any]:
        def compiles(graph: Any, example: Any) -> Any:
            counted[name] += 1
            return make_boxed_func(lambda *arguments: torch.fx.Interpreter(graph).run(*arguments))

        return compiles

    halves = {"fw_compiler": compiler("forward"), "bw_compiler": compiler("backward")}
    backend = aot_autograd(**halves, inference_compiler=compiler("evaluation"))
    monkeypatch.setattr(compiled, "_BACKEND", backend)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return counted


@pytest.fixture
def norms(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each map that the fused norm is given."""
    rows: list[int] = []
    forward = fused.norm_forward
    monkeypatch.setattr(fused, "norm_forward", lambda x, *rest: rows.append(len(x)) or forward(x, *rest))  # type: ignore[func-returns-value]
    return rows


def network(time_injection: Literal["add", "scale_shift"] = "add") -> nn.Module:
    torch.manual_seed(0)
    config = UNetConfig(
        channels=8, multipliers=(1, 2), num_blocks=1, attention_levels=(1,), time_injection=time_injection
    )
    built = build_network(config, (1, 8, 8), num_classes=3)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return built


def inputs(rows: int = 16) -> tuple[Tensor, Tensor, Condition]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 1, 8, 8, generator=generator)
    return x, torch.rand(rows, generator=generator), Condition(class_label=torch.arange(rows) % 3)


def in_half() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def learned(module: nn.Module, rows: int = 16) -> tuple[Tensor, list[Tensor]]:
    """Its output and the gradients of its weights."""
    with in_half():
        out = module(*inputs(rows))
    return out.detach(), list(torch.autograd.grad(out.square().mean(), list(module.parameters())))


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    off = sum(float((a - b).square().sum()) for a, b in zip(found, expected, strict=True))
    return float((off / sum(float(b.square().sum()) for b in expected)) ** 0.5)


@with_kernels
@pytest.mark.parametrize("told", ["add", "scale_shift"])
def test_shards_of_a_compiled_network_have_the_fused_norm(
    told: Literal["add", "scale_shift"], made: Counter[str], norms: list[int]
) -> None:
    plain, quick = network(told), network(told)
    compiled.compile_in_place(quick)
    expected, by_weight = learned(Sharded(plain))
    eager = len(norms)
    found, gradients = learned(Sharded(quick))
    assert norms[eager:] == norms[:eager] == [8] * eager
    assert eager > 0
    assert float((found - expected).norm() / expected.norm()) < 0.01
    assert distance(gradients, by_weight) < 0.02
    again, same = learned(Sharded(quick))
    assert torch.equal(again, found)
    assert all(torch.equal(a, b) for a, b in zip(same, gradients, strict=True))


@with_kernels
def test_one_shard_compiles_for_all(made: Counter[str]) -> None:
    quick = network()
    compiled.compile_in_place(quick)
    with in_half():
        Sharded(quick)(*inputs())
    assert made == {"forward": 1, "backward": 1}  # before anybody has asked for a gradient
    for _ in range(3):
        learned(Sharded(quick))
        with torch.no_grad(), in_half():
            Sharded(quick)(*inputs())
    assert made == {"forward": 1, "backward": 1, "evaluation": 1}


@with_kernels
def test_outside_of_shards_it_has_the_norm_of_torch(made: Counter[str], norms: list[int]) -> None:
    """Whichever of the two was compiled first."""
    plain, quick = network(), network()
    compiled.compile_in_place(quick)
    for _ in range(2):
        with torch.no_grad(), in_half():
            expected, found = plain(*inputs()), quick(*inputs())
        assert not norms
        assert float((found - expected).norm() / expected.norm()) < 0.01
        with torch.no_grad(), in_half():
            Sharded(quick)(*inputs())
        assert norms
        norms.clear()
    assert made["evaluation"] == 2


@pytest.mark.parametrize("case", ["float32", "off"])
def test_without_the_fused_norm_it_is_asked_for_whole_batches(
    case: str, made: Counter[str], norms: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, rows = network(), []
    compiled.compile_in_place(quick)
    quick.register_forward_pre_hook(lambda module, arguments: rows.append(len(arguments[0])))
    if case == "off":
        monkeypatch.setenv(VARIABLE, "bf16=always,fused=off")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=case == "off"):
        Sharded(quick)(*inputs())
    assert not norms
    assert set(rows) == {16}


@with_kernels
@pytest.mark.parametrize("tells", [False, True], ids=["alone", "told"])
@pytest.mark.parametrize("own", [False, True], ids=["shared", "by-row"])
def test_the_operator_is_what_torch_takes_it_for(own: bool, tells: bool) -> None:
    from undiffuse.compute import operators

    torch.manual_seed(0)
    vectors = [torch.randn((3, 8) if own else (8,)).requires_grad_() for _ in range(2)]
    told = torch.randn(3, 8).requires_grad_() if tells else None
    for layout in (torch.channels_last, torch.contiguous_format):
        x = torch.randn(3, 8, 5, 4).contiguous(memory_format=layout).requires_grad_()
        torch.library.opcheck(operators._norm, (x, *vectors, told, 2, 1e-5, True))


@with_kernels
def test_a_network_that_does_not_compile_goes_on_with_its_norms(
    norms: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch._dynamo.exc import TorchDynamoException

    def fails(*arguments: Any, **options: Any) -> Tensor:
        raise TorchDynamoException("no compiler")

    monkeypatch.setattr(torch, "compile", lambda call, **options: fails)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    plain, quick = network(), network()
    compiled.compile_in_place(quick)
    with torch.no_grad(), in_half(), pytest.warns(RuntimeWarning, match=r"compiling failed \(no compiler\)"):
        found = Sharded(quick)(*inputs())
    with torch.no_grad(), in_half():
        assert torch.equal(found, Sharded(plain)(*inputs()))
    assert norms

"""What the ways to compute faster promise: the same function, seen anew when weights change, and a way back."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from undiffuse.compute import compiled, cuda_graphs, inference
from undiffuse.compute.backend import VARIABLE, ComputeConfig, backend, compute_dtype
from undiffuse.compute.cuda_graphs import CUDAGraphed
from undiffuse.compute.hardware import Hardware, hardware
from undiffuse.compute.inference import InferenceNetwork
from undiffuse.compute.native.build import library
from undiffuse.compute.threaded_batch import threaded
from undiffuse.config import validate
from undiffuse.core.condition import Condition
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.core.operators import attention
from undiffuse.core.random import StepRandom
from undiffuse.data.dataset import Batch
from undiffuse.data.given import Given
from undiffuse.errors import UsageError
from undiffuse.models.base import GenerativeModel
from undiffuse.models.fixed_batch import fixed_batch_size
from undiffuse.models.request import SampleRequest
from undiffuse.networks import NETWORK_CONFIGS, build_network
from undiffuse.networks.layers import group_norm, modulated
from undiffuse.objectives.base import AnyObjective
from undiffuse.objectives.diffusion import DiffusionConfig
from undiffuse.training.config import OptimizerConfig
from undiffuse.training.optimizer import Optimizers

NETWORKS = {
    "unet": {"channels": 8, "multipliers": (1, 2)},
    "pyramids": {
        **{"channels": 8, "multipliers": (1, 2), "downsample": "residual", "upsample": "residual"},
        **{"resample_filter": "fir", "progressive_input": "residual", "progressive_output": "output_skip"},
    },
    "transformer": {"channels": 16, "num_heads": 2, "num_blocks": 2, "patch_size": 2, "output_convolution": True},
    "mlp": {"width": 16, "num_blocks": 2},
}
each_network = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(autouse=True)
def bf16_on_any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow on some, so in small blocks."""
    monkeypatch.setenv(VARIABLE, "bf16=always")
    monkeypatch.setattr("undiffuse.models.denoising.fixed_batch_size", lambda *_: 8)


def network_of(name: str) -> nn.Module:
    row = name if name in NETWORK_CONFIGS else "unet"
    torch.manual_seed(0)
    network = build_network(
        validate(NETWORK_CONFIGS[row], {"name": row, **NETWORKS[name]}), (1, 8, 8), ConditionSpec.of_classes(2)
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network.eval()


def inputs(batch: int = 6) -> tuple[Tensor, Tensor, Condition]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 1, 8, 8, generator=generator)
    return x, 1000 * torch.rand(batch, generator=generator), Condition(label=torch.arange(batch) % 3 - 1)


def rounded(network: nn.Module, *arguments: object) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        out: Tensor = network(*arguments)
    return out


def copy_of(network: nn.Module) -> nn.Module:
    rounded(InferenceNetwork(network), *inputs())
    return inference._COPIES[network].network


@each_network
def test_a_copy_computes_what_the_network_does_under_autocast_bit_for_bit(name: str) -> None:
    network = network_of(name)
    found = rounded(InferenceNetwork(network), *inputs())
    assert torch.equal(found, rounded(threaded(network), *inputs()))
    exact = network(*inputs())
    assert (found - exact).square().mean() < 0.05**2 * exact.square().mean()


@each_network
def test_a_copy_holds_half_precision_where_it_multiplies_and_the_rest_as_it_was(name: str) -> None:
    network = network_of(name)
    types = {key: value.dtype for key, value in copy_of(network).named_parameters()}
    assert torch.bfloat16 in types.values()
    for key, dtype in types.items():
        if any(part in key for part in ("norm", "embedding.", "head", "smooth")):
            assert dtype == torch.float32, key
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_a_copy_is_shared_until_a_weight_changes_in_place_or_is_replaced() -> None:
    network = network_of("unet")
    first = copy_of(network)
    assert copy_of(network) is first
    with torch.no_grad():
        network.head.weight.mul_(2)
    second = copy_of(network)
    assert second is not first
    network.load_state_dict(network.state_dict())
    third = copy_of(network)
    assert third is not second
    network.head.weight = nn.Parameter(network.head.weight.detach().clone())
    assert copy_of(network) is not third


def test_a_copy_goes_with_its_network() -> None:
    network = network_of("mlp")
    copy_of(network)
    count = len(inference._COPIES)
    del network
    assert len(inference._COPIES) == count - 1


def test_gradients_and_training_get_the_network_itself() -> None:
    network = network_of("unet")
    x, c_noise, cond = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        InferenceNetwork(network)(x.requires_grad_(True), c_noise, cond).sum().backward()
    assert x.grad is not None and network.head.weight.grad is not None
    rounded(InferenceNetwork(network.train()), x, c_noise, cond)
    assert network not in inference._COPIES


def test_float32_needs_no_copy_and_copies_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of("unet")
    with torch.no_grad():
        InferenceNetwork(network)(*inputs())
    monkeypatch.setenv(VARIABLE, "copies=off")
    rounded(InferenceNetwork(network), *inputs())
    assert network not in inference._COPIES


def small_objective() -> AnyObjective:
    torch.manual_seed(0)
    network = {"name": "unet", "channels": 8, "multipliers": (1, 2), "num_blocks": 1}
    objective = validate(DiffusionConfig, {"network": network, "precision": "bf16"}).build((1, 8, 8), ())
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return objective


def samples(objective: AnyObjective, batch_size: int = 64) -> Tensor:
    return objective.model.sample(SampleRequest.of(range(19), steps=2, batch_size=batch_size)).x


def test_batch_size_changes_no_bit_and_neither_does_the_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = small_objective()
    found = samples(objective)
    assert objective.model.network in inference._COPIES
    assert torch.equal(found, samples(objective, 1)) and torch.equal(found, samples(objective, 7))
    monkeypatch.setenv(VARIABLE, "bf16=always,copies=off")
    assert torch.equal(found, samples(objective))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon"])
def test_samples_after_a_training_step_are_of_the_new_weights(optimizer: str) -> None:
    objective = small_objective()
    before, kept = samples(objective), objective.eval().model.sampling_denoiser()
    start, t = torch.ones(3, 1, 8, 8), torch.full((3,), 0.5, dtype=torch.float64)
    with torch.no_grad():
        kept(start, t)
    optimizers = Optimizers(objective.phases, validate(OptimizerConfig, {"name": optimizer, "learning_rate": 0.05}))
    items = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    objective(Batch(items, Given(), torch.arange(4)), "main", StepRandom(0, 0)).loss.backward()
    optimizers.step("main", 4, 100)
    after, fresh = samples(objective), small_objective()
    fresh.load_state_dict(objective.state_dict())
    assert not torch.equal(before, after) and torch.equal(after, samples(fresh))
    with torch.no_grad():
        assert torch.equal(kept(start, t).x_0, fresh.eval().model.sampling_denoiser()(start, t).x_0)


def test_weights_changed_behind_torchs_back_are_seen_by_who_comes_again() -> None:
    objective = small_objective()
    before = samples(objective)
    objective.model.network.stem.weight.data.mul_(2)
    assert not torch.equal(before, samples(objective))


@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_attention_with_scores_is_torchs_to_rounding(tokens: int) -> None:
    torch.manual_seed(3)
    parts = [torch.randn(2, 3, tokens, 16) for _ in range(3)]
    exact = [part.clone().requires_grad_(True) for part in parts]
    half = [part.bfloat16().requires_grad_(True) for part in parts]
    expected, found = attention(*exact), attention(*half)
    assert found.dtype == torch.bfloat16 and torch.allclose(found.float(), expected, atol=0.03)
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (found.float() * weight).sum().backward()
    for ours, theirs in zip(half, exact, strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert torch.allclose(ours.grad.float(), theirs.grad, atol=0.1)


def test_attention_serves_an_empty_batch() -> None:
    empty = torch.zeros(0, 2, 5, 4, dtype=torch.bfloat16)
    assert attention(empty, empty, empty).shape == empty.shape


def test_a_modulated_norm_is_the_norm_then_scale_and_shift_then_silu() -> None:
    torch.manual_seed(4)
    norm = group_norm(8, 32, 1e-6).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (3 + torch.randn(3, 8, 5, 4, dtype=torch.float64)).requires_grad_(True)
    scale, shift = (torch.randn(3, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    into = (x, scale, shift, norm.weight, norm.bias)
    found = modulated(norm, x, scale, shift)
    expected = F.silu(norm(x) * (1 + scale[:, :, None, None]) + shift[:, :, None, None])
    assert torch.allclose(found, expected, atol=1e-12)
    weight = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, into, weight), torch.autograd.grad(expected, into, weight), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-10)


def test_the_machine_reports_what_it_has() -> None:
    here = hardware()
    assert here == Hardware("cpu", here.name, torch.get_num_threads(), here.fast_bf16)
    assert here.threads >= 1 and here.capability is None


@pytest.mark.parametrize("fast", [True, False])
def test_bf16_is_taken_where_the_machine_is_fast_at_it(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undiffuse.compute.backend.hardware", lambda device: Hardware("cpu", "", 1, fast))
    for text, expected in (("", fast), ("bf16=always", True), ("bf16=never", False)):
        monkeypatch.setenv(VARIABLE, text)
        assert (compute_dtype("bf16", "cpu") == torch.bfloat16) == expected
        assert compute_dtype("fp32", "cpu") is None


@pytest.mark.parametrize(
    ("text", "message"), [("copies", "key=value"), ("copis=off", "did you mean 'copies'"), ("graphs=on", "graphs")]
)
def test_senseless_choices_are_rejected(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(UsageError, match=message) as caught:
        backend()
    assert "\n" not in str(caught.value)


def test_without_the_variable_all_is_automatic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    assert backend() == ComputeConfig()


@pytest.fixture
def untouched_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    yield tmp_path


def test_compiling_keeps_its_work_in_the_users_cache(untouched_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    network = network_of("mlp")
    compiled.compile_in_place(network)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(untouched_cache / "undiffuse" / "compiled")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(untouched_cache / "elsewhere"))
    compiled.compile_in_place(network_of("mlp"))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(untouched_cache / "elsewhere")


def test_where_compiling_fails_the_network_runs_as_it_is(
    untouched_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.exc import TorchDynamoException

    network = network_of("mlp")
    expected = network(*inputs())

    def fails(*arguments: object) -> Tensor:
        raise TorchDynamoException("no compiler\nand a long story")

    monkeypatch.setattr(network, "compile", lambda: setattr(network, "_compiled_call_impl", fails))
    compiled.compile_in_place(network)
    with pytest.warns(RuntimeWarning, match=r"compiling failed \(no compiler\); continuing without$"):
        assert torch.equal(network(*inputs()), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(network(*inputs()), expected)


def to_compile(dropout: float = 0.0, **options: object) -> GenerativeModel:
    network = {"name": "unet", **NETWORKS["unet"], "dropout": dropout}
    return validate(DiffusionConfig, {"network": network, **options}).build((1, 8, 8), ()).model


def test_what_our_norms_make_faster_is_not_compiled(untouched_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if library() is None:
        pytest.skip("no C++ compiler for the kernels, or not Linux on x86")
    system = to_compile(precision="bf16")
    assert "UNDIFFUSE_COMPUTE=fused=off" in system.compile_networks()
    assert system.network._compiled_call_impl is None
    points = {"name": "mlp", **NETWORKS["mlp"]}
    others = [
        to_compile(precision="fp32"),
        to_compile(0.1, precision="bf16"),
        to_compile(precision="bf16", network=points),
    ]
    monkeypatch.setenv(VARIABLE, "bf16=always,fused=off")
    for other in [system, *others]:
        assert other.compile_networks() == ""
        assert other.network._compiled_call_impl is not None
        monkeypatch.setenv(VARIABLE, "bf16=always")


def test_a_compiled_network_is_not_copied() -> None:
    network = network_of("mlp")
    network._compiled_call_impl = network._call_impl
    rounded(InferenceNetwork(network), *inputs())
    assert network not in inference._COPIES


def test_without_cuda_a_graph_is_the_network() -> None:
    network = network_of("unet")
    with torch.no_grad():
        assert torch.equal(CUDAGraphed(network)(*inputs()), network(*inputs()))


class _OnCPU:
    """What stands for a recording: it works on one piece of memory, and takes its time."""

    def __init__(self, network: nn.Module, x: Tensor, c_noise: Tensor, conditions: tuple[Condition, ...]) -> None:
        self.network, self.out = network, x.clone()
        self.held = x.clone(), c_noise.clone(), tuple(one.map(torch.clone) for one in conditions)

    @torch.no_grad()
    def replay(self) -> None:
        time.sleep(0.002)
        x, c_noise, conditions = self.held
        self.out.copy_(self.network(x, c_noise, *conditions))
        time.sleep(0.002)

    def wait(self) -> None: ...

    def record(self) -> None: ...


def test_threads_that_replay_one_recording_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    def recorded(*arguments: Any) -> cuda_graphs._CapturedGraph:
        time.sleep(0.002)
        stand_in = _OnCPU(*arguments)
        return cuda_graphs._CapturedGraph(stand_in, *stand_in.held, stand_in.out, stand_in)

    monkeypatch.setattr(cuda_graphs, "_capture", recorded)
    monkeypatch.setattr(cuda_graphs, "_can_be_captured", lambda x: True)
    network = network_of("unet")
    graphed = CUDAGraphed(network)
    x, c_noise, cond = inputs()

    @torch.no_grad()
    def right(number: int) -> bool:
        return torch.equal(graphed(x + number, c_noise, cond), network(x + number, c_noise, cond))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(right, range(24)))
    assert len(graphed._graphs) == 1


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="this torch sees no CUDA device")


@needs_cuda
@each_network
@pytest.mark.parametrize("half", [False, True])
def test_a_replay_is_what_the_network_computes(name: str, half: bool) -> None:
    network = network_of(name).cuda()
    graphed = CUDAGraphed(network)
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16, enabled=half):
        for seed in range(3):
            x, c_noise, cond = inputs()
            x, c_noise, cond = (x + seed).cuda(), (c_noise / (1 + seed)).cuda(), cond.to("cuda")
            expected, found = network(x, c_noise, cond), graphed(x, c_noise, cond)
            assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3)
        again = graphed(x, c_noise, cond)
    assert torch.equal(again, found) and again.data_ptr() != found.data_ptr()
    assert len(graphed._graphs) == 1 and not graphed._failed


@needs_cuda
def test_what_cannot_be_recorded_runs_without() -> None:
    class Waits(nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor, cond: Condition) -> Tensor:
            return x * float(c_noise.sum())

    x, c_noise, cond = inputs()
    graphed = CUDAGraphed(Waits())
    with torch.no_grad(), pytest.warns(RuntimeWarning, match="no CUDA graph"):
        found = graphed(x.cuda(), c_noise.cuda(), cond.to("cuda"))
    assert torch.allclose(found.cpu(), x * float(c_noise.sum()))


@needs_cuda
def test_sampling_on_cuda_is_the_same_with_and_without_copies_and_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    system = small_objective().cuda()
    found = samples(system)
    assert torch.equal(found, samples(system, 5))
    monkeypatch.setenv(VARIABLE, "bf16=always,graphs=off,copies=off")
    assert torch.allclose(found, samples(system), atol=0.05)


def test_blocks_follow_the_models_size_and_nothing_else() -> None:
    small, large = nn.Linear(1000, 1600), nn.Linear(4000, 9000)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [fixed_batch_size(small, (1, 28, 28), cpu), fixed_batch_size(large, (3, 32, 32), cpu)] == [64, 16]
    assert fixed_batch_size(small, (3, 48, 48), cpu) in (16, 32)
    assert (fixed_batch_size(small, (1, 28, 28), cuda), fixed_batch_size(small, (2,), cpu)) == (128, 1024)

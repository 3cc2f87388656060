"""Teachers: trained models that a student learns from without keeping them.

A teacher is named by its folder and the checksum of its weights, so that a run stays a function of its configuration.
Its weights are no part of the student: a saved student loads without its teacher.
"""

from __future__ import annotations

import copy
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from undiffuse.config import FrozenModel
from undiffuse.core.denoiser import Denoiser, NetworkDenoiser, TransferredDenoiser
from undiffuse.core.parameterization import Parameterization
from undiffuse.core.process import Process
from undiffuse.errors import UsageError
from undiffuse.models.base import DenoisingModel, denoising
from undiffuse.models.denoising import NetworkModel
from undiffuse.models.saved import load

#: A network whose x_0-hat magnifies its error by more than this where sampling begins cannot start there in one step.
_LARGEST_COEFFICIENT = 10.0


class TeacherConfig(FrozenModel):
    """Which model to learn from.

    Args:
        path: its folder.
        sha256: of its ``model.safetensors``; empty to take whatever is there.
    """

    path: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""


def load_teacher(config: TeacherConfig, device: torch.device | str = "cpu", role: str = "teacher") -> DenoisingModel:
    """The teacher with its averaged weights, frozen, in evaluation mode.

    Args:
        config: where it is.
        device: where to put it.
        role: the key of ``system`` that names it.
    Raises:
        UsageError: nothing there, weights other than those named, or a model that does not denoise.
    """
    model = load(config.path, device)
    if config.sha256 and model.weights_sha256 != config.sha256:
        raise UsageError(
            f"the {role} {config.path} has weights {model.weights_sha256[:12]}..., this run names "
            f"{config.sha256[:12]}...; give the folder of that model or another system.{role}.sha256"
        )
    return denoising(model.module, f"a {role}").requires_grad_(False)


class LazyTeacher:
    """Holds a student's teacher, which is no part of the student: nothing of it is saved.

    Args:
        config: loaded when it is first needed.
        role: the key of ``system`` that names it.
    """

    def __init__(self, config: TeacherConfig, role: str = "teacher") -> None:
        self.config, self._role = config, role
        self._loaded: DenoisingModel | None = None

    def available(self) -> bool:
        """Whether it is where it is named, with the weights that are named."""
        try:
            self.on(torch.device("cpu") if self._loaded is None else self._loaded.device)
        except UsageError:
            return False
        return True

    def on(self, device: torch.device) -> DenoisingModel:
        """The teacher on ``device``, loaded where that has not been done."""
        if self._loaded is None:
            self._loaded = load_teacher(self.config, device, self._role)
        return self._loaded if self._loaded.device == device else self._loaded.to(device)


def check_compatible(teacher: DenoisingModel, student: DenoisingModel) -> None:
    """Refuse a teacher of other data.

    Args:
        teacher: that is learned from.
        student: that learns.
    Raises:
        UsageError: examples of another shape, or classes that the teacher was not conditioned on.
    """
    if teacher.shape != student.shape:
        raise UsageError(f"the teacher makes examples of shape {teacher.shape}, the student of {student.shape}")
    if student.class_names and teacher.class_names != student.class_names:
        known = ", ".join(teacher.class_names) or "none"
        raise UsageError(
            f"the student is conditioned on the classes {', '.join(student.class_names)}, the teacher on {known}; use "
            "its data or say system.class_conditional=false"
        )


def denoiser_under(denoiser: Denoiser, process: Process) -> Denoiser:
    """A teacher's denoiser for x_t of ``process``; itself where that is its own process.

    Args:
        denoiser: of the teacher, under the process that it was trained under.
        process: of the student.
    """
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    same = torch.equal(_table(process, t), _table(denoiser.process, t))
    return denoiser if same else TransferredDenoiser(denoiser, process)


def _table(process: Process, t: Tensor) -> Tensor:
    return torch.stack([process.alpha(t), process.sigma(t)])


def check_start(parameterization: str, process: Process) -> None:
    """Refuse a parameterization that cannot make a sample of pure noise in one step.

    Args:
        parameterization: a row of ``PARAMETERIZATIONS``.
        process: that it is under.
    Raises:
        UsageError: it says too little of x_0 there, such as ``eps``.
    """
    c_out = float(Parameterization(parameterization, process)(torch.ones(1, dtype=torch.float64)).c_out.abs())
    if not c_out <= _LARGEST_COEFFICIENT:
        raise UsageError(
            f"parameterization={parameterization!r} says too little of x_0 where sampling begins (its error counts "
            f"{c_out:.3g} times there); distil a model trained with v, flow, x0 or edm, or use method mean_flow"
        )


def copy_of(network: nn.Module, *, learns: bool = False) -> nn.Module:
    """A copy of ``network``, frozen and in evaluation mode unless it learns.

    Args:
        network: which stays as it is.
        learns: whether the copy needs gradients and is in training mode.
    """
    return copy.deepcopy(network).requires_grad_(learns).train(learns)


def init_as(student: NetworkModel, model: DenoisingModel) -> None:
    """Initialise ``student`` with the weights of a model of its kind.

    Args:
        student: whose weights are overwritten.
        model: of the same data, network, process and parameterization.
    Raises:
        UsageError: other data, another network, process or parameterization.
    """
    check_compatible(model, student)
    theirs, network = denoiser_under(model.denoiser(), student.process), student.network
    same = isinstance(theirs, NetworkDenoiser) and theirs.parameterization.name == student.parameterization.name
    taken = init_from(network, theirs.network) if isinstance(theirs, NetworkDenoiser) and same else 0
    if taken < len(network.state_dict()):
        raise UsageError(
            "such a student has the process, parameterization, network and classes of the model that it begins as, and "
            "these differ here; start it with 'undiffuse distill MODEL', which takes them over from the teacher"
        )


@torch.no_grad()
def init_from(student: nn.Module, teacher: nn.Module) -> int:
    """Copy every weight and buffer that both have under one name and in one shape; returns how many.

    Args:
        student: whose weights are overwritten.
        teacher: that they are copied from.
    Example:
        >>> init_from(nn.Linear(2, 3), nn.Linear(2, 3)), init_from(nn.Linear(2, 3), nn.Linear(4, 3))
        (2, 1)
    """
    theirs = teacher.state_dict()
    taken = 0
    for name, own in student.state_dict().items():
        if name in theirs and theirs[name].shape == own.shape:
            own.copy_(theirs[name])
            taken += 1
    return taken

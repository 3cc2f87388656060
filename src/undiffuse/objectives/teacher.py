"""Teachers: pretrained models that a student is distilled from.

A teacher is identified by its folder and the checksum of its weights, so that a run is a function of its configuration.
Its weights are not part of the student: a saved student loads without its teacher.
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

#: Upper bound of |c_out| where sampling starts, for students that take one step from there.
_LARGEST_COEFFICIENT = 10.0


class TeacherConfig(FrozenModel):
    """Reference to a pretrained model.

    Args:
        path: folder of the model.
        sha256: SHA-256 of its ``model.safetensors``; empty to skip the check.
    """

    path: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""


def load_teacher(config: TeacherConfig, device: torch.device | str = "cpu", role: str = "teacher") -> DenoisingModel:
    """Load a teacher with its averaged weights, frozen, in evaluation mode.

    Args:
        config: reference to the teacher.
        device: device to load it on.
        role: the key of ``system`` that contains ``config``, for messages.
    Raises:
        UsageError: if there is no model, its checksum differs, or it is not a denoising model.
    """
    model = load(config.path, device)
    if config.sha256 and model.weights_sha256 != config.sha256:
        raise UsageError(
            f"the {role} {config.path} has weights {model.weights_sha256[:12]}..., this run expects "
            f"{config.sha256[:12]}...; give the folder of that model or another system.{role}.sha256"
        )
    return denoising(model.module, f"a {role}").requires_grad_(False)


class LazyTeacher:
    """Loads a student's teacher on first use. It is not a submodule of the student and is not saved with it.

    Args:
        config: reference to the teacher.
        role: the key of ``system`` that contains ``config``, for messages.
    """

    def __init__(self, config: TeacherConfig, role: str = "teacher") -> None:
        self.config, self._role = config, role
        self._loaded: DenoisingModel | None = None

    def available(self) -> bool:
        """Whether the teacher can be loaded and has the expected weights."""
        try:
            self.on(torch.device("cpu") if self._loaded is None else self._loaded.device)
        except UsageError:
            return False
        return True

    def on(self, device: torch.device) -> DenoisingModel:
        """The teacher on ``device``; loads it if necessary."""
        if self._loaded is None:
            self._loaded = load_teacher(self.config, device, self._role)
        return self._loaded if self._loaded.device == device else self._loaded.to(device)


def check_compatible(teacher: DenoisingModel, student: DenoisingModel) -> None:
    """Check that teacher and student have the same data shape and classes.

    Args:
        teacher: the teacher model.
        student: the student model.
    Raises:
        UsageError: if the shapes differ, or the teacher is not conditioned on the student's classes.
    """
    if teacher.shape != student.shape:
        raise UsageError(f"the teacher generates samples of shape {teacher.shape}, the student of {student.shape}")
    if student.class_names and teacher.class_names != student.class_names:
        known = ", ".join(teacher.class_names) or "none"
        raise UsageError(
            f"the student is conditioned on the classes {', '.join(student.class_names)}, the teacher on {known}; use "
            "the teacher's data or set system.class_conditional=false"
        )


def denoiser_under(denoiser: Denoiser, process: Process) -> Denoiser:
    """Transfer a teacher's denoiser to x_t of ``process``; returns it unchanged if the processes are the same.

    Args:
        denoiser: the teacher's denoiser, under its training process.
        process: forward process of the student.
    """
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    same = torch.equal(_table(process, t), _table(denoiser.process, t))
    return denoiser if same else TransferredDenoiser(denoiser, process)


def _table(process: Process, t: Tensor) -> Tensor:
    return torch.stack([process.alpha(t), process.sigma(t)])


def check_start(parameterization: str, process: Process) -> None:
    """Check that a parameterization can generate a sample from pure noise in one step.

    Args:
        parameterization: an entry of ``PARAMETERIZATIONS``.
        process: forward process.
    Raises:
        UsageError: if |c_out| is too large where sampling starts, as for ``eps``.
    """
    c_out = float(Parameterization(parameterization, process)(torch.ones(1, dtype=torch.float64)).c_out.abs())
    if not c_out <= _LARGEST_COEFFICIENT:
        raise UsageError(
            f"parameterization={parameterization!r} is ill-conditioned for x_0 where sampling starts (it multiplies "
            f"the network's error by {c_out:.3g}); distil a model trained with v, flow, x0 or edm, or use method "
            "mean_flow"
        )


def copy_of(network: nn.Module, *, learns: bool = False) -> nn.Module:
    """A deep copy of ``network``, frozen and in evaluation mode unless ``learns``.

    Args:
        network: the network to copy.
        learns: whether the copy requires gradients and is in training mode.
    """
    return copy.deepcopy(network).requires_grad_(learns).train(learns)


def init_as(student: NetworkModel, model: DenoisingModel) -> None:
    """Initialize ``student`` with all weights of a model of the same architecture.

    Args:
        student: the model whose weights are overwritten.
        model: a model with the same data, network, process and parameterization.
    Raises:
        UsageError: if the data, network, process or parameterization differ.
    """
    check_compatible(model, student)
    denoiser, network = denoiser_under(model.denoiser(), student.process), student.network
    same = isinstance(denoiser, NetworkDenoiser) and denoiser.parameterization.name == student.parameterization.name
    copied = init_from(network, denoiser.network) if isinstance(denoiser, NetworkDenoiser) and same else 0
    if copied < len(network.state_dict()):
        raise UsageError(
            "the student must have the process, parameterization, network and classes of the model that initializes "
            "it, but they differ; start it with 'undiffuse distill MODEL', which copies them from the teacher"
        )


@torch.no_grad()
def init_from(student: nn.Module, teacher: nn.Module) -> int:
    """Copy every parameter and buffer whose name and shape match; returns the number of copied tensors.

    Args:
        student: the module whose weights are overwritten.
        teacher: the module to copy from.
    Example:
        >>> init_from(nn.Linear(2, 3), nn.Linear(2, 3)), init_from(nn.Linear(2, 3), nn.Linear(4, 3))
        (2, 1)
    """
    source = teacher.state_dict()
    copied = 0
    for name, target in student.state_dict().items():
        if name in source and source[name].shape == target.shape:
            target.copy_(source[name])
            copied += 1
    return copied

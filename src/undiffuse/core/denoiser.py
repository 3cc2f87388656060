"""Denoisers: the common interface of samplers, variational bounds and guidance.

A denoiser maps a noisy x_t and its time to x_0-hat = E[x_0 | x_t] and, for learned variances, to an interpolation
weight between beta-tilde (0) and beta (1). The parameterization of the network is an implementation detail.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from undiffuse.core.condition import Condition, Evaluation
from undiffuse.core.parameterization import Parameterization
from undiffuse.core.process import Process
from undiffuse.core.processes import RescaledProcess
from undiffuse.core.rows import per_row
from undiffuse.core.variance import mix_of, transferred_mix
from undiffuse.errors import UsageError
from undiffuse.registry import lookup


class Denoised(NamedTuple):
    """x_0-hat (B, ...) and, if the variance is learned, the log-variance mix of the same shape.

    The mix is 0 for beta-tilde and 1 for beta and may leave [0, 1] slightly, see ``core.variance``. ``nfe`` is the
    number of full evaluations per sample, one int for all samples or (B,) int64; ``partial_nfe`` counts
    evaluations that reused cached features. ``features`` are the features to cache, if the denoiser returns them.
    """

    x_0: Tensor
    variance_mix: Tensor | None = None
    nfe: int | Tensor = 1
    partial_nfe: int | Tensor = 0
    features: Tensor | None = None


class Denoiser(nn.Module):
    """Base class of denoisers: ``forward(x_t, t, cond, evaluation) -> Denoised``; wrappers copy the two attributes.

    Samplers do not pass ``cond``: the denoiser is bound to it beforehand. Unsupported fields of ``evaluation`` are
    ignored.

    Attributes:
        process: the forward process of x_t.
        log_snr_range: (smallest, largest) log-SNR of training.
    """

    process: Process
    log_snr_range: tuple[float, float] = (-math.inf, math.inf)

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        """Estimate x_0 from x_t.

        Args:
            x_t: (B, ...) noisy data.
            t: (B,) times in [0, 1].
            cond: the condition; None for the condition that the denoiser is bound to, or else unconditional.
            evaluation: solver inputs, such as a target time; None for none.
        """
        raise NotImplementedError

    def count_for(self, rows: Tensor | None) -> None:
        """Restrict the NFE count to these samples until the next call.

        Samplers call it around evaluations that only some samples of the batch need, so that the NFE of a sample does
        not depend on the rest of its batch.

        Args:
            rows: (B,) bool mask; None counts all samples.
        """

    def of_rows(self, rows: Tensor) -> Denoiser:
        """The denoiser bound to a subset of its samples; ``self`` if it is not bound to samples.

        Args:
            rows: (N,) int64 indices of samples.
        """
        return self

    @staticmethod
    def wrap(
        function: Callable[..., Tensor],
        process: Process,
        parameterization: str = "eps",
        *,
        time_label: str = "t",
        value_range: tuple[float, float] = (-1.0, 1.0),
        log_snr_range: tuple[float, float] | None = None,
    ) -> WrappedDenoiser:
        """Create a denoiser from any external ``f(x, label)``.

        Args:
            function: maps x (B, ...) and a time label (B,) to the prediction given by ``parameterization``.
            process: the forward process of the function, on data in ``value_range``.
            parameterization: what the function predicts, a key of ``PARAMETERIZATIONS``.
            time_label: the function's time input: ``t`` in [0, 1], ``index0`` (steps 0 ... T-1, as in DDPM code),
                ``index1`` (steps 1 ... T, as in the paper), ``sigma`` or ``log_sigma`` of ``process``.
            value_range: range of pixel values of the function; samples are in [-1, 1].
            log_snr_range: log-SNR range of training, for data in ``value_range``; by default the range of the label:
                the knots 1 ... T of the chain for ``index0`` and ``index1``, no limit for the others.
        Returns:
            A denoiser for data in [-1, 1]; its ``process`` is the given one with sigma rescaled to that range.
        Raises:
            UsageError: an unknown parameterization or label, or a step index without a discrete process.
        Example:
            >>> from undiffuse.core.processes import DiscreteVP
            >>> denoiser = Denoiser.wrap(lambda x, k: torch.zeros_like(x), DiscreteVP.linear(), time_label="index0")
            >>> denoiser(torch.zeros(2, 1, 8, 8), torch.tensor([0.5, 1.0])).x_0.shape
            torch.Size([2, 1, 8, 8])
        """
        return WrappedDenoiser(function, process, parameterization, time_label, value_range, log_snr_range)


class NetworkDenoiser(Denoiser):
    """A denoiser that wraps one of the toolkit's networks.

    Args:
        network: ``forward(x, c_noise, cond)``; the output has the shape of x, or twice its channels for a learned
            variance.
        parameterization: what the network predicts, bound to the process.
        log_snr_range: (smallest, largest) log-SNR of training.
        autocast: autocast dtype of the network (``torch.bfloat16``); None for no autocast.
        learned_variance: the second half of the network's channels predicts the variance of the reverse step.
    """

    def __init__(
        self,
        network: nn.Module,
        parameterization: Parameterization,
        log_snr_range: tuple[float, float] = (-math.inf, math.inf),
        autocast: torch.dtype | None = None,
        learned_variance: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.learned_variance = learned_variance
        self.parameterization = parameterization
        self.process = parameterization.process
        self.log_snr_range = log_snr_range
        self.autocast = autocast

    def output(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Tensor:
        """The raw network output F(c_in x_t, c_noise), in the dtype of ``x_t``.

        Args:
            x_t: (B, ...) noisy data.
            t: (B,) times in [0, 1].
            cond: the network's condition; None is unconditional.
            evaluation: solver inputs, such as a target time.
        """
        return self.outputs(x_t, t, cond, evaluation)[0]

    def outputs(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """``output`` and, if the variance is learned, the mix, from one evaluation.

        Args:
            x_t: (B, ...) noisy data.
            t: (B,) times in [0, 1].
            cond: the network's condition; None is unconditional.
            evaluation: solver inputs, such as a target time.
        Returns:
            F and the variance mix or None, (B, ...) each in the dtype of ``x_t``.
        """
        scaled, c_noise = self.parameterization.network_input(x_t, t)
        with torch.autocast(x_t.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            output: Tensor = self.network(
                scaled, c_noise, cond or Condition(), *self._network_evaluation(evaluation, c_noise)
            )
        return self._split_output(output.to(x_t.dtype))

    def _split_output(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self.learned_variance:
            return output, None
        mean, raw = output.chunk(2, dim=1)
        return mean, mix_of(raw)

    def _network_evaluation(self, evaluation: Evaluation | None, c_noise: Tensor) -> tuple[Evaluation, ...]:
        """The evaluation with its target time converted to c_noise; empty if there is no target time."""
        if evaluation is None or evaluation.target_time is None:
            return ()
        return (Evaluation(target_time=self.parameterization(evaluation.target_time).c_noise.to(c_noise)),)

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        output, mix = self.outputs(x_t, t, cond, evaluation)
        return Denoised(self.parameterization.x_0(output, x_t, t), mix)


class FeatureCachingDenoiser(NetworkDenoiser):
    """A ``NetworkDenoiser`` that returns features of the network's inner levels and can reuse those of an earlier step.

    Its network implements ``forward_with_features(x, c_noise, cond) -> (output, features)`` and ``forward_cached(x,
    c_noise, cond, features) -> output``.
    """

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        scaled, c_noise = self.parameterization.network_input(x_t, t)
        condition, network = cond or Condition(), self.network
        cached = evaluation.cached_features if evaluation is not None else None
        with torch.autocast(x_t.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            if cached is None:
                raw, features = network.forward_with_features(scaled, c_noise, condition)  # type: ignore[operator]
            else:
                raw, features = network.forward_cached(scaled, c_noise, condition, cached), cached  # type: ignore[operator]
        output, mix = self._split_output(raw.to(x_t.dtype))
        counts = (1, 0) if cached is None else (0, 1)
        return Denoised(self.parameterization.x_0(output, x_t, t), mix, *counts, features)


def _step_index(process: Process, t: Tensor) -> Tensor:
    if process.num_steps is None:
        raise UsageError("time_label 'index0' or 'index1' needs a process with num_steps, such as DiscreteVP.linear()")
    index = t.double() * process.num_steps
    # a knot converted to a log-SNR and back has a rounding error, and ``.long()`` would truncate it
    return torch.where((index - index.round()).abs() < 1e-6, index.round(), index)


TIME_LABELS: dict[str, Callable[[Process, Tensor], Tensor]] = {
    "t": lambda process, t: t,
    "index1": _step_index,
    "index0": lambda process, t: _step_index(process, t) - 1,
    "sigma": lambda process, t: process.sigma(t) / process.alpha(t),
    "log_sigma": lambda process, t: -process.log_snr(t) / 2,
}


def _labelled_range(process: Process, time_label: str) -> tuple[float, float]:
    """(smallest, largest) log-SNR that a time label can represent."""
    if process.knots is None or time_label not in ("index0", "index1"):
        return -math.inf, math.inf
    low, high = process.log_snr(process.knots[[-1, 1]]).tolist()
    return low, high


class WrappedDenoiser(Denoiser):
    """See ``Denoiser.wrap``: y = slope x + offset maps the function's values to [-1, 1].

    Args:
        function: maps x (B, ...) and its time label (B,) to the prediction.
        process: the function's forward process.
        parameterization: what the function predicts, a key of ``PARAMETERIZATIONS``.
        time_label: the function's time input, a key of ``TIME_LABELS``.
        value_range: range of pixel values of the function, (low, high).
        log_snr_range: (smallest, largest) log-SNR of training, for data in ``value_range``; None for the label's range.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        process: Process,
        parameterization: str,
        time_label: str,
        value_range: tuple[float, float],
        log_snr_range: tuple[float, float] | None,
    ) -> None:
        super().__init__()
        low, high = value_range
        if not high > low:
            raise UsageError(f"value_range must be (low, high) with low < high, got {value_range}")
        self.function = function
        self._parameterization = Parameterization(parameterization, process)
        self._label = lookup(TIME_LABELS, time_label, "time label")
        self._label(process, torch.ones(1, dtype=torch.float64))  # raises for a step index on a process without steps
        self._slope, self._offset = 2 / (high - low), -(high + low) / (high - low)
        self.process = process if self._slope == 1 else RescaledProcess(process, self._slope)
        shift = 2 * math.log(self._slope)
        lowest, highest = log_snr_range if log_snr_range is not None else _labelled_range(process, time_label)
        self.log_snr_range = (lowest - shift, highest - shift)

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        original = self._parameterization
        y_t = (x_t - per_row(original.process.alpha(t), x_t) * self._offset) / self._slope
        coefficients = original(t)
        label = self._label(original.process, t).to(device=x_t.device, dtype=x_t.dtype)
        arguments: tuple[Any, ...] = (label,) if cond is None or cond.empty else (label, cond)
        output = self.function(per_row(coefficients.c_in, y_t) * y_t, *arguments)
        return Denoised(original.x_0(output, y_t, t) * self._slope + self._offset)


def matched_level(
    source: Process, process: Process, t: Tensor, log_snr_range: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[Tensor, Tensor]:
    """The factor of x and the time at which another process has the same log-SNR: x_P = factor x_Q.

    Args:
        source: P, the other process.
        process: Q, the process of x and t.
        t: (B,) times of Q.
        log_snr_range: (smallest, largest) log-SNR; outside of it, the nearest log-SNR within it is used.
    Returns:
        sigma_P / sigma_Q = alpha_P / alpha_Q, and the times of P, both (B,) float64.
    """
    log_snr = process.log_snr(t)
    t_source = source.time_of_log_snr(log_snr.clamp(*log_snr_range))
    # both ratios are equal at equal log-SNR; outside the range the dominant part of x keeps its scale
    by_alpha = source.alpha(t_source) / process.alpha(t)
    by_sigma = source.sigma(t_source) / process.sigma(t)
    return torch.where(log_snr > 0, by_alpha, by_sigma), t_source


class TransferredDenoiser(Denoiser):
    """``denoiser`` transferred to another process at equal log-SNR: D_Q(x, t) = D_P(x sigma_P / sigma_Q, t_P).

    Outside the log-SNR range of training, the nearest trained log-SNR is used.

    Args:
        denoiser: D_P, under its process P.
        process: Q, the process of x and t of the new denoiser.
    """

    def __init__(self, denoiser: Denoiser, process: Process) -> None:
        super().__init__()
        self.denoiser, self.process = denoiser, process
        self.log_snr_range = denoiser.log_snr_range

    def of_rows(self, rows: Tensor) -> Denoiser:
        return TransferredDenoiser(self.denoiser.of_rows(rows), self.process)

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        source = self.denoiser.process
        ratio, t_source = matched_level(source, self.process, t, self.log_snr_range)
        if evaluation is not None and evaluation.target_time is not None:
            target = source.time_of_log_snr(self.process.log_snr(evaluation.target_time))
            evaluation = replace(evaluation, target_time=target)
        denoised: Denoised = self.denoiser(per_row(ratio, x_t) * x_t, t_source, cond, evaluation)
        mix = denoised.variance_mix
        if mix is None:
            return denoised
        return denoised._replace(variance_mix=transferred_mix(mix, source, t_source, self.process, t))


class ClippedDenoiser(Denoiser):
    """``denoiser`` with x_0-hat clipped to the range of the data.

    E[x_0 | x_t] of data in [low, high] lies in that range too, so clipping can only reduce the error; with noise
    prediction the error is the network's times sigma / alpha, which is large at high noise levels.

    Args:
        denoiser: the denoiser whose x_0-hat is clipped; its variance mix is not clipped.
        low, high: range of the data.
    Source: as in the code of Ho et al. 2020; Saharia et al. 2022, arXiv:2205.11487, sec. 2.3, "static thresholding".
    """

    def __init__(self, denoiser: Denoiser, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__()
        self.denoiser, self.low, self.high = denoiser, low, high
        self.process, self.log_snr_range = denoiser.process, denoiser.log_snr_range

    def of_rows(self, rows: Tensor) -> Denoiser:
        return ClippedDenoiser(self.denoiser.of_rows(rows), self.low, self.high)

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        denoised: Denoised = self.denoiser(x_t, t, cond, evaluation)
        return denoised._replace(x_0=denoised.x_0.clamp(self.low, self.high))

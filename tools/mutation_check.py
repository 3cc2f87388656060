"""Do the tests notice a wrong formula? Break one at a time in a copy of the package and see whether a test falls.

    python tools/mutation_check.py             all mutations (a few minutes)
    python tools/mutation_check.py bridge      those whose name contains "bridge"

Nothing in this checkout is changed: the copy is put before the installed package on the import path. Exit code 1 if a
mutation survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

#: folder -> the tests that are to notice, fastest first; a run stops at the first that fails.
TESTS = {
    "core": [
        "tests/property/test_process.py",
        "tests/property/test_parameterization.py",
        "tests/contract/test_condition.py",
        "tests/property/test_step_random.py",
        "tests/oracle/test_variational.py",
        "tests/oracle/test_learned_variance.py",
    ],
    "networks": [
        "tests/oracle/test_resampling.py",
        "tests/oracle/test_progressive.py",
        "tests/oracle/test_transformer.py",
        "tests/parity/test_ncsnpp_diffusers.py",
    ],
    "samplers": [
        "tests/property/test_grids_and_densities.py",
        "tests/oracle/test_posterior.py",
        "tests/contract/test_samplers.py",
        "tests/oracle/test_samplers_order.py",
        "tests/oracle/test_samplers_rows.py",
        "tests/property/test_brownian.py",
        "tests/oracle/test_sde.py",
        "tests/oracle/test_langevin.py",
        "tests/oracle/test_adaptive.py",
        "tests/parity/test_karras.py",
        "tests/parity/test_multistep_diffusers.py",
        "tests/oracle/test_likelihood.py",
        "tests/oracle/test_learned_variance.py",
    ],
    "losses": [
        "tests/property/test_grids_and_densities.py",
        "tests/property/test_parameterization.py",
        "tests/contract/test_weightings.py",
        "tests/property/test_importance.py",
        "tests/oracle/test_variational.py",
        "tests/oracle/test_learned_variance.py",
        "tests/oracle/test_score_matching.py",
        "tests/oracle/test_likelihood.py",
        "tests/oracle/test_doctor_checks.py",
    ],
    "metrics": [
        "tests/oracle/test_kernel.py",
        "tests/oracle/test_coverage.py",
        "tests/oracle/test_inception_score.py",
        "tests/property/test_bank.py",
        "tests/oracle/test_summary.py",
        "tests/parity/test_torchmetrics.py",
        "tests/parity/test_prdc.py",
        "tests/oracle/test_perceptual.py",
        "tests/oracle/test_accuracy.py",
        "tests/contract/test_weight_files.py",
        "tests/contract/test_features.py",
    ],
    "evaluation": [
        "tests/oracle/test_schedule.py",
        "tests/oracle/test_evaluation.py",
        "tests/e2e/test_quality.py",
    ],
    "studies": [
        "tests/oracle/test_picture_studies_a.py",
        "tests/oracle/test_picture_studies_b.py",
    ],
    "doctor": ["tests/oracle/test_doctor_checks.py"],
    "data": [
        "tests/property/test_data_order_and_split.py",
        "tests/contract/test_split_of_files.py",
        "tests/contract/test_encoded.py",
        "tests/contract/test_plain_png.py",
        "tests/contract/test_cache.py",
        "tests/contract/test_loader.py",
        "tests/e2e/test_loading.py",
    ],
    "data/formats": [
        "tests/contract/test_zip_source.py",
        "tests/contract/test_captions.py",
        "tests/contract/test_cifar_source.py",
        "tests/contract/test_emnist_source.py",
        "tests/contract/test_array_files_source.py",
        "tests/contract/test_lmdb_source.py",
        "tests/contract/test_ffhq_source.py",
        "tests/contract/test_emoji_source.py",
        "tests/contract/test_parquet_source.py",
        "tests/contract/test_prepare.py",
    ],
    "data/prepare": ["tests/contract/test_prepare.py"],
    "data/download": ["tests/contract/test_download.py"],
    "data/augment": [
        "tests/property/test_augment.py",
        "tests/property/test_augment_for_gans.py",
        "tests/parity/test_augment_kornia.py",
        "tests/oracle/test_augment_condition.py",
    ],
    "systems": ["tests/oracle/test_augment_condition.py"],
    "training": ["tests/e2e/test_quality.py"],
}


class Mutation(NamedTuple):
    """One formula made wrong: ``old``, which stands exactly once in ``file``, becomes ``new``.

    ``tests`` are to notice; those of the nearest folder in ``TESTS`` where none are named.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()


MUTATIONS = [
    # the pair and what is derived from it
    Mutation(
        "log-SNR without its 2",
        "core/process.py",
        "return 2 * (torch.log(self.alpha(t))",
        "return (torch.log(self.alpha(t))",
    ),
    Mutation("diffusion: sign", "core/process.py", "self.rates(t)[1] - 2 * self", "self.rates(t)[1] + 2 * self"),
    Mutation("diffusion: without sigma", "core/process.py", "2 * sigma * self.rates(t)[1]", "2 * self.rates(t)[1]"),
    Mutation(
        "drift: alpha' for d log alpha", "core/process.py", "self.rates(t)[0] / self.alpha(t)", "self.rates(t)[0]"
    ),
    Mutation(
        "diffuse: sigma squared",
        "core/process.py",
        "per_row(self.sigma(t), x_0) * eps",
        "per_row(self.sigma(t) ** 2, x_0) * eps",
    ),
    Mutation(
        "bisection: wrong half",
        "core/process.py",
        "above = decreasing(middle) > target",
        "above = decreasing(middle) < target",
    ),
    Mutation(
        "bisection: end not exact",
        "core/process.py",
        "target >= decreasing(torch.zeros_like(target))",
        "target < -1e300",
    ),
    Mutation(
        "bridge: half the log-SNR",
        "core/process.py",
        "self.log_snr(t) - self.log_snr(s))",
        "(self.log_snr(t) - self.log_snr(s)) / 2)",
    ),
    Mutation("bridge: c_t not squared", "core/process.py", "(sigma_s / sigma_t) ** 2", "sigma_s / sigma_t"),
    Mutation("bridge: alpha_t for alpha_s", "core/process.py", "alpha_s * gain", "alpha_t * gain"),
    Mutation("bridge: var_max for var", "core/process.py", "var_max * keep)", "var_max)"),
    Mutation(
        "bridge: s = t is no identity",
        "core/process.py",
        "alpha_ts = torch.where(same, one,",
        "alpha_ts = torch.where(same, zero,",
    ),
    Mutation(
        "vp: alpha' halved",
        "core/processes.py",
        "(self.beta_max - self.beta_min) / 4 - t",
        "(self.beta_max - self.beta_min) / 2 - t",
    ),
    Mutation("vp: inverse", "core/processes.py", "torch.sqrt(b * b + 4 * a * c)", "torch.sqrt(b * b + 2 * a * c)"),
    Mutation(
        "vp: sigma of alpha, not alpha^2",
        "core/processes.py",
        "torch.sqrt(-torch.expm1(2 * self.log_alpha(t)))",
        "torch.sqrt(-torch.expm1(self.log_alpha(t)))",
    ),
    Mutation("vp: beta halved", "core/processes.py", "return -2 * self.d_log_alpha(t)", "return -self.d_log_alpha(t)"),
    Mutation(
        "chain: sum of betas for product of alphas",
        "core/processes.py",
        "torch.cumsum(-torch.log1p(-betas), 0)",
        "torch.cumsum(betas, 0)",
    ),
    Mutation(
        "chain: off by one knot",
        "core/processes.py",
        "left, right = table[index], table[index + 1]\n        return -0.5",
        "left, right = table[index + 1], table[index + 1]\n        return -0.5",
    ),
    Mutation("chain: last beta", "core/processes.py", "beta_end: float = 0.02", "beta_end: float = 0.03"),
    Mutation("chain: cosine not squared", "core/processes.py", "* math.pi / 2) ** 2", "* math.pi / 2)"),
    Mutation(
        "edm: inverse",
        "core/processes.py",
        "torch.exp(-log_snr.double() / 2) / self.sigma_max",
        "torch.exp(-log_snr.double()) / self.sigma_max",
    ),
    Mutation("flow: velocity's sign", "core/processes.py", "return -one, one", "return one, one"),
    Mutation(
        "flow: inverse",
        "core/processes.py",
        "1 / (1 + torch.exp(log_snr.double() / 2))",
        "1 / (1 + torch.exp(log_snr.double()))",
    ),
    Mutation(
        "rescaled: log-SNR",
        "core/processes.py",
        "self.base.log_snr(t) - 2 * math.log",
        "self.base.log_snr(t) - math.log",
    ),
    # what networks predict
    Mutation(
        "eps: c_out",
        "core/parameterization.py",
        "Coefficients(one, 1 / alpha, -sigma / alpha,",
        "Coefficients(one, 1 / alpha, -sigma,",
    ),
    Mutation(
        "v: sign of the target", "core/parameterization.py", "1000 * t, -sigma, alpha)", "1000 * t, sigma, alpha)"
    ),
    Mutation("v: power", "core/parameterization.py", "power = alpha**2 + sigma**2", "power = torch.ones_like(t)"),
    Mutation("score: sigma not squared", "core/parameterization.py", "sigma**2 / alpha", "sigma / alpha"),
    Mutation(
        "flow: turn",
        "core/parameterization.py",
        "d_sigma * alpha - sigma * d_alpha",
        "d_sigma * alpha + sigma * d_alpha",
    ),
    Mutation("edm: c_skip", "core/parameterization.py", "c_skip=DATA_STD**2 * alpha", "c_skip=DATA_STD * alpha"),
    Mutation("edm: c_noise", "core/parameterization.py", "-process.log_snr(t) / 8", "-process.log_snr(t) / 4"),
    Mutation("edm: c_in", "core/parameterization.py", "c_in=1 / spread", "c_in=1 / spread**2"),
    Mutation(
        "posterior mean: c_skip", "core/parameterization.py", "-bridge.c_t / bridge.c_0", "bridge.c_t / bridge.c_0"
    ),
    Mutation(
        "weight on the output",
        "core/parameterization.py",
        "2 * torch.log(self(t).c_out.abs())",
        "torch.log(self(t).c_out.abs())",
    ),
    Mutation(
        "eps of x_0",
        "core/parameterization.py",
        "return (x_t - per_row(process.alpha(t), x_t) * x_0)",
        "return (x_t - x_0)",
    ),
    Mutation("score: sign", "core/parameterization.py", "return -eps_of(", "return eps_of("),
    # denoisers
    Mutation("wrap: step index from 0", "core/denoiser.py", "_step_index(process, t) - 1", "_step_index(process, t)"),
    Mutation("wrap: sigma's label", "core/denoiser.py", "process.sigma(t) / process.alpha(t)", "process.sigma(t)"),
    Mutation(
        "wrap: the offset fades with alpha",
        "core/denoiser.py",
        "per_row(author.process.alpha(t), x_t) * self._offset",
        "self._offset",
    ),
    Mutation(
        "wrap: trained range", "core/denoiser.py", "shift = 2 * math.log(self._slope)", "shift = math.log(self._slope)"
    ),
    Mutation(
        "transfer: ratio", "core/denoiser.py", "torch.where(log_snr > 0, by_alpha", "torch.where(log_snr < 0, by_alpha"
    ),
    Mutation("clip: upper end", "core/denoiser.py", "clamp(self.low, self.high)", "clamp(min=self.low)"),
    Mutation("transfer: range", "core/denoiser.py", "log_snr.clamp(*self.log_snr_range)", "log_snr"),
    Mutation(
        "mixture: gain", "core/gaussian.py", "gain = alpha.to(x_t.device).reshape(-1, 1, 1) * self", "gain = self"
    ),
    Mutation("mixture: log-determinant", "core/gaussian.py", "torch.log(2 * math.pi * total)", "math.log(2 * math.pi)"),
    Mutation("condition: dropped label", "core/condition.py", ", -1, self.class_label)", ", 0, self.class_label)"),
    Mutation(
        "random: purpose forgotten", "core/random.py", "derived_seed(*self.key, purpose)", "derived_seed(*self.key)"
    ),
    # samplers
    Mutation(
        "ancestral: variances swapped",
        "samplers/ancestral.py",
        'bridge.var if variance == "beta_tilde" else bridge.var_max',
        'bridge.var_max if variance == "beta_tilde" else bridge.var',
    ),
    Mutation(
        "ancestral: variance for deviation",
        "samplers/ancestral.py",
        "bridge.var_max).sqrt(), denoised.x_0)",
        "bridge.var_max), denoised.x_0)",
    ),
    Mutation("ddim: eta not squared", "samplers/ancestral.py", "eta**2 * process", "eta * process"),
    Mutation(
        "ddim: kept noise",
        "samplers/ancestral.py",
        "(process.sigma(steps.s) ** 2 - var)",
        "(process.sigma(steps.s) ** 2)",
    ),
    Mutation(
        "final step: noise is kept",
        "samplers/ancestral.py",
        "where_rows(steps.final, x_0, moved)",
        "where_rows(steps.final, moved, moved)",
    ),
    Mutation(
        "heun: whole for half",
        "samplers/ode.py",
        "(_ratio(process, s) - _ratio(process, t)) / 2",
        "(_ratio(process, s) - _ratio(process, t))",
    ),
    Mutation("heun: slope at t", "samplers/ode.py", "eps_s - eps, torch", "eps - eps, torch"),
    Mutation(
        "heun: slope where there is no signal",
        "samplers/ode.py",
        "NO_SIGNAL_LOG_SNR = -2 * math.log(1000)",
        "NO_SIGNAL_LOG_SNR = -math.inf",
    ),
    Mutation(
        "2M: extrapolation doubled",
        "samplers/ode.py",
        "/ (2 * (log_snr_t - log_snr_previous))",
        "/ (log_snr_t - log_snr_previous)",
    ),
    Mutation(
        "2M: exponent",
        "samplers/ode.py",
        "torch.expm1((log_snr_t - log_snr_s) / 2)",
        "torch.expm1(log_snr_t - log_snr_s)",
    ),
    Mutation("2M: forgets where it was", "samplers/ode.py", "(x_0, log_snr_t)\n", "(x_0, log_snr_previous)\n"),
    Mutation("grid: rho", "samplers/grids.py", "return -2 * rho * torch.log", "return -2 * torch.log"),
    Mutation("grid: quadratic", "samplers/grids.py", "/ num_steps) ** 2", "/ num_steps) ** 3"),
    Mutation(
        "grid: beyond the trained range",
        "samplers/grids.py",
        "low = max(log_snr_range[0], whole_low",
        "low = max(whole_low",
    ),
    Mutation(
        "noise: same in every step",
        "samplers/noise.py",
        "[step + 1 for step in self.index]",
        "[1 for step in self.index]",
    ),
    Mutation("noise: same in every draw", "samplers/noise.py", "counter=[0, draw, step, 0]", "counter=[0, 0, step, 0]"),
    Mutation("noise: large seeds", "samplers/noise.py", "np.array([seed, _KEY], dtype=np.uint64)", "[seed, _KEY]"),
    Mutation(
        "blocks: not padded",
        "samplers/base.py",
        "torch.arange(start, start + self.rows,",
        "torch.arange(start, min(start + self.rows, count),",
    ),
    Mutation(
        "prior: unit deviation",
        "samplers/base.py",
        "temperature * denoiser.process.start_std(float(times[0])) * noise.prior(like)",
        "temperature * noise.prior(like)",
    ),
    Mutation(
        "prior: temperature forgotten",
        "samplers/base.py",
        "temperature * denoiser.process.start_std(float(times[0])) * noise.prior(like)",
        "denoiser.process.start_std(float(times[0])) * noise.prior(like)",
        tests=("tests/oracle/test_temperature.py",),
    ),
    Mutation(
        "prior: a request's temperature forgotten",
        "systems/sampling.py",
        '"temperature": None if request.temperature is None else check_temperature(request.temperature),',
        '"temperature": None,',
        tests=("tests/oracle/test_temperature.py",),
    ),
    # losses
    Mutation(
        "term: half forgotten",
        "losses/variational.py",
        "+ 0.5 * error2 / torch.exp(log_v)",
        "+ error2 / torch.exp(log_v)",
    ),
    Mutation(
        "term: variance costs nothing",
        "losses/variational.py",
        "0.5 * (torch.expm1(log_r) - log_r)",
        "0.5 * (0 * log_r)",
    ),
    Mutation(
        "term: mean not scaled",
        "losses/variational.py",
        "per_row(bridge.c_0**2, x_0.double())",
        "per_row(bridge.c_0, x_0.double())",
    ),
    Mutation(
        "variance: mix upside down",
        "core/variance.py",
        "mix * log_beta + (1 - mix) * log_beta_tilde",
        "(1 - mix) * log_beta + mix * log_beta_tilde",
    ),
    Mutation(
        "prior term: no signal",
        "losses/variational.py",
        "(ratio - 1 - torch.log(ratio)) + 0.5 *",
        "(ratio - 1 - torch.log(ratio)) + 0 *",
    ),
    Mutation("decoder: half a level", "losses/variational.py", "half = 1 / (num_levels - 1)", "half = 1 / num_levels"),
    Mutation(
        "decoder: outermost level",
        "losses/variational.py",
        "torch.where(x_0 > 1 - half / 2, torch.inf,",
        "torch.where(x_0 > 2, torch.inf,",
    ),
    Mutation("decoder: tail not mirrored", "losses/variational.py", "swap = lower > 0", "swap = lower > torch.inf"),
    Mutation(
        "decoder: deviation at t_1",
        "losses/variational.py",
        "bridge(times[:1], times[1:2]).var)",
        "bridge(times[:1], times[1:2]).var_max)",
    ),
    Mutation("bits for nats", "losses/variational.py", "nats / (num_dims * math.log(2))", "nats / num_dims"),
    Mutation("weight: variational", "losses/weighting.py", "2 * torch.log(bridge.c_0) -", "torch.log(bridge.c_0) -"),
    Mutation(
        "weight: variational without steps", "losses/weighting.py", "- 3 * torch.log(sigma)", "- 2 * torch.log(sigma)"
    ),
    Mutation("weight: min-SNR", "losses/weighting.py", "clamp(max=math.log(gamma))", "clamp(min=math.log(gamma))"),
    Mutation("weight: edm", "losses/weighting.py", "-2 * math.log(data_std)", "-math.log(data_std)"),
    Mutation(
        "weight: flow",
        "losses/weighting.py",
        "2 * F.softplus(process.log_snr(t) / 2",
        "F.softplus(process.log_snr(t) / 2",
    ),
    Mutation("weight: sigmoid", "losses/weighting.py", "F.logsigmoid(bias - log_snr)", "F.logsigmoid(log_snr - bias)"),
    Mutation("loss: weight squared", "losses/denoising.py", ".to(error.dtype) * error", ".to(error.dtype) * error**2"),
    Mutation(
        "density: knots from 0",
        "losses/density.py",
        "torch.floor(u.double() * num_steps) + 1",
        "torch.floor(u.double() * num_steps)",
    ),
    Mutation(
        "density: log-normal",
        "losses/density.py",
        "-2 * (mean + std * _normal_quantile(u))",
        "-(mean + std * _normal_quantile(u))",
    ),
    # the family: score-based processes, their losses, samplers, likelihood and networks
    Mutation(
        "sub-vp: sigma of vp",
        "core/processes.py",
        "return -torch.expm1(2 * self._signal.log_alpha(t))",
        "return torch.sqrt(-torch.expm1(2 * self._signal.log_alpha(t)))",
    ),
    Mutation(
        "ve: rate without its logarithm",
        "core/processes.py",
        "dtype=torch.float64), self._log_ratio * self.sigma(t)",
        "dtype=torch.float64), self.sigma(t)",
    ),
    Mutation(
        "cosine: inverse", "core/processes.py", "torch.atan(torch.exp(-log_snr.double() / 2))", "torch.exp(-log_snr)"
    ),
    Mutation("cosine: rate", "core/processes.py", "math.pi / 2 * self.alpha(t)", "math.pi * self.alpha(t)"),
    Mutation(
        "norm: variance left as it is", "core/process.py", "torch.hypot(self.alpha(t), self.sigma(t))", "self.sigma(t)"
    ),
    Mutation("ncsn: one level too many", "core/processes.py", "/ (self._num_steps - 1)", "/ self._num_steps"),
    Mutation(
        "eps_unit: input not scaled",
        "core/parameterization.py",
        "c_in=1 / process.norm(t)",
        "c_in=process.norm(t)",
    ),
    Mutation("variance: raw output read as mix", "core/variance.py", "return (raw + 1) / 2", "return raw"),
    Mutation(
        "variance: mix unchanged by transfer",
        "core/variance.py",
        "ratio = per_row(_noise_share(own, t_own) / _noise_share(process, t), mix)",
        "ratio = 1",
    ),
    Mutation("hybrid: bound moves the mean", "losses/hybrid.py", "output.detach(), mix", "output, mix"),
    Mutation(
        "hybrid: borrowed knot",
        "losses/hybrid.py",
        "later = knot.clamp(min=2)",
        "later = knot.clamp(min=2, max=num_steps - 1)",
    ),
    Mutation(
        "importance: mean for root mean square",
        "losses/importance.py",
        "losses.square().mean(1).sqrt()",
        "losses.abs().mean(1)",
    ),
    Mutation(
        "importance: weight without T", "losses/importance.py", "(1 / (self.num_steps * p[index]))", "(1 / p[index])"
    ),
    Mutation(
        "importance: oldest kept",
        "losses/importance.py",
        "kept = after - first - rank <= HISTORY",
        "kept = rank < HISTORY",
    ),
    Mutation("low discrepancy: a shift each", "losses/draws.py", "(u[:1] + steps) % 1", "(u + steps) % 1"),
    Mutation(
        "score matching: half of g squared",
        "losses/score_matching.py",
        "return process.diffusion2(t) / 2",
        "return process.diffusion2(t)",
    ),
    Mutation(
        "score matching: divergence once",
        "losses/score_matching.py",
        "+ 2 * torch.stack(slopes",
        "+ torch.stack(slopes",
    ),
    Mutation(
        "fisher: data unscaled",
        "losses/score_matching.py",
        "std = (alpha**2 * mixture.variances + sigma**2).sqrt()",
        "std = (mixture.variances + sigma**2).sqrt()",
    ),
    Mutation(
        "continuous bound: half forgotten",
        "losses/continuous.py",
        "return 0.5 * (high - low) * total / num_draws",
        "return (high - low) * total / num_draws",
    ),
    Mutation(
        "random bound: as if uniform",
        "losses/random_bound.py",
        "terms.append(nats / (shares[picked] * num_draws))",
        "terms.append(nats * len(shares) / num_draws)",
    ),
    Mutation(
        "likelihood: units",
        "samplers/likelihood.py",
        "units = num_dims * (torch.log(scale) + torch.log(signal(high)))",
        "units = num_dims * (torch.log(scale) - torch.log(signal(high)))",
    ),
    Mutation(
        "likelihood: width of a level",
        "samplers/likelihood.py",
        "math.log2((num_levels - 1) / 2)",
        "math.log2(num_levels / 2)",
    ),
    Mutation(
        "probability flow: signal not scaled",
        "samplers/probability_flow.py",
        "return a / 2 * (x_0 - a * x)",
        "return a / 2 * (x_0 - x)",
    ),
    Mutation(
        "euler-maruyama: drift's sign",
        "samplers/sde.py",
        "move = 1 + clock / 2 - clock",
        "move = 1 - clock / 2 - clock",
    ),
    Mutation(
        "euler-maruyama: noise at t's scale", "samplers/sde.py", "scale_s * clock.sqrt()", "scale_t * clock.sqrt()"
    ),
    Mutation(
        "reverse diffusion: bridge's factor",
        "samplers/sde.py",
        "per_row(2 - bridge.alpha_ts, x)",
        "per_row(1 / bridge.alpha_ts, x)",
    ),
    Mutation(
        "langevin: half the noise",
        "samplers/langevin.py",
        "std = 2 * r * process.sigma(t)",
        "std = r * process.sigma(t)",
    ),
    Mutation("langevin: twice the step", "samplers/langevin.py", "per_row(std**2 / 2, x)", "per_row(std**2, x)"),
    Mutation(
        "annealed langevin: other label",
        "samplers/langevin.py",
        "torch.where(keeps_signal, signal, noise)",
        "torch.where(keeps_signal, noise, signal)",
    ),
    Mutation(
        "brownian: bridge's deviation",
        "samplers/brownian.py",
        "np.sqrt(before * after / (before + after))",
        "np.sqrt(before * after) / (before + after)",
    ),
    Mutation(
        "brownian: always the middle",
        "samplers/brownian.py",
        "finger.w_left + before / (before + after) *",
        "finger.w_left + 0.5 *",
    ),
    Mutation("runge-kutta: error weight", "samplers/runge_kutta.py", "71 / 57600", "71 / 5760"),
    Mutation("runge-kutta: stage", "samplers/runge_kutta.py", "-2187 / 6784", "2187 / 6784"),
    Mutation("probability flow: not halved", "samplers/probability_flow.py", "return a / 2 * (", "return a * ("),
    Mutation("rk45: jump too far", "samplers/adaptive.py", "math.log(rtol / 5)", "math.log(rtol * 500)"),
    Mutation("edm: churn's log-SNR", "samplers/edm.py", "2 * torch.log1p(gamma)", "torch.log1p(gamma)"),
    Mutation("edm: churn's noise", "samplers/edm.py", "bridge.var_max.sqrt() * s_noise", "bridge.var.sqrt() * s_noise"),
    Mutation(
        "dpmpp_2m_sde: no extrapolation",
        "samplers/multistep.py",
        "per_row(bridge.c_0, x) * guess",
        "per_row(bridge.c_0, x) * x_0",
    ),
    Mutation("unipc: factorial", "samplers/multistep.py", "g = g / hh - 1 / math.factorial(i)", "g = g / hh - 1 / i"),
    Mutation(
        "unipc: difference's sign",
        "samplers/multistep.py",
        "scale * (nodes[number] - other)",
        "scale * (other - nodes[number])",
    ),
    Mutation(
        "fir: shifted",
        "networks/resample.py",
        "return self.narrow(evened(x), stride=2, padding=1)",
        "return self.narrow(evened(x), stride=2, padding=2)[..., 1:, 1:]",
    ),
    Mutation(
        "fir: gain", "networks/resample.py", "4 * self.filters(wide), stride=2", "2 * self.filters(wide), stride=2"
    ),
    Mutation(
        "progressive: join not rescaled",
        "networks/progressive.py",
        "joined = rescaled(self.larger(pyramid, (h.shape[-2], h.shape[-1])) + h, self.scale)",
        "joined = self.larger(pyramid, (h.shape[-2], h.shape[-1])) + h",
    ),
    Mutation(
        "transformer: gates swapped",
        "networks/transformer.py",
        "tokens = tokens + gate1 * self.attention(",
        "tokens = tokens + gate2 * self.attention(",
    ),
    Mutation("transformer: first skip first", "networks/transformer.py", "kept.pop())", "kept.pop(0))"),
    Mutation("unet: half for its root", "networks/unet.py", "math.sqrt(0.5) if config", "0.5 if config"),
    Mutation("fourier scale: thousandth", "networks/presets.py", "/ 1000", "/ 999"),
    Mutation(
        "posterior mean: weight not squared",
        "losses/weighting.py",
        "return 2 * torch.log(process.bridge(",
        "return torch.log(process.bridge(",
    ),
    # metrics, evaluation, studies, the doctor
    Mutation(
        "kernel: variance counted twice", "metrics/kernel.py", "max(jackknife - 2 * pairs, 0.0) + pairs", "jackknife"
    ),
    Mutation("kernel: pairs with itself", "metrics/kernel.py", "block.fill_diagonal_(0)", "pass"),
    Mutation("kernel: mean not removed", "metrics/kernel.py", "- explained + mean**2", "- explained"),
    Mutation(
        "recall: balls of the real",
        "metrics/coverage.py",
        "is_recalled |= in_generated.any(0)",
        "is_recalled |= in_real.any(0)",
    ),
    Mutation("coverage: open balls", "metrics/coverage.py", "<= radius * (1 + ROUNDING)", "< radius"),
    Mutation("coverage: in doubt left out", "metrics/coverage.py", "distances <= kth + 2 * doubt", "distances <= kth"),
    Mutation(
        "inception score: entropies added",
        "metrics/inception_score.py",
        "entropy + negative_entropy_sum / count",
        "entropy - negative_entropy_sum / count",
    ),
    Mutation(
        "bank: first come", "metrics/bank.py", "order[: self.capacity]", "torch.arange(len(order))[: self.capacity]"
    ),
    Mutation(
        "summary: groups by arrival",
        "metrics/summary.py",
        "parts.statistics.update(features, numbers)",
        "parts.statistics.update(features)",
    ),
    Mutation(
        "colour: mean not squared", "metrics/colour.py", "total * second - first * first", "total * second - first"
    ),
    Mutation(
        "lpips: area for its root",
        "metrics/perceptual.py",
        "root / one[0, 0].numel() ** 0.5",
        "root / one[0, 0].numel()",
    ),
    Mutation("lpips: squared length", "metrics/perceptual.py", "(length + EPS)", "(length.square() + EPS)"),
    Mutation(
        "efficientnet: padding mirrored",
        "metrics/efficientnet.py",
        "(left, total[1] - left, top, total[0] - top)",
        "(total[1] - left, left, total[0] - top, top)",
    ),
    Mutation(
        "efficientnet: norm without epsilon",
        "metrics/efficientnet.py",
        ".double() + NORM_EPS).sqrt()",
        ".double()).sqrt()",
    ),
    Mutation(
        "accuracy: error of one fewer",
        "metrics/accuracy.py",
        "math.sqrt(value * (1 - value) / len(right))",
        "math.sqrt(value * (1 - value) / (len(right) - 1))",
    ),
    Mutation(
        "weights: any hash",
        "metrics/weight_files.py",
        "if digest != row.sha256:\n        raise UsageError(",
        "if digest == 0:\n        raise UsageError(",
    ),
    Mutation(
        "gap: over the training loss",
        "evaluation/gap.py",
        "(held - mean) / held, None if error",
        "(held - mean) / mean, None if error",
    ),
    Mutation(
        "evaluation: precision for recall",
        "evaluation/pictures.py",
        "coverage(real, generated, k=NEIGHBOURS)",
        "coverage(generated, real, k=NEIGHBOURS)",
    ),
    Mutation(
        "copying: a picture is its own neighbour",
        "evaluation/copying.py",
        "(neighbours.indices[:, 0] == torch.from_numpy(own))",
        "(neighbours.indices[:, 0] != torch.from_numpy(own))",
    ),
    Mutation(
        "schedule: levels the wrong way",
        "evaluation/schedule.py",
        "process.time_of_log_snr(levels)) - levels",
        "process.time_of_log_snr(levels)) + levels",
    ),
    Mutation(
        "schedule: masses squared",
        "evaluation/schedule.py",
        "below = np.cumsum(masses) - masses / 2",
        "below = np.cumsum(masses**2)",
    ),
    Mutation("quality: few real pictures", "evaluation/quality.py", "max(num, MOST_REAL)", "num"),
    Mutation(
        "quality: not measured at the end",
        "training/trainer.py",
        'if self.step and not journal.has("quality", self.images)',
        "if False",
    ),
    Mutation("forward: posterior's deviation", "studies/forward.py", "bridge.var_max.sqrt()", "bridge.var.sqrt()"),
    Mutation("forward: sampling error", "studies/forward.py", "4 * alpha**2 * sigma**2", "2 * alpha**2 * sigma**2"),
    Mutation(
        "slerp: angle of the sine",
        "studies/mixing.py",
        "((1 - weight) * angle).sin() / sine",
        "(1 - weight) * angle.sin() / sine",
    ),
    Mutation(
        "shared latent: the parents' noise",
        "studies/shared_latent.py",
        "subject.seeds(num * siblings, first=num)",
        "subject.seeds(num * siblings, first=0)",
    ),
    Mutation(
        "interpolation: noise of another pair",
        "studies/interpolation.py",
        "[seed for seed in pairs.seeds for _ in range(count)]",
        "[seed for _ in range(count) for seed in pairs.seeds]",
    ),
    Mutation(
        "interpolation: departure doubled",
        "studies/interpolation.py",
        "_mean_ratio(middle, across / 2)",
        "_mean_ratio(middle, across)",
    ),
    Mutation(
        "prior interpolation: the other end's noise",
        "studies/prior_interpolation.py",
        "subject.seeds(2 * pairs)[0::2]",
        "subject.seeds(2 * pairs)[1::2]",
    ),
    Mutation(
        "progressive: x_0 for x_t",
        "studies/progressive.py",
        "x.append(progress.x.cpu())",
        "x.append(progress.x_0.cpu())",
    ),
    Mutation(
        "times: matched from the wrong end",
        "studies/times.py",
        "_DDPM.log_snr(fraction)",
        "_DDPM.log_snr(1 - fraction)",
    ),
    Mutation(
        "levels: linear denoiser",
        "studies/levels.py",
        "return (signal / (1 + signal)).mean(1)",
        "return (signal / (2 + signal)).mean(1)",
    ),
    Mutation(
        "copies: near for nearer than all",
        "studies/comparing.py",
        "return (distances < self.minimum) | (distances == 0)",
        "return distances < self.first_percentile",
    ),
    Mutation(
        "copies: itself for the other",
        "studies/comparing.py",
        "column = (found.indices[:, :1] == itself[:, None]).long()",
        "column = (found.indices[:, :1] != itself[:, None]).long()",
    ),
    Mutation(
        "noise prediction: x_0 for the noise",
        "studies/noise_prediction.py",
        "eps_of(process, x_t, denoiser(x_t, t, cond).x_0, t)",
        "denoiser(x_t, t, cond).x_0",
    ),
    Mutation(
        "one class: scale among the references",
        "studies/one_class.py",
        "return order[num : num + REFERENCES], order[:num]",
        "return order[:REFERENCES], order[:num]",
    ),
    Mutation(
        "prior left: logarithm's sign",
        "doctor/levels.py",
        "ratio - 1 - math.log(ratio))",
        "ratio - 1 + math.log(ratio))",
    ),
    Mutation(
        "error by level: noisier for cleaner",
        "losses/levels.py",
        "torch.exp(reached) * mean_over_features",
        "torch.exp(-reached) * mean_over_features",
    ),
    Mutation(
        "near-duplicates: mirror forgotten",
        "doctor/duplicates.py",
        "moduli[..., height - down :, : across + 1].flip(-2)",
        "moduli[..., height - down :, : across + 1]",
    ),
    Mutation(
        "near-duplicates: both moved alike",
        "doctor/duplicates.py",
        "_overlap(b, -down, -across)",
        "_overlap(b, down, across)",
    ),
    Mutation(
        "ema: half-lives upside down",
        "doctor/weights.py",
        "0.5 ** (images / halflife_images)",
        "0.5 ** (halflife_images / images)",
    ),
    # data: order, split, workers, cache
    Mutation("data order: too few rounds", "data/order.py", "NUM_ROUNDS = 24", "NUM_ROUNDS = 10"),
    Mutation("data order: even permutations only", "data/order.py", "a += a % 2", "a += 0"),
    Mutation(
        "data order: shares of ranks with gaps",
        "data/order.py",
        "start + self._rank * count // self._num_ranks",
        "start + self._rank * (count // self._num_ranks)",
    ),
    Mutation(
        "split: bytes of the hash reversed", "data/split.py", 'hashes[:, :8]).view(">u8")', 'hashes[:, :8]).view("<u8")'
    ),
    Mutation(
        "workers: killed by the signal of the group",
        "data/workers.py",
        "signal.signal(signal_number, signal.SIG_IGN)",
        "pass",
    ),
    Mutation(
        "cache: stamp not looked at", "data/cache.py", 'if read_info(place)["stamp"] != stamp_of(config):', "if False:"
    ),
    Mutation(
        "plain PNG: checksums not looked at",
        "data/plain_png.py",
        "zlib.crc32(content[at:end]) == struct",
        "zlib.crc32(content[at:end]) >= 0 * struct",
    ),
    # data: readers
    Mutation(
        "zip: checksum not looked at",
        "data/formats/zip.py",
        "if len(content) != size or zlib.crc32(content) != table.crcs[row]:",
        "if len(content) != size:",
    ),
    Mutation("zip: names that lead out", "data/formats/zip.py", 'or ".." in name.split("/")', ""),
    Mutation(
        "zip: hashes of exchanged pictures believed",
        "data/formats/zip.py",
        'return known["hash"].copy() if same else None',
        'return known["hash"].copy()',
    ),
    Mutation("captions: farther before nearer", "data/formats/captions.py", '(".json", ".txt")', '(".txt", ".json")'),
    Mutation("pickle: any name imported", "data/formats/pickled.py", "if name not in _ALLOWED:", "if False:"),
    Mutation("pickle: grows without limit", "data/formats/pickled.py", "if len(content) > most:", "if False:"),
    Mutation("cifar: fine for coarse", "data/formats/cifar.py", '"coarse", "fine"', '"fine", "coarse"'),
    Mutation("emnist: left lying", "data/formats/emnist_mat.py", ".swapaxes(2, 3)", ""),
    Mutation(
        "matlab: end of the file not looked at",
        "data/formats/matlab.py",
        "if start + size > len(content):",
        "if False:",
    ),
    Mutation("npy: objects taken", "data/formats/npy.py", "if dtype.hasobject:", "if False:"),
    Mutation(
        "tables: all groups held", "data/formats/tables.py", "while len(self._held) > MAX_GROUPS:", "while False:"
    ),
    Mutation(
        "lmdb: the older of two meta pages", "data/formats/lmdb_pages.py", "max(first, second", "min(first, second"
    ),
    Mutation("ffhq: one more for training", "data/formats/ffhq.py", "number < NUM_TRAIN", "number <= NUM_TRAIN"),
    Mutation("emoji: tones kept", "data/formats/emoji.py", "or not emoji.has_tone", "or True"),
    # data: prepare and get
    Mutation(
        "prepare: goes on in a changed source", "data/prepare/run.py", "row.key != self._originals.key(done)", "False"
    ),
    Mutation(
        "prepare: damaged rows believed",
        "data/prepare/journal.py",
        "or rest[length:] != _CHECK.pack(zlib.crc32(content))",
        "",
    ),
    Mutation(
        "prepare: results out of order",
        "data/prepare/crew.py",
        "if due in waiting:\n                yield waiting.pop(due)",
        "if waiting:\n                yield waiting.pop(next(iter(waiting)))",
    ),
    Mutation(
        "prepare: split by the prepared picture",
        "data/prepare/manifest.py",
        "row.found_hash[:8]",
        "row.pixel_hash[:8]",
    ),
    Mutation(
        "prepare: half of a hash compared",
        "data/prepare/seen.py",
        "and self.at(number) != value",
        "and self.at(number)[:8] != value[:8]",
    ),
    Mutation(
        "prepare: aspect of one way only",
        "data/prepare/work.py",
        "max(height, width) > filters.max_aspect",
        "width > filters.max_aspect",
    ),
    Mutation(
        "prepare: offsets beyond four gigabytes",
        "data/prepare/zip_writer.py",
        'extra = struct.pack("<2HQ", 1, 8, offset) if far else b""',
        'extra = b""',
    ),
    Mutation("get: all of it again", "data/download/fetch.py", 'headers["Range"] = f"bytes={start}-"', "pass"),
    Mutation(
        "get: another range taken", "data/download/fetch.py", 'if not given.startswith(f"bytes {asked}-"):', "if False:"
    ),
    Mutation(
        "get: a cut transfer taken for whole",
        "data/download/fetch.py",
        "if total is not None and done < total:",
        "if False:",
    ),
    Mutation("get: checksum not looked at", "data/download/fetch.py", "digest.hexdigest() == expected", "True"),
    # data: augmentation
    Mutation(
        "augmentation: turned the other way",
        "data/augment/geometry.py",
        "linear(cos, -sin, sin, cos)",
        "linear(cos, sin, -sin, cos)",
    ),
    Mutation(
        "augmentation: label of the direction",
        "data/augment/geometry.py",
        "size * direction.sin()",
        "size * direction.cos()",
    ),
    Mutation(
        "augmentation: shrinking by the smaller step",
        "data/augment/warp.py",
        "torch.maximum(*steps)",
        "torch.minimum(*steps)",
    ),
    Mutation("augmentation: hue the other way", "data/augment/colour.py", "lift = angle.sin()", "lift = -angle.sin()"),
    Mutation("augmentation: uniform from 0", "data/augment/parts.py", "lambda u: 2 * u - 1", "lambda u: u"),
    Mutation("augmentation: maps in the wrong order", "data/augment/pipeline.py", "after @ before", "before @ after"),
    Mutation("adaptive augmentation: size for sign", "data/augment/adaptive.py", "above.sign()", "above"),
    Mutation(
        "augmentation: told is dropped with the class",
        "systems/sampled.py",
        "return replace(told, class_label=dropped.class_label)",
        "return dropped",
    ),
    # few steps: consistency
    Mutation(
        "consistency: target without the end of the segment",
        "systems/consistency.py",
        "return t, torch.maximum(s, end), end",
        "return t, s, end",
        tests=("tests/e2e/test_consistency_runs.py",),
    ),
    Mutation(
        "consistency: the average does not count",
        "systems/consistency.py",
        "        for system in (self, average):\n            system.seen.fill_(images)",
        "        for system in (self,):\n            system.seen.fill_(images)",
        tests=("tests/e2e/test_consistency_runs.py",),
    ),
    Mutation(
        "consistency: dropout drawn anew",
        "systems/consistency.py",
        "with torch.no_grad(), rng.layers():",
        "with torch.no_grad():",
        tests=("tests/e2e/test_consistency_runs.py",),
    ),
    Mutation(
        "consistency: teacher is told no class",
        "systems/consistency.py",
        "Watch(denoiser, cond)",
        "Watch(denoiser, None)",
        tests=("tests/oracle/test_consistency.py",),
    ),
    Mutation(
        "consistency: target at the noisy point",
        "losses/consistency.py",
        "keep = process.sigma(end) / process.sigma(t)",
        "keep = process.sigma(end) / process.sigma(s)",
        tests=("tests/oracle/test_consistency.py",),
    ),
    Mutation(
        "pseudo-Huber: without the constant below",
        "losses/consistency.py",
        "return square / (torch.sqrt(square + c**2) + c)",
        "return square / torch.sqrt(square + c**2)",
        tests=("tests/oracle/test_consistency.py",),
    ),
    Mutation(
        "consistency sampler: noise of t",
        "samplers/consistency.py",
        "per_row(process.sigma(steps.s), x) * noise.normal(x)",
        "per_row(process.sigma(steps.t), x) * noise.normal(x)",
        tests=("tests/oracle/test_consistency.py",),
    ),
    Mutation(
        "angle grid: even in the ratio",
        "samplers/grids.py",
        "-2 * torch.log(torch.tan(inner))",
        "-2 * torch.log(inner)",
        tests=("tests/oracle/test_consistency.py",),
    ),
    # few steps: mean velocities and halving
    Mutation(
        "mean flow: the derivative's sign",
        "losses/mean_flow.py",
        "    target: Tensor = velocity - per_row(t - s, x_t) * rate",
        "    target: Tensor = velocity + per_row(t - s, x_t) * rate",
        tests=("tests/oracle/test_mean_flow.py",),
    ),
    Mutation(
        "mean flow: first part all the way",
        "losses/mean_flow.py",
        "    x_m = x_t - per_row(t - m, x_t) * first",
        "    x_m = x_t - per_row(t - s, x_t) * first",
        tests=("tests/oracle/test_mean_flow.py",),
    ),
    Mutation(
        "mean flow: the divisor is learned from",
        "losses/mean_flow.py",
        "    return squared / (squared.detach() + floor) ** power",
        "    return squared / (squared + floor) ** power",
        tests=("tests/oracle/test_mean_flow.py",),
    ),
    Mutation(
        "mean velocity: told the time it is at",
        "samplers/mean_velocity.py",
        "Condition(until=s)",
        "Condition(until=t)",
        tests=("tests/oracle/test_mean_flow.py",),
    ),
    Mutation(
        "mean velocity: the class forgotten",
        "samplers/base.py",
        "cond.over(self.cond) if cond is not None",
        "cond if cond is not None",
        tests=("tests/oracle/test_mean_flow.py",),
    ),
    Mutation(
        "mean velocity: time of another process",
        "core/denoiser.py",
        "cond = replace(cond, until=own.time_of_log_snr(self.process.log_snr(cond.until)))",
        "cond = replace(cond, until=cond.until)",
        tests=("tests/oracle/test_mean_flow.py",),
    ),
    Mutation(
        "until: dropped with the class",
        "core/condition.py",
        "        dropped = replace(self.map(blank), until=self.until)",
        "        dropped = self.map(blank)",
        tests=("tests/contract/test_condition.py",),
    ),
    Mutation(
        "mean flow: shares exchanged",
        "systems/mean_flow.py",
        'torch.where(rng.uniform(count, "equal") < self.config.equal_share, t, s)',
        'torch.where(rng.uniform(count, "equal") > self.config.equal_share, t, s)',
        tests=("tests/oracle/test_mean_flow.py",),
    ),
    Mutation(
        "distribution matching: away from the teacher",
        "losses/distribution_matching.py",
        "    return (own - teacher) / per_row(size, x_0)",
        "    return (teacher - own) / per_row(size, x_0)",
        tests=("tests/oracle/test_distribution_matching.py",),
    ),
    Mutation(
        "distribution matching: size by the fake score",
        "losses/distribution_matching.py",
        "    size = mean_over_features((x_0 - teacher).abs())",
        "    size = mean_over_features((x_0 - own).abs())",
        tests=("tests/oracle/test_distribution_matching.py",),
    ),
    Mutation(
        "distribution matching: the fake score learns the data",
        "systems/distribution_matching.py",
        "rows = denoising_loss(self._fake_score_denoiser(), made, eps,",
        "rows = denoising_loss(self._fake_score_denoiser(), batch.x_0, eps,",
        tests=("tests/oracle/test_distribution_matching.py",),
    ),
    Mutation(
        "distribution matching: every step begins at noise",
        "systems/distribution_matching.py",
        '            x_t = self.process.diffuse(x_0, rng.normal(x_0, f"start {phase}"), times[step])',
        '            x_t = rng.normal(x_0, f"start {phase}")',
        tests=("tests/oracle/test_distribution_matching.py",),
    ),
    Mutation(
        "distribution matching: simulated without classes",
        "systems/distribution_matching.py",
        "t.expand(len(rows)), cond.select(rows)).x_0",
        "t.expand(len(rows)), Condition()).x_0",
        tests=("tests/oracle/test_distribution_matching.py",),
    ),
    Mutation(
        "distribution matching: simulated without the cut",
        "systems/distribution_matching.py",
        "        denoiser = self.cut(self.sharded_denoiser())",
        "        denoiser = self.sharded_denoiser()",
        tests=("tests/oracle/test_distribution_matching.py",),
    ),
    Mutation(
        "distribution matching: starts of unit size",
        "systems/distribution_matching.py",
        '        x_t = self.process.start_std(float(times[0])) * rng.normal(like, f"start {phase}")',
        '        x_t = rng.normal(like, f"start {phase}")',
        tests=("tests/oracle/test_distribution_matching.py",),
    ),
    Mutation(
        "distribution matching: simulated a step too far",
        "systems/distribution_matching.py",
        "            later = step > number",
        "            later = step >= number",
        tests=("tests/oracle/test_distribution_matching.py",),
    ),
    Mutation(
        "distribution matching: noised to the step it comes from",
        "systems/distribution_matching.py",
        "self.process.diffuse(made, fresh[rows], s.expand(len(rows)))",
        "self.process.diffuse(made, fresh[rows], t.expand(len(rows)))",
        tests=("tests/oracle/test_distribution_matching.py",),
    ),
    Mutation(
        "students: the teacher without its guidance",
        "systems/sampled.py",
        "self._guided_and_cut(self._evaluated(self._auto(), sharded), self.config.sampling.classifier_free())",
        "self._guided_and_cut(self._evaluated(Guidance(), sharded), self.config.sampling.classifier_free())",
        tests=("tests/oracle/test_consistency.py",),
    ),
    Mutation(
        "halving: every step but the last is the last",
        "losses/progressive.py",
        "    return where_rows(final, x_0, ",
        "    return where_rows(~final, x_0, ",
        tests=("tests/oracle/test_progressive_distillation.py",),
    ),
    Mutation(
        "halving: the raw student teaches",
        "systems/progressive.py",
        "        self._teacher.become(average.network)",
        "        self._teacher.become(self.network)",
        tests=("tests/oracle/test_progressive_distillation.py",),
    ),
    Mutation(
        "halving: the student keeps its raw weights",
        "systems/progressive.py",
        "        self.network.load_state_dict(average.network.state_dict())",
        "        pass",
        tests=("tests/oracle/test_progressive_distillation.py",),
    ),
    Mutation(
        "training state: not read back",
        "training/trainer.py",
        '        self.system.load_training_state(parts["training"])',
        "        pass",
        tests=("tests/e2e/test_distill.py",),
    ),
    # fewer evaluations
    Mutation(
        "through: knots halfway",
        "samplers/grids.py",
        "place = torch.arange(1, num_steps, dtype=torch.float64) * (len(line) - 1) / num_steps",
        "place = torch.arange(1, num_steps, dtype=torch.float64) * len(line) / num_steps",
        tests=("tests/oracle/test_tuned_grids.py",),
    ),
    Mutation(
        "tuning: uphill",
        "samplers/tuned.py",
        "if _root_mean_square(missed) < _root_mean_square(e):",
        "if _root_mean_square(missed) > _root_mean_square(e):",
        tests=("tests/oracle/test_tuned_grids.py",),
    ),
    Mutation(
        "tuning: sign",
        "samplers/tuned.py",
        "moved = z - torch.linalg.solve",
        "moved = z + torch.linalg.solve",
        tests=("tests/oracle/test_tuned_grids.py",),
    ),
    Mutation(
        "guidance: sign",
        "guidance/classifier_free.py",
        "* (told[rows] - untold)",
        "* (untold - told[rows])",
        tests=("tests/oracle/test_guidance.py",),
    ),
    Mutation(
        "guidance: interval",
        "guidance/classifier_free.py",
        "(log_snr <= self.interval[1])",
        "(log_snr >= self.interval[1])",
        tests=("tests/oracle/test_guidance.py",),
    ),
    Mutation(
        "guidance: cost",
        "guidance/classifier_free.py",
        "mix, 2 * both.nfe)",
        "mix, both.nfe)",
        tests=("tests/oracle/test_guidance.py",),
    ),
    Mutation(
        "autoguidance: sign",
        "guidance/autoguidance.py",
        "* (good.x_0 - bad.x_0)",
        "* (bad.x_0 - good.x_0)",
        tests=("tests/oracle/test_autoguidance.py",),
    ),
    Mutation(
        "autoguidance: interval",
        "guidance/autoguidance.py",
        "(log_snr <= self.interval[1])",
        "(log_snr >= self.interval[1])",
        tests=("tests/oracle/test_autoguidance.py",),
    ),
    Mutation(
        "autoguidance: cost",
        "guidance/autoguidance.py",
        "good.nfe + bad.nfe)",
        "good.nfe)",
        tests=("tests/oracle/test_autoguidance.py",),
    ),
    Mutation(
        "autoguidance: when the guide is taken",
        "systems/diffusion.py",
        "if images < (self.config.guide_images or math.inf) or self.guide_taken:",
        "if images < (self.config.guide_images or math.inf):",
        tests=("tests/e2e/test_export.py",),
    ),
    Mutation(
        "autoguidance: which weights are the guide",
        "systems/diffusion.py",
        "system.guide.load_state_dict(average.network.state_dict())",
        "system.guide.load_state_dict(self.network.state_dict())",
        tests=("tests/e2e/test_export.py",),
    ),
    Mutation(
        "reuse: which steps",
        "samplers/reuse.py",
        "steps.index % every == 0",
        "steps.index % every == 1",
        tests=("tests/oracle/test_reuse.py",),
    ),
    Mutation(
        "reuse: rows mixed up",
        "samplers/reuse.py",
        "self.deep = where_rows(self.fresh, self.deep, kept)",
        "self.deep = self.deep",
        tests=("tests/oracle/test_reuse.py",),
    ),
    # speed
    Mutation(
        "copies: every layer in half precision",
        "compute/inference.py",
        "    for layer in cast - kept:",
        "    for layer in cast.union(kept):",
        tests=("tests/contract/test_compute.py",),
    ),
    Mutation(
        "copies: stale ones are served",
        "compute/inference.py",
        "if held is not None and held.state == state and not",
        "if held is not None and not",
        tests=("tests/contract/test_compute.py",),
    ),
    Mutation(
        "optimizer: fused kernels tell nobody",
        "training/optimizer.py",
        "        torch.autograd.graph.increment_version(self._parameters[phase])  # of which fused kernels do not tell",
        "",
        tests=("tests/contract/test_compute.py",),
    ),
    Mutation(
        "modulated norm: scale without its 1",
        "networks/layers.py",
        "    factor = 1 + scale.to(norm.weight.dtype)",
        "    factor = scale.to(norm.weight.dtype)",
        tests=("tests/contract/test_compute.py",),
    ),
    Mutation(
        "attention: not scaled",
        "networks/attention.py",
        "beta=0, alpha=query.shape[-1] ** -0.5",
        "beta=0, alpha=1.0",
        tests=("tests/contract/test_compute.py",),
    ),
    Mutation(
        "bf16: on any processor",
        "compute/choice.py",
        'return torch.bfloat16 if choice == "always" or machine(device).fast_bf16 else None',
        "return torch.bfloat16",
        tests=("tests/contract/test_compute.py",),
    ),
    Mutation(
        "muon: the shorter side",
        "training/muon.py",
        'alpha=-group["lr"] * 0.2 * max(shape) ** 0.5',
        'alpha=-group["lr"] * 0.2 * min(shape) ** 0.5',
        tests=("tests/oracle/test_muon.py",),
    ),
    Mutation(
        "post-hoc average: exponent",
        "training/posthoc.py",
        "kept = (images / (images + batch_images)) ** (gamma + 1)",
        "kept = (images / (images + batch_images)) ** gamma",
        tests=("tests/oracle/test_posthoc_ema.py",),
    ),
    Mutation(
        "post-hoc average: width",
        "training/posthoc.py",
        "np.roots([1, 7, 16 - inverse, 12 - inverse])",
        "np.roots([1, 7, 16 - inverse, 12 + inverse])",
        tests=("tests/oracle/test_posthoc_ema.py",),
    ),
    Mutation(
        "shards: the first one's gradients alone",
        "compute/shards.py",
        "        torch._foreach_add_(totals, other)",
        "        pass",
        tests=("tests/contract/test_shards.py",),
    ),
    Mutation(
        "shards: the caller's arithmetic forgotten",
        "compute/shards.py",
        "with torch.set_grad_enabled(grad), like(), differentiated_once():",
        "with torch.set_grad_enabled(grad), differentiated_once():",
        tests=("tests/contract/test_shards.py",),
    ),
    # adversarial training
    Mutation(
        "adversarial: samples told to be real",
        "losses/adversarial.py",
        "    return F.softplus(-real) + F.softplus(fake)",
        "    return F.softplus(-real) + F.softplus(-fake)",
        tests=("tests/oracle/test_adversarial.py",),
    ),
    Mutation(
        "penalties: paid a step late",
        "losses/adversarial.py",
        "step % self.every == 0",
        "step % self.every == 1",
        tests=("tests/oracle/test_adversarial.py",),
    ),
    Mutation(
        "gradient penalty: around 0",
        "losses/penalties.py",
        "excess = slopes(outputs, x) - 1",
        "excess = slopes(outputs, x)",
        tests=("tests/oracle/test_adversarial.py",),
    ),
    Mutation(
        "R1: not halved",
        "losses/penalties.py",
        "gamma / 2 * gradient",
        "gamma * gradient",
        tests=("tests/oracle/test_adversarial.py",),
    ),
    Mutation(
        "unrolled: uphill",
        "losses/unrolled.py",
        "theta[name] = value - rate * gradient",
        "theta[name] = value + rate * gradient",
        tests=("tests/oracle/test_adversarial.py",),
    ),
    Mutation(
        "unrolled: no gradient through the steps",
        "losses/unrolled.py",
        "create_graph=True",
        "create_graph=False",
        tests=("tests/oracle/test_adversarial.py",),
    ),
    Mutation(
        "spectral norm: times for over",
        "networks/gan/spectral.py",
        "return self.weight / largest_singular_value",
        "return self.weight * largest_singular_value",
        tests=("tests/oracle/test_adversarial.py",),
    ),
    Mutation(
        "no class is the first class",
        "networks/gan/parts.py",
        "torch.where(label < 0, num_classes, label)",
        "torch.where(label < 0, 0, label)",
        tests=("tests/contract/test_gan_networks.py",),
    ),
    Mutation(
        "gan: looking ahead moves running statistics",
        "systems/gan.py",
        "value.clone() for name, value in self.discriminator.named_buffers()",
        "value for name, value in self.discriminator.named_buffers()",
        tests=("tests/e2e/test_gan.py",),
    ),
    Mutation(
        "gan: the generator moves first",
        "systems/gan.py",
        "(step + 1) % self.config.discriminator_steps == 0",
        "step % self.config.discriminator_steps == 0",
        tests=("tests/e2e/test_gan.py",),
    ),
    Mutation(
        "gan: lazy penalties at the plain price",
        "systems/gan.py",
        "rows + penalties.every * torch",
        "rows + torch",
        tests=("tests/e2e/test_gan.py",),
    ),
    Mutation(
        "doctor: gap the other way round",
        "doctor/game.py",
        'last["d_real_train"] - last["d_real"]',
        'last["d_real"] - last["d_real_train"]',
        tests=("tests/oracle/test_doctor_game.py",),
    ),
    # modes, contest, small data
    Mutation(
        "modes: six deviations",
        "metrics/modes.py",
        "good, num = nearest <= WITHIN,",
        "good, num = nearest <= 2 * WITHIN,",
        tests=("tests/oracle/test_modes.py",),
    ),
    Mutation(
        "modes: a tenth will do",
        "metrics/modes.py",
        "self.found < 0.5 * self.real_found and",
        "self.found < 0.1 * self.real_found and",
        tests=("tests/oracle/test_modes.py",),
    ),
    Mutation(
        "modes: error without the chi-squared rest",
        "metrics/modes.py",
        "first + (seen - 1) / (2 * num**2)",
        "first",
        tests=("tests/oracle/test_modes.py",),
    ),
    Mutation(
        "modes: share of good points",
        "metrics/modes.py",
        "-math.expm1(-(WITHIN**2) / 2)",
        "-math.expm1(-WITHIN / 2)",
        tests=("tests/oracle/test_modes.py",),
    ),
    Mutation(
        "modes: real draws are all good",
        "metrics/modes.py",
        "rng.binomial(draws, located.sound_of_real)",
        "rng.binomial(draws, 1.0)",
        tests=("tests/oracle/test_modes.py",),
    ),
    Mutation(
        "contest: one standard error",
        "report/contest.py",
        "Z * math.hypot(a.error or 0.0, b.error or 0.0)",
        "math.hypot(a.error or 0.0, b.error or 0.0)",
        tests=("tests/oracle/test_contest.py",),
    ),
    Mutation(
        "contest: higher is worse",
        "report/contest.py",
        '"higher": -value',
        '"higher": value',
        tests=("tests/oracle/test_contest.py",),
    ),
    Mutation(
        "small data: gap of the held-out pictures",
        "studies/small_data.py",
        'row["d_real_train"] - row["d_fake"]',
        'row["d_real"] - row["d_fake"]',
        tests=("tests/oracle/test_small_data.py",),
    ),
    Mutation(
        "small data: twice the share",
        "studies/small_data.py",
        "_SPARE * SHARE * seconds_an_epoch",
        "2 * SHARE * seconds_an_epoch",
        tests=("tests/oracle/test_small_data.py",),
    ),
    Mutation(
        "stacks: digits of both sides",
        "data/formats/stacked.py",
        "np.flatnonzero(held_out == side)",
        "np.arange(len(held_out))",
        tests=("tests/contract/test_stacked_source.py",),
    ),
    # bundled models
    Mutation(
        "bundled: name before a model's folder",
        "app/models.py",
        ' and not (folder / "config.json").is_file()',
        "",
        tests=("tests/e2e/test_zoo_cli.py",),
    ),
    Mutation(
        "bundled: results into the package",
        "app/models.py",
        "if model in bundled_models().values() else model\n",
        "if False else model\n",
        tests=("tests/e2e/test_zoo_cli.py",),
    ),
    Mutation(
        "bundled: the sheet is in the way",
        "app/training.py",
        " and path.name != BUNDLED_SHEET",
        "",
        tests=("tests/e2e/test_zoo_cli.py",),
    ),
    Mutation(
        "bundled: tells what is not known",
        "zoo/card.py",
        "if told else (),",
        "if not told else (),",
        tests=("tests/contract/test_zoo.py",),
    ),
    Mutation(
        "start: sampling imports training",
        "app/cli.py",
        "    from undiffuse.app import models, sampling\n",
        "    from undiffuse.app import models, sampling, training  # noqa\n",
        tests=("tests/e2e/test_cli_light.py",),
    ),
    Mutation(
        "tuning: a worse grid is kept",
        "samplers/tuned.py",
        "return self.tuned_error < self.named[self.best_named]",
        "return self.tuned_error < 2 * self.named[self.best_named]",
        tests=("tests/oracle/test_tuned_grids.py",),
    ),
    Mutation(
        "evaluation: guidance forgotten",
        "evaluation/subject.py",
        "guidance=protocol.guidance,",
        "guidance=None,",
        tests=("tests/e2e/test_evaluate.py",),
    ),
    Mutation(
        "mean flow: Euler instead of Heun",
        "losses/mean_flow.py",
        "    return (velocity + v(x_t - per_row(t - m, x_t) * velocity, m)) / 2",
        "    return velocity",
        tests=("tests/oracle/test_mean_flow.py",),
    ),
    Mutation(
        "mean flow: a part twice as long",
        "systems/mean_flow.py",
        "later - self.config.teacher_step * rng",
        "later - 2 * self.config.teacher_step * rng",
        tests=("tests/oracle/test_mean_flow.py",),
    ),
    Mutation(
        "mean flow: parts mixed up",
        "losses/mean_flow.py",
        "share = torch.where(m > s, ",
        "share = torch.where(m < s, ",
        tests=("tests/oracle/test_mean_flow.py",),
    ),
    Mutation(
        "average: batch norms of the newest weights",
        "training/ema.py",
        "mine.lerp_(its, weight)",
        "mine.copy_(its)",
        tests=("tests/e2e/test_training_learns.py",),
    ),
    Mutation(
        "game: nobody wins",
        "doctor/game.py",
        'if signs and means["r_t"] > _WON',
        'if signs and means["r_t"] > 2',
        tests=("tests/oracle/test_doctor_game.py",),
    ),
    Mutation(
        "shards: gradients of the first alone",
        "compute/shards.py",
        "        torch._foreach_add_(totals, other)",
        "        pass",
        tests=("tests/contract/test_shards.py",),
    ),
    Mutation(
        "blocks: always the fewest rows",
        "systems/blocks.py",
        "return min(max(rows, _FEWEST), _MOST)",
        "return _FEWEST",
        tests=("tests/contract/test_compute.py",),
    ),
    Mutation(
        "compile: though our norms are faster",
        "compute/shards.py",
        'return precision == "bf16" and on_cpu and normed and can_shard(network) and own_norms()',
        "return False",
        tests=("tests/contract/test_compute.py",),
    ),
    Mutation(
        "compile: passed over in float32 too",
        "compute/shards.py",
        'return precision == "bf16" and on_cpu',
        "return on_cpu",
        tests=("tests/contract/test_compute.py",),
    ),
    Mutation(
        "compile: passed over without norms too",
        "compute/shards.py",
        "on_cpu and normed and can_shard",
        "on_cpu and can_shard",
        tests=("tests/contract/test_compute.py",),
    ),
    Mutation(
        "fused: gradients of a shared weight not summed",
        "compute/fused.py",
        "to_weight, to_bias = to_weight.sum(0), to_bias.sum(0)",
        "to_weight, to_bias = to_weight[0], to_bias[0]",
        tests=("tests/contract/test_fused.py",),
    ),
    Mutation(
        "fused: what is told is forgotten",
        "compute/fused.py",
        "None if told is None else told.float())",
        "None)",
        tests=("tests/contract/test_fused.py",),
    ),
    Mutation(
        "fused: taken without leave",
        "compute/fused.py",
        'return not torch.compiler.is_compiling() and getattr(_CALLER, "at_hand", False)',
        "return not torch.compiler.is_compiling()",
        tests=("tests/contract/test_fused.py",),
    ),
    Mutation(
        "fused: its switch does nothing",
        "compute/fused.py",
        'chosen().fused == "auto" and ',
        "",
        tests=("tests/contract/test_fused.py",),
    ),
    Mutation(
        "fused: leave given for good",
        "compute/fused.py",
        "        _CALLER.at_hand = before\n",
        "        pass\n",
        tests=("tests/contract/test_fused.py",),
    ),
    Mutation(
        "fused: float32 networks too",
        "compute/fused.py",
        "return half and torch.get_num_threads()",
        "return torch.get_num_threads()",
        tests=("tests/contract/test_fused.py",),
    ),
    Mutation(
        "fused: beside torch's own threads",
        "compute/fused.py",
        "half and torch.get_num_threads() == 1 and",
        "half and",
        tests=("tests/contract/test_fused.py",),
    ),
    Mutation(
        "kernel: variance about zero",
        "compute/native/norm.cpp",
        "squares / shape.count() - centre * centre",
        "squares / shape.count()",
        tests=("tests/contract/test_fused.py",),
    ),
    Mutation(
        "kernel: told once, not for each pixel",
        "compute/native/norm.cpp",
        "(2 * sums.of(0, c) + origin * double(shape.pixels))",
        "(2 * sums.of(0, c) + origin)",
        tests=("tests/contract/test_fused.py",),
    ),
    Mutation(
        "kernel: sums of the values themselves",
        "compute/native/norm.cpp",
        "const F one = load<F>(x + p * channels + c) - origin, other = load<F>(x + (p + 1) * channels + c) - origin;",
        "const F one = load<F>(x + p * channels + c), other = load<F>(x + (p + 1) * channels + c);",
        tests=("tests/contract/test_fused.py",),
    ),
    Mutation(
        "kernel: SiLU's slope without its second term",
        "compute/native/norm.cpp",
        "dz *= s * (1.0f + z * (1.0f - s));",
        "dz *= s;",
        tests=("tests/contract/test_fused.py",),
    ),
    Mutation(
        "kernel: the mean's gradient forgotten",
        "compute/native/norm.cpp",
        "of_one = -double(rstd[g]) * mean_dz;",
        "of_one = 0;",
        tests=("tests/contract/test_fused.py",),
    ),
    Mutation(
        "kernel: the variance's gradient forgotten",
        "compute/native/norm.cpp",
        "const double of_d = -double(rstd[g]) * rstd[g] * mean_both,",
        "const double of_d = 0,",
        tests=("tests/contract/test_fused.py",),
    ),
    Mutation(
        "kernel: exp without its last term",
        "compute/native/norm.cpp",
        "F p = r * (1.0f / 720.0f) + 1.0f / 120.0f;",
        "F p = F{} + 1.0f / 120.0f;",
        tests=("tests/contract/test_fused.py",),
    ),
    Mutation(
        "kernel: exp unbounded",
        "compute/native/norm.cpp",
        "  x = x > 88.0f ? F{} + 88.0f : x;\n",
        "",
        tests=("tests/contract/test_fused.py",),
    ),
    Mutation(
        "kernel: bfloat16 cut off",
        "compute/native/norm.cpp",
        "return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;",
        "return bits >> 16;",
        tests=("tests/contract/test_fused.py",),
    ),
    Mutation(
        "kernel: the channels left over forgotten",
        "compute/native/norm.cpp",
        "  for (; c < channels; ++c) work(c, 0.0f);\n",
        "",
        tests=("tests/contract/test_fused.py",),
    ),
    Mutation(
        "game: data and samples swapped",
        "systems/distribution_matching.py",
        "_GAME.discriminator(real, fake)",
        "_GAME.discriminator(fake, real)",
        tests=("tests/oracle/test_matching_game.py",),
    ),
    Mutation(
        "game: data shown without noise",
        "systems/distribution_matching.py",
        'data = self.process.diffuse(batch.x_0, rng.normal(batch.x_0, "eps data"), t)',
        "data = batch.x_0",
        tests=("tests/oracle/test_matching_game.py",),
    ),
    Mutation(
        "game: the student plays for being found out",
        "systems/distribution_matching.py",
        "passing = _GAME.generator(torch.zeros_like(fake), fake)",
        "passing = _GAME.generator(torch.zeros_like(fake), -fake)",
        tests=("tests/oracle/test_matching_game.py",),
    ),
    Mutation(
        "game: the judge's weight for the student's",
        "systems/distribution_matching.py",
        "rows + self.config.game.student * passing",
        "rows + self.config.game.judge * passing",
        tests=("tests/oracle/test_matching_game.py",),
    ),
    Mutation(
        "game: nobody teaches the judge",
        "systems/distribution_matching.py",
        "networks = [self.network] if phase == STUDENT else [self._fake_network, self._head.network]",
        "networks = [self.network] if phase == STUDENT else [self._fake_network]",
        tests=("tests/oracle/test_matching_game.py",),
    ),
    Mutation(
        "game: the judge is told no classes",
        "systems/distribution_matching.py",
        "return self._denoiser_of(judge).output(x_t, t, cond)",
        "return self._denoiser_of(judge).output(x_t, t, Condition())",
        tests=("tests/oracle/test_matching_game.py",),
    ),
    Mutation(
        "game: the student's turn teaches the judge",
        "systems/distribution_matching.py",
        "parameter.requires_grad_(phase == FAKE_SCORE)",
        "parameter.requires_grad_(True)",
        tests=("tests/oracle/test_matching_game.py",),
    ),
    Mutation(
        "fused: the way up not laid out",
        "networks/unet.py",
        "torch.cat([laid_out(h), skips.pop()], dim=1)",
        "torch.cat([h, skips.pop()], dim=1)",
        tests=("tests/contract/test_fused.py",),
    ),
    Mutation(
        "fused: joins not laid out",
        "networks/unet.py",
        "outputs.append(laid_out(h))",
        "outputs.append(h)",
        tests=("tests/contract/test_fused.py",),
    ),
    Mutation(
        "kernels: a library cut short is taken",
        "compute/native/build.py",
        "    if _is_whole(path):",
        "    if path.is_file():",
        tests=("tests/contract/test_fused.py",),
    ),
]


def mutated(mutation: Mutation, package: Path) -> str:
    """The file's text with the formula broken.

    Raises:
        LookupError: the formula does not stand there exactly once: the list has to follow the code.
    """
    text = (package / mutation.file).read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        raise LookupError(
            f"{mutation.name}: {mutation.old!r} stands {text.count(mutation.old)} times in {mutation.file}"
        )
    return text.replace(mutation.old, mutation.new)


def run_tests(source: Path, tests: list[str]) -> str | None:
    """The name of the first test that fails with the package of ``source``; None if all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return None
    failed = [line for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if not failed:
        raise RuntimeError(f"pytest did not run:\n{result.stdout}\n{result.stderr}")
    return failed[0].split(" - ")[0].split("::", 1)[-1].strip()


def is_first_on_the_path(source: Path) -> bool:
    """Would the tests import the copy?"""
    command = [sys.executable, "-c", "import undiffuse; print(undiffuse.__file__)"]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    return Path(found.strip()).is_relative_to(source)


def check(mutations: list[Mutation]) -> dict[str, str | None]:
    """Name of each mutation -> the test that noticed it, or None."""
    noticed: dict[str, str | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder).resolve() / "src"
        package = source / "undiffuse"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        if not is_first_on_the_path(source):
            raise RuntimeError("the copy would not be the package that the tests import")
        for mutation in mutations:
            started, file = time.perf_counter(), package / mutation.file
            original = file.read_text(encoding="utf-8")
            file.write_text(mutated(mutation, package), encoding="utf-8")
            noticed[mutation.name] = run_tests(source, tests_of(mutation))
            file.write_text(original, encoding="utf-8")
            report(mutation, noticed[mutation.name], time.perf_counter() - started)
    return noticed


def tests_of(mutation: Mutation) -> list[str]:
    """Its own, or those of the nearest folder above the file that has any."""
    if mutation.tests:
        return list(mutation.tests)
    return next(TESTS[str(folder)] for folder in Path(mutation.file).parents if str(folder) in TESTS)


def report(mutation: Mutation, by: str | None, seconds: float) -> None:
    """One line of the table."""
    verdict = "killed  " if by else "SURVIVED"
    print(f"{verdict}  {mutation.file:26s}  {mutation.name:44s}  {seconds:5.1f} s  {by or ''}", flush=True)


def main() -> int:
    """Check the mutations whose name contains one of the words given, or all."""
    words = sys.argv[1:]
    chosen = [m for m in MUTATIONS if not words or any(word in m.name for word in words)]
    noticed = check(chosen)
    survivors = [name for name, by in noticed.items() if by is None]
    print(f"{len(noticed) - len(survivors)} of {len(noticed)} mutations killed; survived: {survivors or 'none'}")
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main())

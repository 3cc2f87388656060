"""The sampling options, each defined once with its type, validation, documentation and names.

Command-line flags, Python keywords, the entries of ``config.json``, ``samples.json`` and results, and the reference
pages are derived from these definitions (ADR 0052): a new option needs a field, its use and its test. Does not import
torch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import AfterValidator, BeforeValidator, ConfigDict, ValidationError

from undiffuse.config import FrozenModel, short_repr
from undiffuse.core.limits import (
    ALL_LOG_SNRS,
    check_autoguidance_weight,
    check_cache_interval,
    check_classifier_scale,
    check_classifier_through,
    check_guidance_norm,
    check_guidance_parallel,
    check_guidance_rescale,
    check_guidance_weight,
    check_interval,
    check_num_steps,
    check_strength,
    check_temperature,
    check_threshold,
)
from undiffuse.errors import KeywordError, UsageError
from undiffuse.registry import nearest

#: (smallest, largest) log-SNR.
LogSNRInterval = tuple[float, float]


@dataclass(frozen=True)
class Option:
    """Annotation of a field that a request may set.

    Args:
        help: one-line description for the command line, Python and the reference page.
        name: name of the flag, the keyword and the record; the field's name by default.
        kind: kind of registry entry that the value names, such as ``sampler``; empty for other values.
        title: title of the model's default in the summary of a report; empty to leave it out.
        template: format string for the page of a result, such as ``temperature {}``; empty to leave it out.
        of_image: whether it concerns initial images, which evaluation does not use.
        earlier: name of the flag and the keyword in earlier versions, still accepted and used in records (ADR 0061).
        default: value in a record if neither the request nor the model specifies it; the field's default if omitted.
    """

    help: str
    name: str = ""
    kind: str = ""
    title: str = ""
    template: str = ""
    of_image: bool = False
    earlier: str = ""
    default: Any = ...


class GuidanceWeight(NamedTuple):
    """A guidance weight, 1 for none, and the (smallest, largest) log-SNR at which it is applied."""

    scale: float = 1.0
    interval: LogSNRInterval = ALL_LOG_SNRS


class SamplingConfig(FrozenModel):
    """A model's sampling defaults, which are saved in ``config.json``.

    Args:
        sampler: ``name`` or ``name:option=value``.
        num_steps: number of steps of the time grid.
        grid: an entry of ``GRIDS``, with options after a colon; ``through:knots=...`` is a grid tuned for this model.
        clip_x_0: clip x_0-hat of images to [-1, 1]; points are never clipped.
        temperature: factor of the initial noise of sampling; training always uses 1.
        guidance: weight of classifier-free guidance; 1 for none.
        guidance_interval: (smallest, largest) log-SNR at which guidance is applied; everywhere by default.
        autoguidance: weight of guidance by an earlier, weaker state of the model; 1 for none.
        autoguidance_interval: (smallest, largest) log-SNR at which autoguidance is applied; everywhere by default.
    """

    sampler: Annotated[
        str,
        Option(
            "such as heun or ddim:eta=0.5; the model's default if unset",
            kind="sampler",
            title="Sampler",
            template="{}",
            default=None,
        ),
    ] = "heun"
    num_steps: Annotated[
        int,
        AfterValidator(check_num_steps),
        Option("number of steps of the time grid", name="steps", title="Sampling steps", default=None),
    ] = 10
    grid: Annotated[
        str,
        Option(
            "time grid: uniform, quadratic, log_snr, angle, karras or karras:rho=5",
            kind="time grid",
            default=None,
        ),
    ] = "log_snr"
    clip_x_0: bool = True
    temperature: Annotated[
        float,
        AfterValidator(check_temperature),
        Option(
            "scale of the initial noise, such as 0.9: more typical, less diverse; at 0 all seeds start from the same "
            "latent; the model's default if unset",
            title="Temperature",
            template="temperature {}",
        ),
    ] = 1.0
    guidance: Annotated[
        float,
        AfterValidator(check_guidance_weight),
        Option("weight of classifier-free guidance, such as 2; 1 for none; for models with classes"),
    ] = 1.0
    guidance_interval: Annotated[
        Annotated[LogSNRInterval, AfterValidator(check_interval)] | None,
        Option("range of log-SNRs with guidance, such as -3,4; all by default"),
    ] = None
    autoguidance: Annotated[
        float,
        AfterValidator(check_autoguidance_weight),
        Option(
            "weight of guidance by an early state of the model, such as 2; 1 for none; for models that stored one",
            title="Autoguidance",
        ),
    ] = 1.0
    autoguidance_interval: Annotated[
        Annotated[LogSNRInterval, AfterValidator(check_interval)] | None,
        Option("range of log-SNRs with autoguidance, such as -inf,2; all by default"),
    ] = None

    def classifier_free(self) -> GuidanceWeight:
        """The classifier-free guidance."""
        return GuidanceWeight(self.guidance, self.guidance_interval or ALL_LOG_SNRS)

    def auto(self) -> GuidanceWeight:
        """The autoguidance."""
        return GuidanceWeight(self.autoguidance, self.autoguidance_interval or ALL_LOG_SNRS)


def _path_as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


class SamplingOptions(SamplingConfig):
    """The options of a request; the model's defaults are used for those that are not given.

    Args:
        process: sample under another process than in training, ``name`` or ``name:option=value``.
        strength: noise level at which sampling starts from an image, from 0 (the image) to 1 (noise): the fraction of
            the grid's steps that is taken.
        cache_interval: interval in steps between full evaluations of the network, see ``samplers.feature_caching``.
        guidance_rescale, guidance_parallel, guidance_norm: see ``guidance.refinement``.
        threshold: of x_0-hat of images, see ``guidance.thresholding``; by default ``static`` if the model clips.
        classifier: folder of a classifier of noisy data that guides to the class, see ``guidance.classifier``.
        classifier_scale: weight of its gradient, 0 for none.
        classifier_through: where the gradient comes from, ``x_t`` or ``x_0``.
    """

    model_config = ConfigDict(allow_inf_nan=True)  # intervals may be infinite; the validators check other values

    process: Annotated[
        str | None,
        Option(
            "sample under another process, ve, ve:sigma_max=80, ...; the model's process by default",
            kind="process",
            default="the model's own",
        ),
    ] = None
    strength: Annotated[
        float,
        AfterValidator(check_strength),
        Option(
            "noise level at which sampling starts from --image, from 0 (the image) to 1 (noise)",
            template="strength {}",
            of_image=True,
        ),
    ] = 1.0
    cache_interval: Annotated[
        int,
        AfterValidator(check_cache_interval),
        Option("evaluate a U-Net's coarse levels every N steps only: faster, but approximate", earlier="reuse"),
    ] = 1
    guidance_rescale: Annotated[
        float,
        AfterValidator(check_guidance_rescale),
        Option("how far guided x_0-hat returns to its contrast without guidance, such as 0.7; 0 for none"),
    ] = 0.0
    guidance_parallel: Annotated[
        float,
        AfterValidator(check_guidance_parallel),
        Option("factor of the guidance parallel to x_0-hat, such as 0 against saturation; 1 for plain guidance"),
    ] = 1.0
    guidance_norm: Annotated[
        float,
        AfterValidator(check_guidance_norm),
        Option("largest root mean square of a guidance difference, such as 0.1; no limit by default", default=None),
    ] = math.inf
    threshold: Annotated[
        Annotated[str, AfterValidator(check_threshold)] | None,
        Option("threshold of x_0-hat of images: none, static, dynamic or dynamic:0.99; the model's default if unset"),
    ] = None
    classifier: Annotated[
        str | None,
        BeforeValidator(_path_as_text),
        Option("folder of a classifier of noisy data that guides to the class; for models without classes too"),
    ] = None
    classifier_scale: Annotated[
        float,
        AfterValidator(check_classifier_scale),
        Option("weight of the guidance by --classifier, such as 2; 0 for none"),
    ] = 1.0
    classifier_through: Annotated[
        str,
        AfterValidator(check_classifier_through),
        Option("input of --classifier: x_t, or x_0 for x_0-hat with the gradient through the model"),
    ] = "x_t"
    renamed_keys: ClassVar = {"reuse": "cache_interval"}  # data

    @classmethod
    def of(cls, **options: Any) -> SamplingOptions:
        """Create options from keywords; ``None`` leaves an option to the model's default.

        Args:
            **options: options by their current or earlier names.
        Raises:
            UsageError: if a name is unknown or a value is invalid.
        """
        known, options = option_rows(), _with_current_names(options)
        for name in options:
            if name not in known:
                raise KeywordError(f"sampling has no option {name!r}; {nearest(name, known)}")
        fields = {known[name].field: value for name, value in options.items() if value is not None}
        try:
            return cls(**fields)
        except ValidationError as error:
            raise UsageError(_explained(error)) from None

    def given(self) -> dict[str, Any]:
        """The options that were specified explicitly, by name."""
        rows = option_rows().items()
        return {name: getattr(self, row.field) for name, row in rows if row.field in self.model_fields_set}

    def given_as_json(self) -> dict[str, Any]:
        """The same as plain values, by the keys of records."""
        return {option_rows()[name].key: as_json(value) for name, value in self.given().items()}

    def over(self, defaults: SamplingConfig) -> SamplingOptions:
        """``defaults`` updated with the options that were specified explicitly."""
        base = defaults if isinstance(defaults, SamplingOptions) else SamplingOptions(**dict(defaults))
        return base.model_copy(update={field: getattr(self, field) for field in self.model_fields_set})

    def record(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """The values of all options, for ``samples.json``.

        Args:
            defaults: the model's defaults, see ``sampling_record``.
        """
        values = {row.key: row.default for row in option_rows().values()}
        values |= {row.key: defaults[row.key] for row in option_rows().values() if row.saved and row.key in defaults}
        values |= self.given_as_json()
        if values["autoguidance"] == 1:
            values["autoguidance_interval"] = None  # it has no effect
        return values


#: Options that leave everything to the model's defaults.
NO_OPTIONS = SamplingOptions()


class OptionRow(NamedTuple):
    """Description of an option for other packages.

    Attributes:
        field: name of the field in ``SamplingOptions``.
        key: key in records.
        option: the annotation of the field.
        type: type of the value: ``str``, ``int``, ``float`` or ``LogSNRInterval``.
        saved: whether models have a default for it in ``config.json``.
        default: see ``Option``.
    """

    field: str
    key: str
    option: Option
    type: Any
    saved: bool
    default: Any


@cache
def option_rows() -> dict[str, OptionRow]:
    """Every option that a request may set, by its name."""
    rows = {}
    for field, info in SamplingOptions.model_fields.items():
        for option in (item for item in info.metadata if isinstance(item, Option)):
            default = info.default if option.default is ... else option.default
            saved = field in SamplingConfig.model_fields
            name = option.name or field
            rows[name] = OptionRow(field, option.earlier or name, option, _type_of(info.annotation), saved, default)
    return rows


def sampling_record(sampling: SamplingConfig) -> dict[str, Any]:
    """A model's sampling defaults by the keys of records, without options that have no effect."""
    values = [(row, getattr(sampling, row.field)) for row in option_rows().values() if row.saved]
    return {row.key: as_json(value) for row, value in values if value != row.default}


@cache
def earlier_names() -> dict[str, str]:
    """Earlier names of options -> current names."""
    return {row.option.earlier: name for name, row in option_rows().items() if row.option.earlier}


def _with_current_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their current names.

    Raises:
        UsageError: if an option is given by both names.
    """
    for old, new in earlier_names().items():
        if options.get(old) is not None and options.get(new) is not None:
            raise UsageError(f"{old} is the earlier name of {new}; give it once, as {new}")
    renamed = {new: options[old] for old, new in earlier_names().items() if options.get(old) is not None}
    return {name: value for name, value in options.items() if name not in earlier_names()} | renamed


def as_json(value: Any) -> Any:
    """Convert a value for JSON: an interval becomes a text such as ``-3,inf``, since JSON has no infinity."""
    return ",".join(map(_exact, value)) if isinstance(value, tuple) else value


def _exact(number: float) -> str:
    """The shortest text that parses to the same number."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(float(number))


def _type_of(annotation: Any) -> Any:
    """The plain type within ``Annotated`` and ``| None``."""
    inner = [argument for argument in getattr(annotation, "__args__", ()) if argument is not type(None)]
    plain = annotation in (str, int, float, LogSNRInterval) or not inner
    return annotation if plain else _type_of(inner[0])


def _explained(error: ValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "value_error":  # a message of our validators, which includes the received value
        return str(first["ctx"]["error"])
    name = next(name for name, row in option_rows().items() if row.field == first["loc"][0])
    return f"{name}: {first['msg']}, got {short_repr(first['input'])}"

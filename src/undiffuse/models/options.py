"""The options of sampling, each stated once: what it may hold, what it means, how it is given.

The flags of the command line, the keywords of Python, what ``config.json`` keeps of a model, what ``samples.json`` and
results say, and the reference pages follow from here (ADR 0052): a new option is a field, its use and its test.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import AfterValidator, ConfigDict, ValidationError

from undiffuse.config import FrozenModel, short_repr
from undiffuse.core.limits import (
    ALL_LOG_SNRS,
    check_autoguidance_weight,
    check_cache_interval,
    check_guidance_weight,
    check_interval,
    check_num_steps,
    check_strength,
    check_temperature,
)
from undiffuse.errors import KeywordError, UsageError
from undiffuse.registry import nearest

#: (smallest, largest) log-SNR.
LogSNRInterval = tuple[float, float]


@dataclass(frozen=True)
class Option:
    """Marks a field that a request may set, and says how.

    Args:
        help: a line for the command line, Python and the reference page.
        name: of the flag, the keyword and the record, where the field has another.
        kind: of the rows that its text names, such as ``sampler``; empty for what is no name.
        title: under which a report lists a model's own at a glance; empty where it does not.
        words: how a result's page mentions it, such as ``temperature {}``; empty for not at all.
        of_image: whether it is of an image to begin from, which measuring has none of.
        earlier: name of the flag and the keyword in earlier versions, still read; in records it stays (ADR 0061).
        default: what a record has where neither the request nor the model gives it; the field's default if left out.
    """

    help: str
    name: str = ""
    kind: str = ""
    title: str = ""
    words: str = ""
    of_image: bool = False
    earlier: str = ""
    default: Any = ...


class GuidanceWeight(NamedTuple):
    """A weight, of which 1 is none, and the (smallest, largest) log-SNR within which it is at work."""

    scale: float = 1.0
    interval: LogSNRInterval = ALL_LOG_SNRS


class SamplingConfig(FrozenModel):
    """A model's defaults of sampling: the options that ``config.json`` keeps.

    Args:
        sampler: ``name`` or ``name:option=value``.
        num_steps: of the time grid.
        grid: a row of ``GRIDS``, with options after a colon; ``through:knots=...`` is one tuned for this model.
        clip_x_0: clip each x_0-hat of an image to [-1, 1]; points are never clipped.
        temperature: the noise that sampling begins with is multiplied by it; training always has 1.
        guidance: weight of classifier-free guidance; 1 is none.
        guidance_interval: (smallest, largest) log-SNR that is guided; everywhere by default.
        autoguidance: weight of guidance by the worse model that training kept; 1 is none.
        autoguidance_interval: (smallest, largest) log-SNR that it guides; everywhere by default.
    """

    sampler: Annotated[
        str,
        Option(
            "such as heun or ddim:eta=0.5; the model's own by default",
            kind="sampler",
            title="Sampler",
            words="{}",
            default=None,
        ),
    ] = "heun"
    num_steps: Annotated[
        int,
        AfterValidator(check_num_steps),
        Option("steps of the time grid", name="steps", title="Sampling steps", default=None),
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
            words="temperature {}",
        ),
    ] = 1.0
    guidance: Annotated[
        float,
        AfterValidator(check_guidance_weight),
        Option("classifier-free guidance, such as 2; 1 is none; for models with classes"),
    ] = 1.0
    guidance_interval: Annotated[
        Annotated[LogSNRInterval, AfterValidator(check_interval)] | None,
        Option("log-SNRs that are guided, such as -3,4; all by default"),
    ] = None
    autoguidance: Annotated[
        float,
        AfterValidator(check_autoguidance_weight),
        Option(
            "guidance by an early state of the model, such as 2; 1 is none; for models that kept one",
            title="Autoguidance",
        ),
    ] = 1.0
    autoguidance_interval: Annotated[
        Annotated[LogSNRInterval, AfterValidator(check_interval)] | None,
        Option("log-SNRs that are autoguided, such as -inf,2; all by default"),
    ] = None

    def classifier_free(self) -> GuidanceWeight:
        """The classifier-free guidance."""
        return GuidanceWeight(self.guidance, self.guidance_interval or ALL_LOG_SNRS)

    def auto(self) -> GuidanceWeight:
        """The guidance by the model's own guide."""
        return GuidanceWeight(self.autoguidance, self.autoguidance_interval or ALL_LOG_SNRS)


class SamplingOptions(SamplingConfig):
    """The options that a request gives; the model's defaults take the place of the others.

    Args:
        process: sample under another one than the model was trained under, ``name`` or ``name:option=value``.
        strength: how far from an image sampling begins, from 0, the image itself, to 1, noise alone: the last so large
            a share of the grid's steps is taken.
        cache_interval: evaluate the whole network every so many steps only, see ``samplers.feature_caching``.
    """

    model_config = ConfigDict(allow_inf_nan=True)  # an interval may have no end; the checks see to the rest

    process: Annotated[
        str | None,
        Option(
            "sample under another process, ve, ve:sigma_max=80, ...; the model's own by default",
            kind="process",
            default="the model's own",
        ),
    ] = None
    strength: Annotated[
        float,
        AfterValidator(check_strength),
        Option(
            "how far from --image to begin, from 0, the image itself, to 1, noise alone",
            words="strength {}",
            of_image=True,
        ),
    ] = 1.0
    cache_interval: Annotated[
        int,
        AfterValidator(check_cache_interval),
        Option("evaluate a U-Net's coarse levels every so many steps only: faster, not the same", earlier="reuse"),
    ] = 1
    renamed_keys: ClassVar = {"reuse": "cache_interval"}  # data

    @classmethod
    def of(cls, **options: Any) -> SamplingOptions:
        """The options that are given, by the names they are given with; ``None`` leaves one to the model.

        Args:
            **options: by their names now or in earlier versions.
        Raises:
            UsageError: an unknown name, or a value that an option cannot have.
        """
        known, options = option_rows(), _named_now(options)
        for name in options:
            if name not in known:
                raise KeywordError(f"sampling has no option {name!r}; {nearest(name, known)}")
        fields = {known[name].field: value for name, value in options.items() if value is not None}
        try:
            return cls(**fields)
        except ValidationError as error:
            raise UsageError(_explained(error)) from None

    def given(self) -> dict[str, Any]:
        """The options that this request gives, by the names they are given with."""
        rows = option_rows().items()
        return {name: getattr(self, row.field) for name, row in rows if row.field in self.model_fields_set}

    def given_as_json(self) -> dict[str, Any]:
        """The same as records have it: plain values by the keys of files."""
        return {option_rows()[name].key: as_json(value) for name, value in self.given().items()}

    def over(self, own: SamplingConfig) -> SamplingOptions:
        """``own`` with the options that this request gives in their place."""
        base = own if isinstance(own, SamplingOptions) else SamplingOptions(**dict(own))
        return base.model_copy(update={field: getattr(self, field) for field in self.model_fields_set})

    def record(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Every option with what it was, as ``samples.json`` has it.

        Args:
            own: the model's own options, see ``sampling_record``.
        """
        found = {row.key: row.default for row in option_rows().values()}
        found |= {row.key: own[row.key] for row in option_rows().values() if row.kept and row.key in own}
        found |= self.given_as_json()
        if found["autoguidance"] == 1:
            found["autoguidance_interval"] = None  # it has no effect
        return found


#: A request that leaves all to the model.
NO_OPTIONS = SamplingOptions()


class OptionRow(NamedTuple):
    """An option as the rooms above see it.

    Attributes:
        field: its name in the model.
        key: its name in records.
        option: see there.
        type: of its value: ``str``, ``int``, ``float`` or ``LogSNRInterval``.
        kept: whether a model has its own.
        default: see ``Option``.
    """

    field: str
    key: str
    option: Option
    type: Any
    kept: bool
    default: Any


@cache
def option_rows() -> dict[str, OptionRow]:
    """Every option that a request may set, by the name it is given with."""
    rows = {}
    for field, info in SamplingOptions.model_fields.items():
        for option in (one for one in info.metadata if isinstance(one, Option)):
            default = info.default if option.default is ... else option.default
            kept = field in SamplingConfig.model_fields
            name = option.name or field
            rows[name] = OptionRow(field, option.earlier or name, option, _type_of(info.annotation), kept, default)
    return rows


def sampling_record(sampling: SamplingConfig) -> dict[str, Any]:
    """A model's own options, by the keys of records, but for those that have no effect."""
    own = [(row, getattr(sampling, row.field)) for row in option_rows().values() if row.kept]
    return {row.key: as_json(value) for row, value in own if value != row.default}


@cache
def earlier_names() -> dict[str, str]:
    """Names that options had in earlier versions -> their names now."""
    return {row.option.earlier: name for name, row in option_rows().items() if row.option.earlier}


def _named_now(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their names now.

    Raises:
        UsageError: one under both of its names.
    """
    for old, new in earlier_names().items():
        if options.get(old) is not None and options.get(new) is not None:
            raise UsageError(f"{old} is the earlier name of {new}; give it once, as {new}")
    late = {new: options[old] for old, new in earlier_names().items() if options.get(old) is not None}
    return {name: value for name, value in options.items() if name not in earlier_names()} | late


def as_json(value: Any) -> Any:
    """A value as JSON has it: an interval is the text ``-3,inf``, for JSON knows no infinity."""
    return ",".join(map(_exact, value)) if isinstance(value, tuple) else value


def _exact(number: float) -> str:
    """The shortest text that is read as the same number."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(float(number))


def _type_of(annotation: Any) -> Any:
    """The plain type within ``Annotated`` and ``| None``."""
    inner = [one for one in getattr(annotation, "__args__", ()) if one is not type(None)]
    plain = annotation in (str, int, float, LogSNRInterval) or not inner
    return annotation if plain else _type_of(inner[0])


def _explained(error: ValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "value_error":  # our own message, which already says what was received
        return str(first["ctx"]["error"])
    name = next(name for name, row in option_rows().items() if row.field == first["loc"][0])
    return f"{name}: {first['msg']}, got {short_repr(first['input'])}"

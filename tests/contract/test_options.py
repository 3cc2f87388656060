"""An option of sampling is stated once; everything that says or shows it follows."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import undiffuse
from undiffuse.cli.checks import lines
from undiffuse.cli.checks.sampling_options import flags
from undiffuse.cli.main import main
from undiffuse.errors import UsageError, UsageWarning
from undiffuse.models.options import LogSNRInterval, SamplingConfig, SamplingOptions, option_rows, sampling_record
from undiffuse.models.saved import Model

OPTIONS = sorted(option_rows())
#: A value of each that is not the neutral one; of a new option by its type, unless it needs another.
MESSAGES: dict[str, Any] = {
    name: {float: 0.5, int: 2, str: "x"}.get(row.type) for name, row in option_rows().items()
} | {
    "sampler": "ddim:eta=0.5",
    "steps": 3,
    "grid": "uniform",
    "temperature": 0.9,
    "guidance": 2.0,
    "guidance_interval": (-3.0, float("inf")),
    "autoguidance": 1.5,
    "autoguidance_interval": (-float("inf"), 2.0),
    "process": "vp",
    "cache_interval": 2,
    "threshold": "dynamic:0.99",
    "strength": 0.4,
    "classifier_through": "x_0",
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_text_and_the_model_report_the_same_of_a_flag(name: str) -> None:
    row, flag = option_rows()[name], flags()[name]
    assert flag.type == (None if row.type == LogSNRInterval else row.type)
    assert (flag.kind, flag.help) == (row.option.kind, row.option.help)
    assert flags().keys() == option_rows().keys()


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_commands_that_sample_have_every_flag(command: str) -> None:
    table = json.loads(Path(lines.__file__).with_name("command_lines.json").read_text())
    known = {flag.option for flag in flags().values() if command == "sample" or not flag.of_image}
    assert known <= table[command]["options"].keys() and len(known) >= len(flags()) - 1


@pytest.mark.parametrize("name", OPTIONS)
def test_python_has_it_as_a_keyword_and_reports_what_it_is(name: str) -> None:
    keyword = inspect.signature(Model.sample).parameters[name]
    assert keyword.default is None and keyword.annotation == option_rows()[name].type | None
    assert option_rows()[name].option.help in " ".join((Model.sample.__doc__ or "").split())


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_reported_comes_before_the_model_s_own_and_is_on_record(name: str) -> None:
    field, requested = option_rows()[name].field, SamplingOptions.of(**{name: MESSAGES[name]})
    own = SamplingConfig(temperature=0.5, guidance=3.0)
    assert getattr(requested.over(own), field) == MESSAGES[name]
    others = {key for key in SamplingConfig.model_fields if key != field}
    assert all(getattr(requested.over(own), key) == getattr(own, key) for key in others)
    with_guide = requested.record({**sampling_record(own), "autoguidance": 1.5})
    said = {"guidance_interval": "-3,inf", "autoguidance_interval": "-inf,2"}.get(name, MESSAGES[name])
    key = option_rows()[name].key
    assert with_guide.keys() == {row.key for row in option_rows().values()} and with_guide[key] == said
    assert requested.given() == {name: MESSAGES[name]}
    json.dumps(with_guide, allow_nan=False)


def test_an_option_is_read_by_its_earlier_name_and_recorded_by_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Files, fingerprints and unfinished sample sets of earlier versions stay what they are."""
    now = SamplingOptions.of(cache_interval=2)
    assert SamplingOptions.of(reuse=2) == now == SamplingOptions.model_validate({"reuse": 2})  # data
    assert now.given_as_json() == {"reuse": 2} and now.given() == {"cache_interval": 2}  # data
    assert now.record({})["reuse"] == 2 and "cache_interval" not in now.record({})  # data
    with pytest.raises(UsageError, match="reuse is the earlier name of cache_interval; give it once"):  # data
        SamplingOptions.of(reuse=2, cache_interval=3)  # data
    model = undiffuse.load("mnist-1step")
    with pytest.warns(UsageWarning, match="'reuse' was renamed to 'cache_interval'"):  # data
        earlier = model.sample(1, reuse=1)  # type: ignore[call-arg]  # data
    assert torch.equal(earlier, model.sample(1, cache_interval=1))
    with pytest.raises(SystemExit):
        main(["sample", "mnist-1step", "--reuse", "0", "--out", "nowhere"])  # data
    assert "at least 1, got 0" in capsys.readouterr().err


def test_nothing_reported_leaves_everything_to_the_model() -> None:
    own = SamplingConfig(sampler="ddim", num_steps=7, grid="angle", temperature=0.5)
    requested = SamplingOptions.of(steps=None, guidance=None).over(own)
    assert {key: getattr(requested, key) for key in SamplingConfig.model_fields} == dict(own)
    record = SamplingOptions.of().record(sampling_record(own))
    assert record["sampler"] == "ddim" and record["steps"] == 7 and record["process"] == "the model's own"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"steps": 0}, "at least 1 step, got 0"),
        ({"steps": 2.5}, r"steps: .*integer.*got 2\.5"),
        ({"temperature": float("nan")}, "at least 0 and finite, got nan"),
        ({"guidance": -1}, "guidance must be at least 0 and finite, got -1"),
        ({"guidance_interval": (4, 3)}, "LO < HI, got 4,3"),
        ({"autoguidance": float("inf")}, "autoguidance must be at least 0 and finite, got inf"),
        ({"strength": 1.5}, r"from 0 \(the image itself\) to 1 \(pure noise\), got 1.5"),
        ({"cache_interval": 0}, "at least 1, got 0"),
        ({"sampler": 3}, "sampler: .*string, got 3"),
        ({"num_steps": 3}, "no option 'num_steps'; did you mean 'steps'"),
    ],
)
def test_a_senseless_value_is_one_line(said: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SamplingOptions.of(**said)


def test_a_value_is_rejected_the_same_way_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["sample", "mnist", "--guidance", "-1"])
    typed = capsys.readouterr().err
    with pytest.raises(UsageError) as rejected:
        undiffuse.load("mnist").sample(1, guidance=-1)
    assert stopped.value.code == 2 and typed.strip().endswith(str(rejected.value))


def test_options_need_no_torch() -> None:
    program = "import sys, undiffuse.models.options, undiffuse.models.keywords; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"

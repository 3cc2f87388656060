"""Studies: experiments that show what a model does and what the theory says, as pictures and numbers.

Listing them imports nothing. The rows of ``MODEL_STUDIES`` look at a trained model of pictures and share one command
line and one way of writing (``studies.pictures``); the other studies have a command of their own.
"""

from __future__ import annotations

from typing import NamedTuple


class ModelStudy(NamedTuple):
    """A study of a trained model of pictures.

    Attributes:
        summary: what it shows, in a line.
        run: ``module:function`` of ``(PictureSubject, options, folder, tell) -> list[Plate]``; writes the plates' PNGs
            into the folder, which exists, and calls ``tell(done, total)`` as it goes.
        options: ``module:Model`` of its options, a frozen pydantic model whose docstring says what each one is.
    """

    summary: str
    run: str
    options: str


MODEL_STUDIES: dict[str, ModelStudy] = {}

#: Name of a study and what it shows.
STUDIES = {
    "theory": "a model of points in the plane beside the exact truth: scores, paths, likelihood, samplers",
    "parameterization": "{posterior mean, x0, eps} x {variational, simple} x {beta, beta-tilde}, trained alike",
    **{name: study.summary for name, study in MODEL_STUDIES.items()},
}

"""Studies: experiments that show what the theory says, as pictures and numbers. Listing them imports nothing."""

from __future__ import annotations

#: Name of a study and what it shows.
STUDIES = {
    "theory": "a model of points in the plane beside the exact truth: scores, paths, likelihood, samplers",
    "parameterization": "{posterior mean, x0, eps} x {variational, simple} x {beta, beta-tilde}, trained alike",
}

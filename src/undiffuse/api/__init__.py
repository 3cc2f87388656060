"""Verbs: everything that undiffuse does, without a terminal.

Each prints nothing, returns what came of it, reports to an ``observer`` and ends early when its ``cancel`` says so; it
may be called in any thread. The command line, notebooks and servers stand on them.
"""

#: verb → where it is defined; each is a name of the package's front door as well
VERBS = {
    "train": "undiffuse.api.training:train",
    "distill": "undiffuse.api.distilling:distill",
    "sample": "undiffuse.api.sampling:sample",
    "evaluate": "undiffuse.api.evaluating:evaluate",
    "compare": "undiffuse.api.comparing:compare",
    "export": "undiffuse.api.exporting:export",
    "study": "undiffuse.api.studying:study",
    "report": "undiffuse.api.reporting:report",
    "doctor": "undiffuse.api.examining:doctor",
    "invert": "undiffuse.api.inverting:invert",
    "prepare": "undiffuse.api.datasets.preparing:prepare",
}

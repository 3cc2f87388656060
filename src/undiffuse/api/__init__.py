"""Verbs: the Python interface to everything that undiffuse does.

Each prints nothing, returns its result, reports progress to an ``observer`` and stops early when its ``cancel`` is
requested; it may be called in any thread. The command line, notebooks and servers use them.
"""

#: verb → its definition; all are exported by ``undiffuse``
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

"""The training objective of a loaded model, for computing its loss."""

from __future__ import annotations

from undiffuse.config import Component
from undiffuse.errors import UsageError
from undiffuse.models.files.components import MAIN, components_of
from undiffuse.models.saved import Model, config_of
from undiffuse.objectives import OBJECTIVE_CONFIGS
from undiffuse.objectives.base import AnyObjective, ObjectiveConfig


def objective_of(opened: Model) -> AnyObjective | None:
    """The objective that a model was trained with; None if it was not trained with undiffuse.

    Raises:
        UsageError: if the configurations of the loss and of the model do not match.
    """
    trained = opened.config["config"]["system"]
    if trained.get("name") not in OBJECTIVE_CONFIGS:
        return None
    config = Component(OBJECTIVE_CONFIGS, "system").pick(trained)
    assert isinstance(config, ObjectiveConfig)
    described = components_of(opened.config)[MAIN]
    if config.component() != config_of(described):
        raise UsageError(
            f"{opened.path}/config.json describes a model that config.system={config.name} does not train; restore an "
            "intact copy"
        )
    return config.around(opened.module)

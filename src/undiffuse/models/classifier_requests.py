"""Classes, texts and scales of requests for classifier guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from undiffuse.conditioning.base import Conditioner
from undiffuse.conditioning.prompt import Prompt
from undiffuse.conditioning.prompt_syntax import parse_prompt
from undiffuse.core.condition import Condition
from undiffuse.core.per_sample import PerSample
from undiffuse.errors import UsageError
from undiffuse.guidance.classifier import ClassifierWeights, NoisyClassifier, TextGuide
from undiffuse.models.options import SamplingOptions
from undiffuse.registry import nearest
from undiffuse.samplers.plan import Request

#: Key of classifier guidance in ``Rows.guidance``.
CLASSIFIER = "classifier"


def classifier_guidance(
    classifier: NoisyClassifier | None,
    conditioner: Conditioner | None,
    merged: Sequence[SamplingOptions],
    requests: Sequence[Request],
) -> Mapping[str, PerSample]:
    """Class and scale of each sample, for ``Rows.guidance``; empty without a classifier.

    Args:
        classifier: the loaded classifier; None for none.
        conditioner: the conditioner of the model, whose classes the labels of conditions refer to.
        merged: options of each sample.
        requests: one per sample.
    Raises:
        UsageError: an unknown class, or options that name a classifier that was not loaded.
    """
    if classifier is None:
        if any(options.classifier is not None for options in merged):
            raise UsageError(
                "the classifier named by the options is not loaded; sample with undiffuse.sample or Model.sample, or "
                "set SampleRequest.classifier"
            )
        return {}
    scales = torch.tensor([options.classifier_scale for options in merged], dtype=torch.float64)
    if isinstance(classifier, TextGuide):
        return {CLASSIFIER: _to_texts(classifier, requests, scales)}
    of_model = () if conditioner is None else conditioner.spec.class_names
    labels = [label_of(request, classifier.class_names, of_model) for request in requests]
    return {CLASSIFIER: ClassifierWeights(torch.tensor(labels, dtype=torch.int64), scales)}


def label_of(request: Request, class_names: Sequence[str], of_model: Sequence[str] = ()) -> int:
    """Index of the class of a request in ``class_names``; -1 if it has none.

    Args:
        request: a request whose prompt is a ``Prompt``, a ``Condition`` of one sample, or None.
        class_names: class names of the classifier.
        of_model: class names that the label of a condition refers to; those of the classifier if empty.
    Raises:
        UsageError: an unknown class.
    """
    prompt = request.prompt
    if isinstance(prompt, Condition):
        index = -1 if prompt.label is None else int(prompt.label)
        name = None if index < 0 else (of_model or class_names)[index]
    else:
        name = None if prompt is None else prompt.class_name
    if name is None:
        return -1
    if name not in class_names:
        raise UsageError(f"unknown class {name!r} of the classifier; {nearest(name, class_names)}")
    return list(class_names).index(name)


def guided_text(prompt: Prompt) -> str | None:
    """The text that a contrastive model guides to: the prompt, else the name of the class; None for neither.

    Args:
        prompt: prompt of a sample.
    """
    return prompt.text or prompt.class_name


def _to_texts(guide: TextGuide, requests: Sequence[Request], scales: torch.Tensor) -> ClassifierWeights:
    """Embeddings of the texts of samples: of a composition, the sum of those of its terms with their weights."""
    texts = [guided_text(request.prompt) if isinstance(request.prompt, Prompt) else None for request in requests]
    terms = [[] if text is None else parse_prompt(text) for text in texts]
    distinct = list(dict.fromkeys(term.text.text for row in terms for term in row)) or [""]
    known = dict(zip(distinct, guide.encode_texts(distinct).cpu(), strict=True))
    none = torch.zeros_like(known[distinct[0]])
    rows = [sum((term.weight * known[term.text.text] for term in row), none) for row in terms]
    given = torch.tensor([bool(row) for row in terms])
    return ClassifierWeights(None, torch.where(given, scales, 0.0), torch.stack(rows))


def without_unknown_prompts(requests: Sequence[Request], conditioner: Conditioner | None) -> Sequence[Request]:
    """The requests without classes and texts if the model has none and only the classifier knows them.

    Args:
        requests: one per sample.
        conditioner: the conditioner of the model.
    """
    if conditioner is None:
        return requests
    spec = conditioner.spec
    unknown = {} if spec.class_names else {"class_name": None}
    unknown |= {} if spec.text is not None else {"text": None}
    return [
        replace(request, prompt=replace(request.prompt, **unknown)) if isinstance(request.prompt, Prompt) else request
        for request in requests
    ]

"""Scores texts with the names of classes by a model for natural language inference.

The text is the premise, and a sentence with the name of a class is the hypothesis (Yin et al., 2019, arXiv:1909.00161).

Shapes: N texts, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...bulk.models import load_classifier
from ...command_line import UsageError
from ...command_line.progress import Progress
from ...conversion.source import Source
from .class_names import ClassNames

Array = npt.NDArray[Any]

_TEMPLATES = ("This text is about {}.", "The topic is {}.")
_AT_A_TIME = 32  # texts between two steps of the progress
_TINY = 1e-6


def entailments(name: str, texts: Sequence[str], classes: ClassNames, labels: Sequence[str], args: Any) -> Array:
    """Return the log-odds that texts entail the classes (2, N, C), in two wordings.

    Args:
        name: The model, a folder or a Hub id.
        texts: The texts.
        classes: The classes, with their descriptions.
        labels: The names of the classes, in order.
        args: The arguments of the training: the device, the batch size and whether to show progress.

    Raises:
        UsageError: If the model cannot be loaded, or is not made for natural language inference.
    """
    from transformers import ZeroShotClassificationPipeline

    try:
        model, tokenizer, _ = load_classifier(Source(name), str(args.device), "auto")
    except (OSError, ValueError) as error:
        raise UsageError(f"--zero_shot_model {name}: {error}") from error
    answers = [str(label) for label in (model.config.id2label or {}).values()]
    if not any(answer.lower().startswith("entail") for answer in answers):
        raise UsageError(
            f"--zero_shot_model {name} must be a model for natural language inference, with a label entailment, got "
            f"the labels {', '.join(answers)}."
        )
    classify: Any = ZeroShotClassificationPipeline(
        model=model, tokenizer=tokenizer, device=model.device, batch_size=args.per_device_eval_batch_size
    )
    named = [f"{label}: {said}" if (said := classes.descriptions[label]) else label for label in labels]
    scores = np.empty((len(_TEMPLATES), len(texts), len(labels)))
    show = args.process_index == 0 and not args.disable_tqdm
    with Progress("Scoring", len(_TEMPLATES) * len(texts), "text", show=show) as progress:
        for wording, template in zip(scores, _TEMPLATES, strict=True):
            for start in range(0, len(texts), _AT_A_TIME):
                part = [*texts[start : start + _AT_A_TIME]]
                found = classify(part, named, hypothesis_template=template, multi_label=True)
                for row, each in enumerate(found, start):
                    by_name = dict(zip(each["labels"], each["scores"], strict=True))
                    wording[row] = [by_name[one] for one in named]
                progress.update(len(part))
    scores = scores.clip(_TINY, 1 - _TINY)
    return np.asarray(np.log(scores) - np.log1p(-scores))

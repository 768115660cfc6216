"""The columns of the table of what works that are other libraries: pipelines, sentence-transformers and the Hub."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sequence_encoder.tests.fixtures.adaptation_runs import COLOURS
from sequence_encoder.tests.fixtures.forked_python import forked_python
from sequence_encoder.tests.fixtures.hub_client import HubClient
from sequence_encoder.tests.matrix import loaded_by_libraries
from sequence_encoder.tests.matrix.commands import TEXTS
from sequence_encoder.tests.matrix.kinds import HIDDEN
from sequence_encoder.tests.matrix.models import EXPORTED, WITHOUT_PACKAGE, Model, Workshop, auto_class


def pipeline(model: Model, shop: Workshop, work: Path) -> None:
    """`pipeline`, or `exported_pipeline`: labels are those of the model, scores are finite."""
    if not model.kind.pipeline:
        raise ValueError(
            "Transformers has no pipeline for multiple choice; call the model, or evaluate it with `adapt`."
        )
    if model.state in EXPORTED:
        from sequence_encoder import exported_pipeline

        found: Any = exported_pipeline(model.kind.pipeline, model.folder)(model.kind.inputs, **model.kind.options)
    else:
        kind = model.kind
        found = _call(model, "answers", kind.pipeline, str(model.folder), kind.inputs, kind.options)
    if model.kind.pipeline == "feature-extraction":
        assert np.asarray(found).shape[-1] == HIDDEN
        return
    if model.kind.pipeline == "zero-shot-classification":
        pairs = zip(found["labels"], found["scores"], strict=True)
        found = [{"label": label, "score": score} for label, score in pairs]
    answers = found if isinstance(found, list) else [found]
    assert all(math.isfinite(each["score"]) for each in answers if "score" in each)
    if model.kind.pipeline == "text-classification":
        assert {each["label"] for each in answers} <= set(model.labels)
    elif model.kind.options:
        assert answers
        assert {each["label"] for each in answers} <= {*COLOURS}


def sentence_transformer(model: Model, shop: Workshop, work: Path) -> None:
    """`SentenceTransformer`: the vectors are finite and have the size of the encoder."""
    vectors = np.asarray(_call(model, "vectors", str(model.folder), TEXTS))
    assert vectors.shape == (len(TEXTS), HIDDEN)
    assert np.isfinite(vectors).all()


def cross_encoder(model: Model, shop: Workshop, work: Path) -> str:
    """`CrossEncoder`: each pair has a score for each label."""
    if model.is_adapter:
        raise ValueError("CrossEncoder does not load adapters. `sequence-encoder convert` merges all but prompts.")
    pairs = [[TEXTS[0], TEXTS[1]], [TEXTS[0], TEXTS[2]]]
    try:
        scores = np.asarray(_call(model, "scores", str(model.folder), pairs))
    except RuntimeError as error:
        if "ignore_mismatched_sizes" in str(error):  # Transformers' type of error for weights of other shapes.
            raise ValueError(str(error)) from error
        raise
    assert scores.shape[0] == 2
    assert np.isfinite(scores).all()
    if model.kind.head != "ForSequenceClassification":
        return "`CrossEncoder` gives it a new head, which has to be trained."
    return ""


class Pushing:
    """Pushes models to a Hub, and loads them from it.

    Args:
        client: A process of a user.
    """

    def __init__(self, client: HubClient) -> None:
        self.client = client

    def __call__(self, model: Model, shop: Workshop, work: Path) -> None:
        """Push a model and load it: the outputs are the same."""
        name = f"user/{model.folder.parent.name}-{model.folder.name}"
        folder = str(model.folder)
        if model.is_adapter:
            raise ValueError(
                "The Hub refuses the card of an adapter whose base model is a folder; push the base model first, and "
                "train the adapter on its Hub id."
            )
        if model.state in EXPORTED:
            self.client.call("upload", folder, name)
        else:
            self.client.call("push", auto_class(model.kind), folder, name)
            self.client.call("push_tokenizer", folder, name)
        assert self.client.call("outputs_of", name) == self.client.call("outputs_of", folder)


def _call(model: Model, function: str, *arguments: Any) -> Any:
    """Call a function in this process, or in one without the package for a model that was saved without it."""
    if model.state != WITHOUT_PACKAGE:
        call: Callable[..., Any] = getattr(loaded_by_libraries, function)
        try:
            return call(*arguments)
        except OSError as error:
            if not model.is_adapter:
                raise
            raise ValueError(
                "The library looks for the encoder of the adapter in the working folder, and not next to the adapter. "
                "Load the adapter with peft, as its card shows."
            ) from error
    command = [forked_python(), loaded_by_libraries.__file__, json.dumps([function, *arguments])]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        kind, _, message = done.stderr.strip().splitlines()[-1].partition(": ")
        # With an `ImportError`, the code of a folder says which head it has.
        errors = {"ValueError": ValueError, "ImportError": ValueError, "OSError": OSError}
        raise errors.get(kind, RuntimeError)(message or done.stderr)
    return json.loads(done.stdout.splitlines()[-1])

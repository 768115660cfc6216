"""ERNIE 1.0, 2.0 and 3.0 (Sun et al., 2019, 2020, 2021): BERT, some with an embedding of the task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import PreTrainedConfig

from ..key_mapping import Rule
from .bert import BERT, classifier_dropout


def _read(config: PreTrainedConfig) -> dict[str, Any]:
    tasks = config.task_type_vocab_size if config.use_task_id else 0
    return {**classifier_dropout(config), "task_type_vocab_size": tasks}


def _write(config: PreTrainedConfig) -> dict[str, Any]:
    tasks = config.task_type_vocab_size
    return {"use_task_id": True, "task_type_vocab_size": tasks} if tasks else {"use_task_id": False}


ERNIE = replace(
    BERT,
    name="ernie",
    model_prefixes=("Ernie",),
    trunk=[*BERT.trunk, Rule("embeddings.tasks.weight", ("embeddings.task_type_embeddings.weight",))],
    read=_read,
    write=_write,
)

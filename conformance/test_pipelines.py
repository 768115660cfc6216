"""Transformers' tests of pipelines for every subject, with models that are saved and loaded as from the Hub."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from model_tester import EncoderTester
from pipeline_checks import TEXTS
from subjects import SUBJECTS, Subject, cases
from transformers import set_seed

from sequence_encoder import SequenceEncoderTokenizer

TASKS = {
    "feature-extraction": ("FeatureExtraction", "Model"),
    "fill-mask": ("FillMask", "ForMaskedLM"),
    "text-classification": ("TextClassification", "ForSequenceClassification"),
    "token-classification": ("TokenClassification", "ForTokenClassification"),
    "zero-shot": ("ZeroShot", "ForSequenceClassification"),
}

# When the mixin is imported, it reads the models and their tokenizers from this folder.
_folder = tempfile.TemporaryDirectory()
_summary = Path(_folder.name, "reports", "tiny_model_summary.json")
_architectures = {model_class.__name__ for subject in SUBJECTS for model_class in subject.classes.values()}
_summary.parent.mkdir()
_summary.write_text(
    json.dumps(
        {name: {"tokenizer_classes": ["PreTrainedTokenizerFast"], "processor_classes": []} for name in _architectures}
    )
)
os.environ["TRANSFORMERS_TINY_MODEL_PATH"] = _folder.name

from tests.test_pipeline_mixin import PipelineTesterMixin, pipeline_test_mapping  # noqa: E402

pipeline_test_mapping.update({task: {"test": f"pipeline_checks.{checks}"} for task, (checks, _) in TASKS.items()})


@functools.cache
def tokenizer() -> SequenceEncoderTokenizer:
    """Return the tokenizer that all subjects share."""
    return SequenceEncoderTokenizer.train_from_iterator(TEXTS * 2, vocab_size=99, show_progress=False)


class PipelineTests(PipelineTesterMixin):
    """The tests of a `subject`."""

    subject: Subject

    def setUp(self) -> None:
        """Create the tester, and map tasks to models."""
        self.model_tester = EncoderTester(self.subject)
        self.pipeline_model_mapping = {task: self.subject.classes[head] for task, (_, head) in TASKS.items()}

    def run_pipeline_test(self, task: str, repo_name: str, model_architecture: Any, **kwargs: Any) -> None:
        """Save the model of the subject, which the mixin loads and tests."""
        repo_name = f"{self.subject.name}-{task}"
        folder = Path(_folder.name, model_architecture.config_class.model_type, repo_name)
        set_seed(0)
        labels = {0: "contradiction", 1: "entailment"} if task == "zero-shot" else {0: "good", 1: "bad"}
        config = self.subject.make_config(id2label=labels, label2id={label: number for number, label in labels.items()})
        model_architecture(config).save_pretrained(folder)
        segments = ["token_type_ids"] if getattr(config, "type_vocab_size", 0) > 1 else []
        tokenizer().model_input_names = ["input_ids", "attention_mask", *segments]
        tokenizer().save_pretrained(folder)
        super().run_pipeline_test(task, repo_name, model_architecture, **kwargs)


globals().update(cases(PipelineTests, __name__))

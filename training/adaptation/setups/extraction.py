"""The setup of extraction: a head that is kept or new, labels drawn anew in each epoch, and thresholds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, EvalPrediction, PreTrainedTokenizerBase

from ....command_line import UsageError
from ....command_line.quiet import new_head
from ....configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ....configuration.span_extraction_field import span_extraction_fields
from ....modeling.heads.span_extraction import SequenceEncoderForSpanExtraction
from ...arguments import check_fixed
from ...extraction_trainer import ExtractionTrainer
from ..encoder import text_length
from ..report import Evaluation, Results
from ..run import Adaptation, AdaptationArguments
from ..tasks import EXTRACTION_TASKS, Extraction
from ..tasks.extraction import measured
from .batches import Draws
from .head import HeadSetup

# Tokens around labels, as in GLiNER.
_LABEL_TOKEN, _SEPARATOR = "<<ENT>>", "<<SEP>>"
# The default of --max_length: labels take a part of it.
_LENGTH = 512
# The dropout of a new head, and the factor of the planned learning rate: the encoder learns to read labels, too.
_DROPOUT, _RATE = 0.1, 3.0


class ExtractionSetup(HeadSetup):
    """The steps from examples to a model that finds spans for any labels; see `HeadSetup`."""

    task: Extraction
    trainer_class = ExtractionTrainer

    def __init__(self, run: Adaptation, examples: dict[str, Any]) -> None:
        check_fixed(run.args, label_smoothing_factor=0)
        if run.data.held_out_labels and run.args.metric_for_best_model is None:
            # A model that has learned its labels too well does not read others any more (Xian et al., 2017).
            run.args.metric_for_best_model, run.args.greater_is_better = "harmonic_f1", True
        super().__init__(run, examples)

    def _task(self) -> Extraction:
        data, task = self.run.data, EXTRACTION_TASKS[self.run.model.task]
        descriptions = cast("dict[str, str] | None", data.label_descriptions)
        return task(data, descriptions=descriptions, held_out=data.held_out_labels or ())

    def prepare(self, checkpoint: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """Tokenise the examples, with the tokens around labels, and put all labels before those of evaluations."""
        self.checkpoint, self.tokenizer = checkpoint, tokenizer
        config = AutoConfig.from_pretrained(checkpoint)
        self.hidden_size = config.hidden_size
        self.task.max_length = text_length(self.run.model.max_length, config, default=_LENGTH)
        architecture = (config.architectures or [""])[0]
        kept = (config.span_extraction or {}) if architecture == SequenceEncoderForSpanExtraction.__name__ else {}
        if kept.get("label_encoder") is not None:
            raise UsageError(f"{self.run.model.model} has a separate encoder of labels, which adapt does not train.")
        self.keeps_head = kept.get("label_token_id") is not None
        if self.keeps_head:
            # The scale of a calibration does not fit the weights after the training.
            self.head = {**kept, "logit_scale": 1.0, "logit_offset": 0.0}
            self.head["max_width"] = max(self.task.max_width, span_extraction_fields(config).max_width)
        else:
            tokenizer.add_tokens([_LABEL_TOKEN, _SEPARATOR], special_tokens=True)
            marker, separator = map(tokenizer.convert_tokens_to_ids, (_LABEL_TOKEN, _SEPARATOR))
            self.head = {"label_token_id": marker, "separator_token_id": separator}
            self.head |= {"max_width": self.task.max_width, "dropout": _DROPOUT}
            if "learning_rate" in self.run.args.planned:
                self.run.args.learning_rate = _RATE * cast(float, self.run.args.learning_rate)
        config.span_extraction = self.head
        self.task.use(tokenizer, span_extraction_fields(config))
        self.inputs, self.cut = {}, {}
        for split, rows in self.rows.items():
            self.task.cut = self.cut[split] = type(self.task.cut)()
            encoded = self.task.encode(rows, tokenizer)
            if split == "train":
                self.task.draws.count(encoded)
            self.inputs[split] = encoded
        evaluated = [split for split in self.inputs if split != "train"]
        self.inputs |= {split: self.task.evaluation_rows(self.inputs[split]) for split in evaluated}
        self.collator = self.task.collator(tokenizer)
        self.drops_head, self.linear, self.weights = False, None, None

    def _training_inputs(self, args: AdaptationArguments, rows: Any = None) -> Draws:
        return Draws(self.inputs["train"], self.task.draws, args.seed)

    def with_head(self) -> Any:
        """See `HeadSetup`. A new head reads tokens whose vectors start from those of others."""
        given = self.head if self.keeps_head else {**self.head, "label_token_id": None, "separator_token_id": None}
        with new_head():
            config = SequenceEncoderConfig.from_pretrained(
                self.checkpoint, span_extraction=given, logit_calibration=None, pooler_act=None
            )
            model: Any = SequenceEncoderForSpanExtraction.from_pretrained(
                self.checkpoint, config=config, dtype=torch.float32
            )
        if not self.keeps_head:
            size = max(config.vocab_size, len(self.tokenizer))
            model.resize_token_embeddings(size, mean_resizing=False)
            _set_new_embeddings(model, [self.head["label_token_id"], self.head["separator_token_id"]])
            model.config.span_extraction = {**model.config.span_extraction, **self.head}
            model.config.validate()
        return model

    def judge(self, trainer: Any, split: str) -> Evaluation:
        """See `HeadSetup`. The validation examples choose the threshold for the others."""
        self.task.chooses_threshold = split == "validation"
        try:
            return super().judge(trainer, split)
        finally:
            self.task.chooses_threshold = True

    def _evaluation(self, split: str, outputs: EvalPrediction, metrics: Any) -> Evaluation:
        evaluation = super()._evaluation(split, outputs, metrics)
        evaluation.by_label = self.task.by_label(self.rows[split], self.inputs[split], outputs)
        return evaluation

    def baselines(self) -> dict[str, dict[str, dict[str, float]]]:
        """See `HeadSetup`. The baseline finds the words of the training entities again."""
        return {"known_mentions": known_mentions(self.task, self.rows)}

    def write(self, trainer: Any, folder: Path) -> None:
        """See `HeadSetup`. The configuration states the threshold."""
        config = cast(Any, trainer.accelerator.unwrap_model(trainer.model)).config
        config.span_extraction = {**config.span_extraction, "threshold": self.task.threshold}
        super().write(trainer, folder)

    def _limit(self) -> str:
        return f"Trained on windows of at most {self.task.max_length} tokens, with their labels."

    def _usage(self) -> str:
        names = [name for number, name in enumerate(self.task.names) if number not in self.task.unseen][:5]
        labels: Any = {name: self.task.descriptions.get(name, name) for name in names}
        shown = json.dumps(labels if self.task.descriptions else names, ensure_ascii=False)
        return f"""Find the spans of a text that fit labels, also labels that are not in the training examples:

```python
labels = {shown}
spans = model.extract("A text of any length.", labels, tokenizer)
```

Spans with a probability above {self.task.threshold:g}, which had the best F1 on the validation examples, are returned,
unless `threshold` is given."""

    def write_cards(self, results: Results, folder: Path) -> None:
        """See `HeadSetup`."""
        model_config = SequenceEncoderConfig.from_pretrained(folder)
        self.task.threshold = span_extraction_fields(model_config).threshold
        super().write_cards(results, folder)


@torch.no_grad()
def _set_new_embeddings(model: Any, tokens: list[int]) -> None:
    """Set the vectors of new tokens to the mean of all others, with some noise, so that they differ."""
    weight = model.get_input_embeddings().weight
    others = weight[: min(tokens)]
    noise = torch.randn(len(tokens), weight.shape[1]) * others.std(dim=0)
    weight[tokens] = others.mean(dim=0) + 0.1 * noise


def known_mentions(task: Extraction, rows: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the metrics of each split for the words that are an entity in at least half of their training texts."""
    names = {name: number for number, name in enumerate(task.names)}
    labels: dict[tuple[str, ...], Counter[str]] = {}
    train = [(task.words_of(row), task.entities_of(row)) for row in rows["train"]]
    for words, entities in train:
        for first, last, label in entities:
            if names[label] not in task.unseen:
                labels.setdefault(tuple(words[first : last + 1]), Counter())[label] += 1
    widths = sorted({len(words) for words in labels}, reverse=True)
    occurrences: Counter[tuple[str, ...]] = Counter()
    for words, _ in train:
        occurrences.update(
            part
            for width in widths
            for start in range(len(words) - width + 1)
            if (part := tuple(words[start : start + width])) in labels
        )
    known = {
        words: counts.most_common(1)[0][0]
        for words, counts in labels.items()
        if 2 * counts.total() >= occurrences[words]
    }
    found = {}
    for split in ("validation", "test"):
        if split in rows:
            spans, truth = [], set()
            for number, row in enumerate(rows[split]):
                words, start = task.words_of(row), 0
                truth |= {(number, a, b, names[label]) for a, b, label in task.entities_of(row)}
                while start < len(words):
                    parts = (tuple(words[start : start + width]) for width in widths)
                    part = next((part for part in parts if part in known), ())
                    if part:
                        spans.append(((number, start, start + len(part) - 1, names[known[part]]), 1.0))
                    start += max(len(part), 1)
            truth = {span for span in truth if span[3] not in task.unseen}
            found[split] = measured(spans, truth, 0.5)
    return found

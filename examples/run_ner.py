"""Fine-tune an encoder to recognise named entities, from words with tags as in CoNLL.

    python run_ner.py --model_name_or_path MODEL --train_file train.jsonl --validation_file valid.jsonl \
        --do_train --do_eval --output_dir tagger

This is a plain `Trainer` script to start from. `sequence-encoder adapt --task ner` does more, and
converts encoders of other families, which this script leaves as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from common import ScriptArguments, load_splits, read_arguments, train_and_evaluate
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    set_seed,
)

import sequence_encoder  # noqa: F401 # registers the models with the Auto classes


@dataclass
class EntityArguments(ScriptArguments):
    """The arguments, with the columns of the data."""

    text_column_name: str = field(default="tokens", metadata={"help": "Column of lists of words."})
    label_column_name: str = field(default="ner_tags", metadata={"help": "Column of lists of tags."})
    label_all_tokens: bool = field(default=False, metadata={"help": "Label every token of a word, not only the first."})


def main() -> None:
    """Train and evaluate a model according to the arguments."""
    arguments, training_arguments = read_arguments(EntityArguments, TrainingArguments)
    set_seed(training_arguments.seed)
    data = load_splits(arguments)
    first = next(iter(data.values()))

    column = arguments.label_column_name
    named = getattr(getattr(first.features[column], "feature", None), "names", None)
    labels = named or sorted({tag for cell in first[column] for tag in cell})
    numbers = {name: index for index, name in enumerate(range(len(labels)) if named else labels)}
    config = AutoConfig.from_pretrained(
        arguments.model_name_or_path,
        id2label=dict(enumerate(labels)),
        label2id={name: index for index, name in enumerate(labels)},
    )
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)
    # The head of the checkpoint may have other labels.
    model = AutoModelForTokenClassification.from_pretrained(
        arguments.model_name_or_path, config=config, ignore_mismatched_sizes=True
    )

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(
            batch[arguments.text_column_name],
            truncation=True,
            max_length=arguments.max_seq_length,
            is_split_into_words=True,
        )
        rows = []
        for index, tags in enumerate(batch[column]):
            row, before = [], None
            for word in encoded.word_ids(index):
                skipped = word is None or (word == before and not arguments.label_all_tokens)
                row.append(-100 if skipped else numbers[tags[word]])
                before = word
            rows.append(row)
        encoded["labels"] = rows
        return encoded

    def judge(prediction: EvalPrediction) -> dict[str, float]:
        predicted, true = np.asarray(prediction.predictions).argmax(-1), np.asarray(prediction.label_ids)
        found = [[labels[x] for x in row[known != -100]] for row, known in zip(predicted, true, strict=True)]
        known = [[labels[x] for x in row[row != -100]] for row in true]
        return {
            "precision": float(precision_score(known, found)),
            "recall": float(recall_score(known, found)),
            "f1": float(f1_score(known, found)),
            "accuracy": float(accuracy_score(known, found)),
        }

    with training_arguments.main_process_first(desc="tokenising"):
        data = data.map(encode, batched=True, remove_columns=first.column_names)
    trainer = Trainer(
        model,
        training_arguments,
        train_dataset=data["train"] if training_arguments.do_train else None,
        eval_dataset=data["validation"] if training_arguments.do_eval else None,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        processing_class=tokenizer,
        compute_metrics=judge,
    )
    train_and_evaluate(trainer, training_arguments)


if __name__ == "__main__":
    main()

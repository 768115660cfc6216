"""Fine-tune an encoder to classify texts, or pairs of texts: one label, several labels, or a number.

    python run_classification.py --model_name_or_path MODEL --train_file train.csv --validation_file valid.csv \
        --do_train --do_eval --output_dir classifier

This is a plain `Trainer` script to start from. `sequence-encoder adapt --task classification` does more, and
converts encoders of other families, which this script leaves as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from common import ScriptArguments, load_splits, read_arguments, train_and_evaluate
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    set_seed,
)

import sequence_encoder  # noqa: F401 # registers the models with the Auto classes


@dataclass
class ClassificationArguments(ScriptArguments):
    """The arguments, with the columns of the data."""

    text_column_name: str = field(default="text", metadata={"help": "Column of texts."})
    text_pair_column_name: str | None = field(default=None, metadata={"help": "Column of second texts."})
    label_column_name: str = field(default="label", metadata={"help": "Column of labels, or of lists of labels."})
    do_regression: bool = field(default=False, metadata={"help": "Predict numbers."})


def metrics_for(problem_type: str) -> Any:
    """Return the function that computes the metrics of a problem type."""

    def judge(prediction: EvalPrediction) -> dict[str, float]:
        logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        if problem_type == "regression":
            return {"mse": float(((logits.squeeze(-1) - labels) ** 2).mean())}
        if problem_type == "multi_label_classification":
            return {"f1": float(f1_score(labels > 0.5, logits > 0, average="micro", zero_division=0))}
        predicted = logits.argmax(-1)
        return {
            "accuracy": float(accuracy_score(labels, predicted)),
            "f1": float(f1_score(labels, predicted, average="macro")),
            "matthews_correlation": float(matthews_corrcoef(labels, predicted)),
        }

    return judge


def main() -> None:
    """Train and evaluate a model according to the arguments."""
    arguments, training_arguments = read_arguments(ClassificationArguments, TrainingArguments)
    set_seed(training_arguments.seed)
    data = load_splits(arguments)
    first = next(iter(data.values()))

    column = arguments.label_column_name
    several = isinstance(first[0][column], list)
    if arguments.do_regression:
        labels, problem_type = ["value"], "regression"
    else:
        problem_type = "multi_label_classification" if several else "single_label_classification"
        named = getattr(first.features[column], "names", None)
        found = {name for cell in first[column] for name in (cell if several else [cell])}
        labels = [str(name) for name in named or sorted(found)]
        numbers = {name: index for index, name in enumerate(range(len(labels)) if named else sorted(found))}

    config = AutoConfig.from_pretrained(
        arguments.model_name_or_path,
        problem_type=problem_type,
        id2label=dict(enumerate(labels)),
        label2id={name: index for index, name in enumerate(labels)},
    )
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)
    # The head of the checkpoint may have other labels.
    model = AutoModelForSequenceClassification.from_pretrained(
        arguments.model_name_or_path, config=config, ignore_mismatched_sizes=True
    )

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        pairs = batch[arguments.text_pair_column_name] if arguments.text_pair_column_name else None
        encoded = tokenizer(
            batch[arguments.text_column_name], pairs, truncation=True, max_length=arguments.max_seq_length
        )
        if arguments.do_regression:
            encoded["labels"] = [float(value) for value in batch[column]]
        elif several:
            encoded["labels"] = [[float(name in cell) for name in numbers] for cell in batch[column]]
        else:
            encoded["labels"] = [numbers[name] for name in batch[column]]
        return encoded

    with training_arguments.main_process_first(desc="tokenising"):
        data = data.map(encode, batched=True, remove_columns=first.column_names)
    trainer = Trainer(
        model,
        training_arguments,
        train_dataset=data["train"] if training_arguments.do_train else None,
        eval_dataset=data["validation"] if training_arguments.do_eval else None,
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=metrics_for(problem_type),
    )
    train_and_evaluate(trainer, training_arguments)


if __name__ == "__main__":
    main()

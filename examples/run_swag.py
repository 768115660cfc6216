"""Fine-tune an encoder to choose among endings, as in SWAG.

    python run_swag.py --model_name_or_path MODEL --train_file train.jsonl --validation_file valid.jsonl \
        --do_train --do_eval --output_dir chooser

This is a plain `Trainer` script to start from. `sequence-encoder adapt --task multiple-choice` does more, and
converts encoders of other families, which this script leaves as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from common import ScriptArguments, load_splits, read_arguments, train_and_evaluate
from transformers import (
    AutoModelForMultipleChoice,
    AutoTokenizer,
    DataCollatorForMultipleChoice,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    set_seed,
)

import sequence_encoder  # noqa: F401 # registers the models with the Auto classes


@dataclass
class ChoiceArguments(ScriptArguments):
    """The arguments, with the columns of the data; by default those of SWAG."""

    context_column_name: str = field(default="sent1", metadata={"help": "Column of contexts."})
    start_column_name: str = field(default="sent2", metadata={"help": "Column of the start of all endings."})
    ending_column_names: list[str] = field(
        default_factory=lambda: [f"ending{number}" for number in range(4)], metadata={"help": "Columns of endings."}
    )
    label_column_name: str = field(default="label", metadata={"help": "Column of the number of the right ending."})


def main() -> None:
    """Train and evaluate a model according to the arguments."""
    arguments, training_arguments = read_arguments(ChoiceArguments, TrainingArguments)
    set_seed(training_arguments.seed)
    data = load_splits(arguments)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)
    # The head of the checkpoint may have other labels.
    model = AutoModelForMultipleChoice.from_pretrained(arguments.model_name_or_path, ignore_mismatched_sizes=True)
    endings = arguments.ending_column_names

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        contexts, starts = batch[arguments.context_column_name], batch[arguments.start_column_name]
        encoded = tokenizer(
            [context for context in contexts for _ in endings],
            [f"{start} {batch[ending][row]}" for row, start in enumerate(starts) for ending in endings],
            truncation=True,
            max_length=arguments.max_seq_length,
        )
        grouped = {
            name: [values[first : first + len(endings)] for first in range(0, len(values), len(endings))]
            for name, values in encoded.items()
        }
        return {**grouped, "labels": batch[arguments.label_column_name]}

    def judge(prediction: EvalPrediction) -> dict[str, float]:
        predicted = np.asarray(prediction.predictions).argmax(-1)
        return {"accuracy": float((predicted == np.asarray(prediction.label_ids)).mean())}

    with training_arguments.main_process_first(desc="tokenising"):
        data = data.map(encode, batched=True, remove_columns=next(iter(data.values())).column_names)
    trainer = Trainer(
        model,
        training_arguments,
        train_dataset=data["train"] if training_arguments.do_train else None,
        eval_dataset=data["validation"] if training_arguments.do_eval else None,
        data_collator=DataCollatorForMultipleChoice(tokenizer),
        processing_class=tokenizer,
        compute_metrics=judge,
    )
    train_and_evaluate(trainer, training_arguments)


if __name__ == "__main__":
    main()

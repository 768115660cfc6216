"""Fine-tunes an encoder to choose among endings, as in SWAG.

    python run_swag.py --model_name_or_path MODEL --train_file train.jsonl --validation_file valid.jsonl \
        --do_train --do_eval --output_dir chooser

This is a plain `Trainer` script to modify. It also works with encoders of other families, without converting them.
`sequence-encoder adapt --task multiple-choice` converts them, and has more features.
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

import sequence_encoder  # noqa: F401 # registers the Auto classes


@dataclass
class ChoiceArguments(ScriptArguments):
    """The columns of the data. The defaults are those of SWAG."""

    context_column_name: str = field(default="sent1", metadata={"help": "Column of contexts."})
    start_column_name: str = field(
        default="sent2", metadata={"help": "Column of the words that all endings start with."}
    )
    ending_column_names: list[str] = field(
        default_factory=lambda: [f"ending{number}" for number in range(4)], metadata={"help": "Columns of endings."}
    )
    label_column_name: str = field(default="label", metadata={"help": "Column of the indices of the right endings."})


def main() -> None:
    """Parse the arguments, train and evaluate."""
    arguments, training_arguments = read_arguments(ChoiceArguments, TrainingArguments)
    set_seed(training_arguments.seed)
    data = load_splits(arguments)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)
    # The checkpoint may have a head for other labels.
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

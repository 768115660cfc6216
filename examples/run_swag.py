"""Fine-tune an encoder to choose among endings, as in SWAG.

    python run_swag.py --model_name_or_path MODEL --train_file train.jsonl --validation_file valid.jsonl \
        --do_train --do_eval --output_dir chooser

A plain `Trainer` script, to be changed; `sequence-encoder adapt --task multiple-choice` does more by itself, and
carries encoders of other families over, which stay what they are here.
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

import sequence_encoder  # noqa: F401 # so that the Auto classes know it


@dataclass
class ChoiceArguments(ScriptArguments):
    """The columns, those of SWAG if nothing else is said."""

    context_column_name: str = field(default="sent1", metadata={"help": "What comes before."})
    start_column_name: str = field(default="sent2", metadata={"help": "How all endings start."})
    ending_column_names: list[str] = field(
        default_factory=lambda: [f"ending{number}" for number in range(4)], metadata={"help": "The endings."}
    )
    label_column_name: str = field(default="label", metadata={"help": "The number of the right one."})


def main() -> None:
    """Reads the arguments, trains, evaluates."""
    arguments, training_arguments = read_arguments(ChoiceArguments, TrainingArguments)
    set_seed(training_arguments.seed)
    data = load_splits(arguments)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)
    # A head that the checkpoint has may be of other labels.
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

"""Fine-tune an encoder to score how well one text answers another, with sentence-transformers.

    python run_ranking.py --model_name_or_path MODEL --train_file pairs.jsonl --validation_file valid.jsonl \
        --do_train --do_eval --output_dir ranker

This is a plain sentence-transformers script to start from. `sequence-encoder adapt --task ranking` does more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from common import ScriptArguments, load_splits, read_arguments, train_and_evaluate
from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.evaluation import CrossEncoderClassificationEvaluator
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from transformers import set_seed

import sequence_encoder  # noqa: F401 # registers the models with the Auto classes


@dataclass
class RankingArguments(ScriptArguments):
    """The arguments, with the columns of the data."""

    text_column_name: str = field(default="text", metadata={"help": "Column of questions."})
    text_pair_column_name: str = field(default="text_pair", metadata={"help": "Column of possible answers."})
    label_column_name: str = field(
        default="label", metadata={"help": "Column of labels: 1 for an answer, 0 otherwise."}
    )


def main() -> None:
    """Train and evaluate a model according to the arguments."""
    arguments, training_arguments = read_arguments(RankingArguments, CrossEncoderTrainingArguments)
    set_seed(training_arguments.seed)
    names = [arguments.text_column_name, arguments.text_pair_column_name, arguments.label_column_name]
    data = load_splits(arguments).select_columns(names)
    if arguments.label_column_name != "label":
        data = data.rename_column(arguments.label_column_name, "label")

    model = CrossEncoder(arguments.model_name_or_path, num_labels=1, max_length=arguments.max_seq_length)
    evaluator = None
    if training_arguments.do_eval:
        held_out = data["validation"]
        pairs = [list(pair) for pair in zip(held_out[names[0]], held_out[names[1]], strict=True)]
        evaluator = CrossEncoderClassificationEvaluator(pairs, list(held_out["label"]))
    trainer = CrossEncoderTrainer(
        model=model,
        args=training_arguments,
        train_dataset=data["train"] if training_arguments.do_train else None,
        loss=BinaryCrossEntropyLoss(model),
        evaluator=evaluator,
    )
    train_and_evaluate(trainer, training_arguments)


if __name__ == "__main__":
    main()

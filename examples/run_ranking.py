"""Fine-tune an encoder to score pairs of texts, with sentence-transformers: how well the second answers the first.

    python run_ranking.py --model_name_or_path MODEL --train_file pairs.jsonl --validation_file valid.jsonl \
        --do_train --do_eval --output_dir ranker

A plain script of sentence-transformers, to be changed; `sequence-encoder adapt --task ranking` does more by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from common import ScriptArguments, load_splits, read_arguments, train_and_evaluate
from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.evaluation import CrossEncoderClassificationEvaluator
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from transformers import set_seed

import sequence_encoder  # noqa: F401 # so that the Auto classes know it


@dataclass
class RankingArguments(ScriptArguments):
    """The columns."""

    text_column_name: str = field(default="text", metadata={"help": "Questions."})
    text_pair_column_name: str = field(default="text_pair", metadata={"help": "What may answer them."})
    label_column_name: str = field(default="label", metadata={"help": "1 where it does, else 0."})


def main() -> None:
    """Reads the arguments, trains, evaluates."""
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

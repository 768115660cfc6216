"""Fine-tune an encoder for search with sentence-transformers, from pairs of texts that belong together.

    python run_embedding.py --model_name_or_path MODEL --train_file pairs.jsonl --validation_file valid.jsonl \
        --do_train --do_eval --output_dir embedder

This is a plain sentence-transformers script to start from. `sequence-encoder adapt --task embedding` does more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from common import ScriptArguments, load_splits, read_arguments, train_and_evaluate
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss
from transformers import set_seed

import sequence_encoder  # noqa: F401 # registers the models with the Auto classes


@dataclass
class EmbeddingArguments(ScriptArguments):
    """The arguments, with the columns of the data and the lengths of vectors."""

    text_column_name: str = field(default="text", metadata={"help": "Column of questions."})
    text_pair_column_name: str = field(default="text_pair", metadata={"help": "Column of answers."})
    matryoshka_dims: list[int] | None = field(
        default=None, metadata={"help": "Lengths at which truncated vectors stay useful."}
    )


def main() -> None:
    """Train and evaluate a model according to the arguments."""
    arguments, training_arguments = read_arguments(EmbeddingArguments, SentenceTransformerTrainingArguments)
    set_seed(training_arguments.seed)
    names = [arguments.text_column_name, arguments.text_pair_column_name]
    data = load_splits(arguments).select_columns(names)

    model = SentenceTransformer(arguments.model_name_or_path)
    model.max_seq_length = arguments.max_seq_length
    loss: torch.nn.Module = MultipleNegativesRankingLoss(model)
    if arguments.matryoshka_dims:
        loss = MatryoshkaLoss(model, loss, matryoshka_dims=arguments.matryoshka_dims)
    evaluator = None
    if training_arguments.do_eval:
        held_out = data["validation"]
        queries, documents = (dict(enumerate(held_out[name])) for name in names)
        evaluator = InformationRetrievalEvaluator(
            {str(index): text for index, text in queries.items()},
            {str(index): text for index, text in documents.items()},
            {str(index): {str(index)} for index in queries},
        )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=training_arguments,
        train_dataset=data["train"] if training_arguments.do_train else None,
        loss=loss,
        evaluator=evaluator,
    )
    train_and_evaluate(trainer, training_arguments)


if __name__ == "__main__":
    main()

"""Fine-tune an encoder to find answers in a context, as in SQuAD. Long contexts are read in overlapping windows.

    python run_qa.py --model_name_or_path MODEL --train_file train.jsonl --validation_file valid.jsonl \
        --do_train --do_eval --output_dir reader

This is a plain `Trainer` script to start from. `sequence-encoder adapt --task qa` does more, and
converts encoders of other families, which this script leaves as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from common import ScriptArguments, load_splits, read_arguments, train_and_evaluate
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

import sequence_encoder  # noqa: F401 # registers the models with the Auto classes
from sequence_encoder import QuestionAnsweringPipeline


@dataclass
class AnswerArguments(ScriptArguments):
    """The arguments, with the columns of the data and the overlap of windows."""

    question_column_name: str = field(default="question", metadata={"help": "Column of questions."})
    context_column_name: str = field(default="context", metadata={"help": "Column of contexts."})
    answer_column_name: str = field(default="answers", metadata={"help": "Column of answers, as in SQuAD."})
    doc_stride: int = field(default=64, metadata={"help": "Tokens that two windows share."})


def main() -> None:
    """Train and evaluate a model according to the arguments."""
    arguments, training_arguments = read_arguments(AnswerArguments, TrainingArguments)
    set_seed(training_arguments.seed)
    data = load_splits(arguments)
    # The positions of answers are counted from the left.
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path, padding_side="right")
    # The head of the checkpoint may have other labels.
    model = AutoModelForQuestionAnswering.from_pretrained(arguments.model_name_or_path, ignore_mismatched_sizes=True)

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(
            batch[arguments.question_column_name],
            batch[arguments.context_column_name],
            truncation="only_second",
            max_length=arguments.max_seq_length,
            stride=arguments.doc_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        rows, offsets = encoded.pop("overflow_to_sample_mapping"), encoded.pop("offset_mapping")
        encoded["start_positions"], encoded["end_positions"] = [], []
        for window, row in enumerate(rows):
            answers = batch[arguments.answer_column_name][row]
            # The first token means that this window has no answer.
            first = last = 0
            if answers["text"]:
                start, end = answers["answer_start"][0], answers["answer_start"][0] + len(answers["text"][0])
                places = [
                    (token, place)
                    for token, (place, part) in enumerate(
                        zip(offsets[window], encoded.sequence_ids(window), strict=True)
                    )
                    if part == 1
                ]
                if places and places[0][1][0] <= start and places[-1][1][1] >= end:
                    inside = [token for token, (begins, ends) in places if begins < end and ends > start]
                    first, last = inside[0], inside[-1]
            encoded["start_positions"].append(first)
            encoded["end_positions"].append(last)
        return encoded

    with training_arguments.main_process_first(desc="tokenising"):
        columns = next(iter(data.values())).column_names
        windows = data.map(encode, batched=True, remove_columns=columns)
    trainer = Trainer(
        model,
        training_arguments,
        train_dataset=windows["train"] if training_arguments.do_train else None,
        eval_dataset=windows["validation"] if training_arguments.do_eval else None,
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    train_and_evaluate(trainer, training_arguments)
    if training_arguments.do_eval and trainer.is_world_process_zero():
        pipe = QuestionAnsweringPipeline(model=model.eval(), tokenizer=tokenizer)
        exact = 0
        for row in data["validation"]:
            question, context = row[arguments.question_column_name], row[arguments.context_column_name]
            found = pipe(
                question=question,
                context=context,
                max_seq_len=arguments.max_seq_length,
                doc_stride=arguments.doc_stride,
            )
            exact += found["answer"] in row[arguments.answer_column_name]["text"]
        metrics = {"eval_exact_match": 100 * exact / len(data["validation"])}
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)


if __name__ == "__main__":
    main()

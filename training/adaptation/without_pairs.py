"""Makes the pairs of `sequence-encoder adapt --task embedding` from texts, where the examples have none."""

from __future__ import annotations

import difflib
from typing import Any

from ...command_line import UsageError
from ...command_line.counts import counted
from ...data.text_pairs import pairs_from_text
from ...evaluation.tasks.columns import check_columns, check_texts
from .examples import hold_out
from .run import Adaptation

# More pairs of these hardly change the order of models, and an evaluation embeds all of them.
_MOST_HELD_OUT = 300
# The similarity of a misspelt name. That of "text" is 0.6.
_SAME_WORD = 0.8
_PAIR, _SCORE = "text_pair", "score"


def lacks_pairs(run: Adaptation, examples: dict[str, Any]) -> bool:
    """Return whether the task needs pairs, and the training examples neither have nor name a second text or a score.

    A misspelt column of pairs is for the error that names the columns.
    """
    columns, data = examples["train"].column_names, run.data
    if run.model.task != "embedding" or data.text_pair_column is not None or data.label_column is not None:
        return False
    return _SCORE not in columns and not difflib.get_close_matches(_PAIR, columns, 1, _SAME_WORD)


def with_made_pairs(run: Adaptation, examples: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, int]]]:
    """Make pairs from the texts of each split that has none, after the validation texts are held out.

    Thus no validation text is trained on. A split with pairs keeps them.

    Returns:
        The examples, and for each split that had none, the number of pairs and of the texts that they are from.

    Raises:
        UsageError: If the texts are not valid, or a split has no text of two sentences.
    """
    from datasets import Dataset

    text = run.data.text_column or "text"
    check_columns(examples, {"text_column": text})
    check_texts(run.data, examples, "text_column", text)
    for split in [name for name, rows in examples.items() if _PAIR not in rows.column_names]:
        found = [number for number, each in enumerate(examples[split][text]) if pairs_from_text(each)]
        if not found:
            raise UsageError(
                f"--text_column {text}: no text of the {split} examples has two sentences, which a pair needs. "
                "If you have pairs, name the column of their second texts with --text_pair_column."
            )
        examples = {**examples, split: examples[split].select(found)}
    held_out, _ = hold_out(examples, run.data, run.args.seed, most=_MOST_HELD_OUT)
    made: dict[str, dict[str, int]] = {}
    for split, rows in held_out.items():
        if _PAIR not in rows.column_names:
            pairs = [pair for each in rows[text] for pair in pairs_from_text(each)]
            queries, passages = zip(*pairs, strict=True)
            held_out[split] = Dataset.from_dict({text: list(queries), _PAIR: list(passages)})
            made[split] = {"texts": len(rows), "pairs": len(pairs)}
    if run.args.should_save:
        counts = [
            f"{counted(each['pairs'], f'{split} pair')} from {counted(each['texts'], 'text')}"
            for split, each in made.items()
        ]
        print(f"The texts have no pairs (no column {_PAIR}); made {', '.join(counts)}.")
    return held_out, made

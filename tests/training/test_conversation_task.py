"""`adapt --task conversation` trains a model to write replies, given what was said before."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoModelForMaskedLM, AutoTokenizer

from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.adaptation_runs import FAST, run, save_encoder, write_examples
from sequence_encoder.training.adaptation.arguments import TaskDataArguments
from sequence_encoder.training.adaptation.tasks.conversation import Conversation

IGNORED = -100
Row = dict[str, Any]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def tokenizer(encoder: Path) -> Any:
    return AutoTokenizer.from_pretrained(encoder)


def messages(*turns: str) -> list[dict[str, str]]:
    """Return the messages of a user and an assistant in turn; a turn that starts with * is that of the system."""
    roles = itertools.cycle(["user", "assistant"])
    return [
        {"role": "system" if turn.startswith("*") else next(roles), "content": turn.removeprefix("*")} for turn in turns
    ]


def examples_of(
    tokenizer: Any, rows: list[Row], max_length: int = 128, block: int = 8, **columns: str
) -> tuple[Conversation, list[tuple[str, str]]]:
    """Return the task, and for each example what comes before the reply and the reply, as texts."""
    task = Conversation(TaskDataArguments(train_file="rows", **columns), max_length, block)
    task.use(tokenizer)
    read = task.read({"train": Dataset.from_list(rows)})["train"]
    found = []
    for example in task.encode(read, tokenizer):
        count = example["labels"].count(IGNORED)
        assert example["labels"] == [IGNORED] * count + example["input_ids"][count:]
        assert len(example["input_ids"]) <= max_length
        found.append(tuple(tokenizer.decode(ids) for ids in np.split(example["input_ids"], [count])))
    return task, found


def length_of(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def text_of(tokenizer: Any, text: str) -> str:
    """Return a text as the tokenizer decodes it."""
    return tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_each_reply_is_an_example_with_everything_before_it(tokenizer: Any) -> None:
    turns = messages("*we", "where is the cat", "here", "which cat", "the red cat")
    _, found = examples_of(tokenizer, [{"messages": turns}, {"messages": messages("which", "it")}])
    before = "[CLS]system: we[SEP]user: where is the cat[SEP]assistant:"
    more = f"{before} here[SEP]user: which cat[SEP]assistant:"
    expected = [(before, "here[SEP]"), (more, "the red cat[SEP]"), ("[CLS]user: which[SEP]assistant:", "it[SEP]")]
    assert found == [(text_of(tokenizer, one), text_of(tokenizer, other)) for one, other in expected]


def test_prompts_and_completions_are_messages_or_plain_texts(tokenizer: Any) -> None:
    whole = messages("where is the cat", "here", "which cat", "the red cat")
    _, found = examples_of(tokenizer, [{"prompt": whole[:3], "completion": whole[3:]}])
    # A reply in a prompt is no example.
    assert found == examples_of(tokenizer, [{"messages": whole}])[1][1:]
    _, found = examples_of(
        tokenizer, [{"said": whole[:3], "reply": whole[3:]}], text_column="said", label_column="reply"
    )
    assert found == examples_of(tokenizer, [{"messages": whole}])[1][1:]
    _, found = examples_of(tokenizer, [{"prompt": "the cat", "completion": " is here"}])
    assert found == [(text_of(tokenizer, "[CLS]the cat"), text_of(tokenizer, "is here[SEP]"))]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('never') }}", "refuses .*: never"),
        (
            "{% for each in messages %}{{ each['content'] }}[SEP]{% endfor %}",
            r"prompt of a reply with \[SEP\], which",
        ),
        ("{{ messages | length }}{% if add_generation_prompt %} we{% endif %}", "must render a conversation as"),
    ],
)
def test_a_template_that_does_not_fit_is_refused(tokenizer: Any, template: str, message: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(UsageError, match=message):
        examples_of(tokenizer, [{"messages": messages("which", "it")}])


def test_the_oldest_turns_are_left_out_first(tokenizer: Any) -> None:
    turns = messages("*we", "the cat", "it", "the dog", "it", "the owl", "is here")
    rows = [{"messages": turns}]
    whole = examples_of(tokenizer, rows)[1][-1]
    kept = examples_of(tokenizer, [{"messages": [turns[0], *turns[3:]]}])[1][-1]
    tokens = [
        sum(len(tokenizer(each, add_special_tokens=False)["input_ids"]) for each in pair) for pair in (whole, kept)
    ]
    for length in range(tokens[1], tokens[0]):
        task, found = examples_of(tokenizer, rows, max_length=length + 4, block=4)
        assert found[-1] == kept
    assert task.cut.cut == 1
    assert task.cut.lost == tokens[0] - tokens[1]
    assert examples_of(tokenizer, rows, max_length=tokens[0] + 4, block=4)[1][-1] == whole


def test_a_long_turn_is_cut_at_its_beginning_and_a_long_reply_at_its_end(tokenizer: Any) -> None:
    long = " ".join(["the cat is here and"] * 20)
    task, found = examples_of(tokenizer, [{"messages": messages(long, "it")}], max_length=32)
    (before, reply), ends = found[0], text_of(tokenizer, "is here and[SEP]assistant:")
    assert before.startswith("[CLS]")
    assert before.endswith(ends)
    assert reply == text_of(tokenizer, "it[SEP]")
    assert task.cut.replies == 0
    task, found = examples_of(tokenizer, [{"messages": messages(long, long)}], max_length=32)
    before, reply = found[0]
    assert reply.startswith("the cat")
    assert "[SEP]" not in reply
    assert length_of(tokenizer, before) == 12
    assert task.cut.in_words(32).endswith("; 1 of the replies themselves are truncated")
    # An end would be wrong.
    ids = np.array(tokenizer(before + reply, add_special_tokens=False)["input_ids"])
    for evaluating in (True, False):
        row, _ = task.draw(ids, np.arange(len(ids)) >= 12, np.random.default_rng(0), evaluating)
        assert task.pad_id not in row


def test_whole_replies_and_blocks_of_them_are_written(tokenizer: Any) -> None:
    task, found = examples_of(tokenizer, [{"messages": messages("where is the cat", "here is the red cat")}], block=4)
    ids = np.array(tokenizer("".join(found[0]), add_special_tokens=False)["input_ids"])
    start = length_of(tokenizer, found[0][0])
    rng = np.random.default_rng(0)
    ends, starts, sizes = set(), set(), set()
    for number in range(400):
        evaluating = number < 50
        row, written = task.draw(ids, np.arange(len(ids)) >= start, rng, evaluating)
        assert row.tolist() == [*ids, *[task.pad_id] * 4][: len(row)]
        first = int(written.argmax())
        assert first >= start
        assert written[first:].all()
        if evaluating:
            assert (first, len(row) >= len(ids)) == (start, True)
        elif first > start:
            starts.add(first)
            sizes.add(len(row) - first)
        ends.add(len(row))
    # A block may end within a reply, at its end, or after it.
    assert starts == set(range(start + 1, len(ids)))
    assert ends == set(range(start + 1, len(ids) + 5))
    assert sizes == {1, 2, 3, 4}


def test_the_folder_replies_with_its_chat_template(encoder: Path, tmp_path: Path) -> None:
    files = write_examples(tmp_path, "conversation", {"train": 48, "test": 6})
    options = {**FAST, "num_train_epochs": 2, "block_length": 8, "max_length": 96}
    found = run("conversation", encoder, tmp_path / "out", **options, **files)
    before = found.baselines["before_training"]["test"]["nats_per_token"]
    assert found.kept.metrics["test"]["nats_per_token"] < before - 0.5
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 6
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    said = messages("where is the cat", "here")
    prompt = tokenizer.apply_chat_template(said[:1], add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template(said, return_dict=True, return_assistant_tokens_mask=True)
    reply = [token for token, mask in zip(whole["input_ids"], whole["assistant_masks"], strict=True) if mask]
    assert prompt + reply == whole["input_ids"]
    card = (tmp_path / "out" / "README.md").read_text()
    usage = re.search(r"Reply to messages:\n\n```python\n(.*?)```", card, re.DOTALL)
    assert usage is not None
    assert "model.generate(ids, max_new_tokens=16)" in usage[1]
    exec(usage[1], {"model": model, "tokenizer": tokenizer})
    assert "| block length | 8 |" in card
    assert "pipeline_tag: text-generation" in card
    assert 'pipeline("text-generation", model="out", trust_remote_code=True)' in card


@pytest.fixture
def error_of(encoder: Path, tmp_path: Path) -> Callable[..., str]:
    """Return `error_of(row, good)`, which returns the error of a run where one row is wrong and which wrote nothing."""

    def give(row: Row, good: Row) -> str:
        rows = [good, good, row, good]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
        with pytest.raises(UsageError) as caught:
            run("conversation", encoder, tmp_path / "out", train_file=tmp_path / "train.jsonl")
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    return give


GOOD = {"messages": messages("which", "it")}
PLAIN = {"prompt": "which", "completion": "it"}
PAIR = {"prompt": GOOD["messages"][:1], "completion": GOOD["messages"][1:]}


@pytest.mark.parametrize(
    ("row", "good", "message"),
    [
        ({"messages": messages("which")}, GOOD, "a message of the assistant after another message in every row; line"),
        ({"messages": PAIR["completion"]}, GOOD, "a message of the assistant after another message in every row; line"),
        ({**PAIR, "prompt": []}, PAIR, "--text_column prompt must contain at least one message in every row; line 3"),
        ({"messages": messages("which", " ")}, GOOD, "replies of the assistant that are not blank; line 3 of"),
        ({"messages": [{"role": "bot", "content": "it"}]}, GOOD, "each with a role (system, user, assistant)"),
        ({"messages": [{"role": "user"}]}, GOOD, "a content that is a text, in every row; line 3 of"),
        ({"messages": None}, GOOD, "must contain a list of messages"),
        ({"messages": messages("which", "[MASK]")}, GOOD, "replies must not contain [MASK] or [PAD]"),
        ({"prompt": "which", "completion": " "}, PLAIN, "--label_column completion must contain a text that is not"),
        ({"prompt": None, "completion": "it"}, PLAIN, "--text_column prompt must contain a text in every row"),
        ({"prompt": PAIR["prompt"], "completion": PAIR["prompt"]}, PAIR, "a message of the assistant in every row"),
        ({"text": "it"}, {"text": "it"}, "needs the column messages, or the columns prompt and completion; the train"),
    ],
)
def test_rows_without_a_reply_are_refused(error_of: Callable[..., str], row: Row, good: Row, message: str) -> None:
    assert message in error_of(row, good)

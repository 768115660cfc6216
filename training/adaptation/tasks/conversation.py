"""Conversation: the model writes the replies of an assistant, given everything that was said before.

Shapes: L tokens of an example.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ....command_line import UsageError
from ....evaluation.tasks.columns import check_columns, check_values
from ....evaluation.tasks.task import Examples, TruncationCounts
from .writing import WritingTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ....evaluation.tasks.example_arguments import ExampleArguments

Messages = list[dict[str, str]]

ROLES = ("system", "user", "assistant")
# The roles are plain words: an encoder knows them already, while new special tokens would need new rows of the
# embedding matrix, which LoRA does not train. The end of a turn is [SEP], which encoders know as the end of a segment.
# The mark of what the model writes begins with a character that belongs to a token, which older transformers need.
CHAT_TEMPLATE = (
    "{{ cls_token or bos_token or '' }}"
    "{% for message in messages %}"
    "{{ message['role'] + ': ' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + (sep_token or eos_token) }}{% endgeneration %}"
    "{% else %}"
    "{{ message['content'] + (sep_token or eos_token) }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


@dataclass
class ReplyCounts(TruncationCounts):
    """Counts of the examples and tokens that `max_length` truncates.

    Attributes:
        replies: The number of examples whose reply is truncated, not only what was said before.
    """

    replies: int = 0

    def add(self, whole: int, kept: int, reply_is_cut: bool) -> None:
        """Count an example that has `kept` of `whole` tokens."""
        self.texts += 1
        self.tokens += kept
        self.lost += whole - kept
        self.cut += whole > kept
        self.replies += reply_is_cut

    def in_words(self, max_length: int) -> str:
        """See `TruncationCounts`."""
        said = super().in_words(max_length).replace("texts are", "replies with what was said before are")
        return f"{said}; {self.replies:,} of the replies themselves are truncated" if self.replies else said


class Conversation(WritingTask):
    """The replies in conversations, in the conversational and prompt-completion formats of trl.

    Each reply of the assistant is an example, with everything before it. Trl's `assistant_only_loss` trains all replies
    of a conversation at once, which suits causal models only: here, a reply would see those that follow it.
    """

    block_argument: ClassVar[str] = "block_length"
    hub_task: ClassVar[str | None] = "text-generation"

    def __init__(self, data: ExampleArguments, max_length: int = 0, block: int = 32) -> None:
        super().__init__(data, max_length, block)
        self.cut: ReplyCounts = ReplyCounts()

    def read(self, examples: Examples, known: list[str] | None = None) -> dict[str, Any]:
        """See `HeadTask`. There are no labels."""
        columns, data = examples["train"].column_names, self.data
        self.prompt, self.completion = data.text_column or "prompt", data.label_column
        if data.text_column is None and data.label_column is None:
            if "messages" in columns:
                self.prompt = "messages"
            elif {"prompt", "completion"} <= {*columns}:
                self.completion = "completion"
            else:
                raise UsageError(
                    "--task conversation needs the column messages, or the columns prompt and completion; the train "
                    f"examples have {', '.join(columns)}. Name others with --text_column and --label_column."
                )
        self.texts = (self.prompt, self.completion) if self.completion else (self.prompt,)
        check_columns(examples, {"text_column": self.prompt, "label_column": self.completion})
        self._check_columns(examples)
        return {split: rows.select_columns(list(self.texts)) for split, rows in examples.items()}

    def _check_columns(self, examples: Examples) -> None:
        """Check the messages of all rows, or the plain texts."""

        def check(argument: str, column: str, is_allowed: Any, allowed: str) -> None:
            check_values(self.data, examples, argument, column, is_allowed, allowed)

        self.plain = self.completion is not None and isinstance(examples["train"][self.prompt][0], str)
        if self.completion is not None:
            kind, is_kind = ("a text", _is_text) if self.plain else (_MESSAGES, _are_messages)
            check("text_column", self.prompt, is_kind, f"{kind} in every row")
            check("label_column", self.completion, is_kind, f"{kind} in every row, as --text_column {self.prompt} does")
            if self.plain:
                check("label_column", self.completion, str.strip, "a text that is not blank in every row")
                return
        column = self.completion or self.prompt
        argument = "text_column" if self.completion is None else "label_column"
        check(argument, column, _are_messages, f"{_MESSAGES} in every row")
        if self.completion is None:
            allowed = "a message of the assistant after another message in every row"
            check(argument, column, lambda messages: _replies_of(messages[1:]), allowed)
        else:
            check("text_column", self.prompt, bool, "at least one message in every row")
            check(argument, column, _replies_of, "a message of the assistant in every row")
        check(
            argument,
            column,
            lambda messages: all(messages[place]["content"].strip() for place in _replies_of(messages)),
            "replies of the assistant that are not blank",
        )

    def use(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """See `WritingTask`. A tokenizer without a chat template gets `CHAT_TEMPLATE`."""
        super().use(tokenizer)
        tokenizer.chat_template = tokenizer.chat_template or CHAT_TEMPLATE

    def encode(self, rows: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
        """See `WritingTask`. An example is a reply with the end of a text, after what was said before.

        If both are too long, the oldest turns are left out, but not what the system said. If that does not suffice,
        the beginning of the last turn is cut, and then the end of the reply.

        Raises:
            UsageError: If the chat template refuses a conversation.
        """
        from datasets import Dataset

        from ....modeling.label_checks import IGNORED

        # Room for masks after the reply.
        self.capacity = self.max_length - min(self.block, self.max_length // 4)
        columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "row": []}
        for index, row in enumerate(rows):
            prompt, completion = row[self.prompt], row[self.completion] if self.completion else []
            if self.plain:
                before = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
                start = [] if self.start_id is None else [self.start_id]
                reply = tokenizer(completion, add_special_tokens=False, verbose=False)["input_ids"]
                examples = [self._fit(start + before, [*reply, self.end_id])]
            else:
                said = _as_messages(prompt + completion)
                # A greeting at the start replies to nothing.
                first = len(prompt) if completion else 1
                replies = [place for place in _replies_of(said) if place >= first]
                examples = [self._example(said[: place + 1], tokenizer) for place in replies]
            for before, reply in examples:
                if {self.mask_id, self.pad_id} & {*reply}:
                    raise UsageError(
                        f"replies must not contain {tokenizer.mask_token} or {tokenizer.pad_token}, which the model "
                        f"replaces as it writes, got {tokenizer.decode(reply)!r}."
                    )
                columns["input_ids"].append(before + reply)
                columns["labels"].append([IGNORED] * len(before) + reply)
                columns["row"].append(index)
        return Dataset.from_dict(columns)

    def _example(self, messages: Messages, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
        """Return the tokens before the last message, and its own, from as many messages as there is room for."""
        before, reply = self._apply_template(messages, tokenizer)
        whole, fixed = len(before), int(messages[0]["role"] == "system")
        while len(before) > self._room(before, reply):
            # A template may want a message of the user first.
            turns = [place for place in range(fixed + 1, len(messages) - 1) if messages[place]["role"] == "user"]
            if not turns:
                break
            messages = messages[:fixed] + messages[turns[0] :]
            before, _ = self._apply_template(messages, tokenizer)
        return self._fit(before, reply, whole)

    def _room(self, before: list[int], reply: list[int]) -> int:
        """Return the room for what was said before: what the reply leaves, but at least half of all tokens."""
        return max(self.capacity - len(reply), self.capacity // 2)

    def _fit(self, before: list[int], reply: list[int], whole: int | None = None) -> tuple[list[int], list[int]]:
        """Truncate what was said before from the left, then the reply from the right, and count both."""
        room = self._room(before, reply)
        # The first token is [CLS].
        kept = before if len(before) <= room else before[:1] + before[len(before) - room + 1 :]
        written = reply[: self.capacity - len(kept)]
        self.cut.add((whole or len(before)) + len(reply), len(kept) + len(written), len(written) < len(reply))
        return kept, written

    def _apply_template(self, messages: Messages, tokenizer: Any) -> tuple[list[int], list[int]]:
        try:
            before = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
            both = tokenizer.apply_chat_template(messages, return_dict=False)
        except Exception as error:  # templates raise what they like
            raise UsageError(f"the model's chat template refuses {_shown(messages)}: {error}") from error
        if both[: len(before)] != before:
            raise UsageError(
                "the model's chat template must render a conversation as its beginning with add_generation_prompt, "
                f"followed by the reply, but does not for {_shown(messages)}."
            )
        if before[-1:] == [self.end_id]:
            raise UsageError(
                f"the model's chat template ends the prompt of a reply with {tokenizer.decode(self.end_id)}, which "
                f"generate removes, for {_shown(messages[:-1])}. Let it end with a text such as 'assistant:' where "
                "add_generation_prompt is true."
            )
        reply = both[len(before) :]
        return before, reply if reply[-1:] == [self.end_id] else [*reply, self.end_id]

    def draw(
        self, ids: np.ndarray, written: np.ndarray, rng: np.random.Generator, evaluating: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `WritingTask`. Evaluations and half of the training write a whole reply, and the rest a block of it.

        After a whole reply, up to `block` positions are left over. A block follows what is already written of the
        reply, and the example ends with it, so that the model does not expect the end of a reply at the last mask.
        """
        before, length = int((~written).sum()), int(written.sum())
        # A truncated reply has no end.
        room = self.max_length - len(ids) if ids[-1] == self.end_id else 0
        if evaluating or rng.random() < 0.5:
            start, stop = 0, length + int(rng.integers(0, min(self.block, room), endpoint=True))
        else:
            start = int(rng.integers(0, length))
            stop = min(start + int(rng.integers(1, self.block, endpoint=True)), length + room)
        row = np.concatenate([ids, np.full(room, self.pad_id)])[: before + stop]
        return row, np.arange(len(row)) >= before + start

    def usage(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """See `WritingTask`."""
        if self.plain:
            kind, text = "Continue a prompt", "written[0]"
            said = 'ids = tokenizer("The sky is", return_tensors="pt").input_ids'
        else:
            kind, text = "Reply to messages", "written[0, ids.shape[1] :]"
            said = (
                'messages = [{"role": "user", "content": "Where is the cat?"}]\n'
                "ids = tokenizer.apply_chat_template(\n"
                '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=False\n)'
            )
        return f"""{kind}:

```python
{said}
written = model.generate(ids, max_new_tokens={2 * self.block})
print(tokenizer.decode({text}, skip_special_tokens=True))
```"""


_MESSAGES = f"a list of messages, each with a role ({', '.join(ROLES)}) and a content that is a text,"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict) and each.get("role") in ROLES and isinstance(each.get("content"), str) for each in value
    )


def _as_messages(value: list[dict[str, Any]]) -> Messages:
    return [{"role": each["role"], "content": each["content"]} for each in value]


def _replies_of(messages: list[dict[str, Any]]) -> list[int]:
    """Return the places of the assistant's messages."""
    return [place for place, each in enumerate(messages) if each["role"] == "assistant"]


def _shown(messages: Messages) -> str:
    text = repr(messages)
    return text if len(text) <= 200 else f"{text[:200]}..."

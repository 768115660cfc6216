"""The numbers of heads with outputs for each token: entities, answers and masked tokens.

Shapes: L tokens of a row, C labels, P masks, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...inference.pipelines.question_answering import best_answers
from .heads import Head, Inputs, log_odds
from .words import NO_WORD, Request, Row, Target


def _first_tokens(row: Row) -> dict[int, int]:
    """Return the place of the first token of each word."""
    return {word: place for place, word in reversed(list(enumerate(row.words))) if word != NO_WORD}


def _kind(label: str) -> str:
    """Return the label of the entities whose words have a label; empty if these words are in none."""
    return "" if label == "O" else label[2:] if label[1:2] == "-" else label


def _wrong(wanted: str, allowed: str, found: Sequence[str]) -> ValueError:
    return ValueError(f"target must be {allowed}, got {wanted!r}; the model finds {', '.join(found) or 'none'}.")


class EntityHead(Head):
    """Token classification: entities. A word has the label of its first token. The outputs are logits (L, C)."""

    counts = (1,)
    in_place = True

    def outputs(self, inputs: Inputs, rows: Sequence[Row]) -> Sequence[torch.Tensor]:
        """See `Head`."""
        logits = self.model(**inputs, return_dict=True).logits.float()
        return [each[: len(row.ids)] for each, row in zip(logits, rows, strict=True)]

    def targets(self, request: Request, outputs: Sequence[torch.Tensor], wanted: str | None) -> list[Target]:
        """See `Head`."""
        first = _first_tokens(request.rows[0])
        indices = {word: int(outputs[0][place].argmax()) for word, place in first.items()}
        names = {index: str(label) for index, label in self.model.config.id2label.items()}
        found: list[tuple[str, list[int]]] = []
        before = ""
        for word in sorted(first):
            label = names[indices[word]]
            kind = _kind(label)
            if kind and (label.startswith(("B-", "S-", "U-")) or kind != before):
                found.append((kind, []))
            if kind:
                found[-1][1].append(word)
            before = kind
        targets, named, text = [], [], request.texts[0]
        for kind, members in found:
            start, end = request.words[members[0]].start, request.words[members[-1]].end
            named.append(f"{text[start:end]} ({kind})")
            if wanted in (None, kind, text[start:end]):
                places, labels = (tuple(known[word] for word in members) for known in (first, indices))
                targets.append(Target(named[-1], "mean log-odds", labels, places, 0, start, end))
        if wanted is not None and not targets and wanted not in {_kind(label) for label in names.values()} - {""}:
            raise _wrong(wanted, "a label of entities, or an entity of the text", named)
        return targets

    def number(self, target: Target, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """See `Head`."""
        pairs = zip(target.places, target.indices, strict=True)
        return torch.stack([log_odds(outputs[0][place], index) for place, index in pairs]).mean()


class AnswerHead(Head):
    """Question answering: an answer in the second text. The outputs are logits (L, 2) of starts and ends."""

    counts = (2,)
    in_place = True

    def scaled(self, numbers: torch.Tensor) -> torch.Tensor:
        """See `Head`."""
        return numbers.exp()

    def outputs(self, inputs: Inputs, rows: Sequence[Row]) -> Sequence[torch.Tensor]:
        """See `Head`."""
        found = self.model(**inputs, return_dict=True)
        logits = torch.stack([found.start_logits, found.end_logits], dim=-1).float()
        return [each[: len(row.ids)] for each, row in zip(logits, rows, strict=True)]

    def targets(self, request: Request, outputs: Sequence[torch.Tensor], wanted: str | None) -> list[Target]:
        """See `Head`."""
        context, row = request.texts[1], request.rows[0]
        known = [None if word == NO_WORD else request.words[word] for word in row.words]
        spans = [(word.start, word.end) if word is not None and word.source == 1 else None for word in known]
        if wanted is None:
            start, end = outputs[0].unbind(-1)
            best = best_answers([(start.cpu(), end.cpu(), spans)], context)
            if not best:
                raise ValueError(f"text_pair has no words that the model reads after {request.name()}.")
            first, last = best[0]["start"], best[0]["end"]
        else:
            first = context.find(wanted)
            last = first + len(wanted)
        inside = [place for place, span in enumerate(spans) if span and span[0] < last and span[1] > first]
        if first < 0 or (not wanted and wanted is not None) or not inside:
            raise ValueError(f"target must be an answer in the part of text_pair that the model reads, got {wanted!r}.")
        places = (inside[0], inside[-1])
        return [Target(context[first:last], "log-probability", (0, 1), places, 1, first, last)]

    def number(self, target: Target, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """See `Head`."""
        start, end = outputs[0].log_softmax(0).unbind(-1)
        return start[target.places[0]] + end[target.places[1]]


class MaskHead(Head):
    """Masked language modelling: the token at each mask of a text. The outputs are logits (P, V)."""

    in_place = True

    def outputs(self, inputs: Inputs, rows: Sequence[Row]) -> Sequence[torch.Tensor]:
        """See `Head`."""
        places = [self._masks(row) for row in rows]
        needed = torch.zeros(inputs["attention_mask"].shape, dtype=torch.bool, device=self.model.device)
        for row, masks in enumerate(places):
            needed[row, masks] = True
        hidden = self.encoder(**inputs, needed=needed, return_dict=True).last_hidden_state[needed]
        return self.model.decoder(self.model.head(hidden)).float().split([len(masks) for masks in places])

    def _masks(self, row: Row) -> list[int]:
        """Return the places of the masks of the text itself, which belong to no word."""
        pairs = enumerate(zip(row.ids, row.words, strict=True))
        return [p for p, (token, word) in pairs if token == self.tokenizer.mask_token_id and word == NO_WORD]

    def targets(self, request: Request, outputs: Sequence[torch.Tensor], wanted: str | None) -> list[Target]:
        """See `Head`."""
        places = self._masks(request.rows[0])
        if not places:
            raise ValueError(f"a text must have a mask ({self.tokenizer.mask_token}) to explain, got {request.name()}.")
        targets = []
        for number, (place, logits) in enumerate(zip(places, outputs[0], strict=True)):
            index = int(logits.argmax()) if wanted is None else max(self._tokens(wanted), key=lambda each: logits[each])
            name = self.tokenizer.decode([index]).strip()
            targets.append(Target(name, "log-odds", (number, index), (place,)))
        return targets

    def _tokens(self, wanted: str) -> set[int]:
        """Return the tokens that a word may be: in some vocabularies, it is another after a space."""
        ids = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (wanted, f" {wanted}")]
        single = {each[0] for each in ids if len(each) == 1} - {self.tokenizer.unk_token_id}
        if not single:
            raise ValueError(f"target must be a single token of the vocabulary, got {wanted!r}.")
        return single

    def number(self, target: Target, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """See `Head`."""
        number, index = target.indices
        return log_odds(outputs[0][number], index)

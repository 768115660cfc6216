"""Writes many texts at once, without padding: each step predicts the masks of all texts that are not done.

Shapes: N texts, T tokens of all texts, M masks of all texts, V vocabulary, D hidden.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, cast

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from ..packing import run_packed
from .draft import Draft
from .unmasking import UNMASKING, Predictions, entropy_of, in_order, within_entropy_bound
from .unmasking_options import UnmaskingOptions

# Tokens in a forward pass, and logits in memory at once.
_MAX_TOKENS = 16_384
_MAX_LOGITS = 1 << 23
# Logits of a forward pass that are kept until its tokens have been chosen, as joint constraints demand.
_MAX_KEPT_LOGITS = 1 << 27


class Sampler:
    """Writes drafts.

    Args:
        model: A `SequenceEncoderForMaskedLM` in evaluation mode.
        options: How masks become tokens.
        processors: Processors of logits that users pass.
        kept: Tokens of a prompt that stay without guidance, such as [CLS].
    """

    def __init__(
        self, model: Any, options: UnmaskingOptions, processors: LogitsProcessorList | None, kept: Sequence[int]
    ) -> None:
        self.model, self.options = model, options
        self.rule = UNMASKING[options.unmasking]
        self.kept = torch.tensor(kept, dtype=torch.long)
        self.processors = LogitsProcessorList(processors or [])
        self.warpers = LogitsProcessorList()
        if options.repetition_penalty != 1:
            self.processors.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
        if options.do_sample:
            if options.temperature != 1:
                self.warpers.append(TemperatureLogitsWarper(float(options.temperature)))
            if options.top_k:
                self.warpers.append(TopKLogitsWarper(options.top_k))
            if options.top_p < 1:
                self.warpers.append(TopPLogitsWarper(options.top_p))

    def write(self, drafts: Sequence[Draft], after_step: Callable[[], None] = lambda: None) -> None:
        """Write all masks of drafts.

        Args:
            drafts: The texts.
            after_step: Called after each step.
        """
        active = [draft for draft in drafts if not draft.done]
        size = _MAX_TOKENS
        if any(draft.joint for draft in drafts):
            size = min(size, _MAX_KEPT_LOGITS // self.model.config.vocab_size)
        while active:
            for group in _groups(active, size):
                self._step(group)
            for draft in active:
                draft.advance(self.options.remasking)
            active = [draft for draft in active if not draft.done]
            after_step()

    def _step(self, drafts: list[Draft]) -> None:
        """Write some masks of each draft."""
        parts = [self._masks_to_predict(draft) for draft in drafts]
        drafts = [draft for draft, (places, _) in zip(drafts, parts, strict=True) if len(places)]
        if not drafts:
            return
        counts = [len(places) for places, _ in parts if len(places)]
        text = torch.arange(len(drafts)).repeat_interleave(torch.tensor(counts))
        places, uniform = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts], 1)
        found, scores = self._predict(drafts, text, places, uniform)
        quotas = torch.tensor([draft.quota(count) for draft, count in zip(drafts, counts, strict=True)])
        written = self._masks_to_write(found, text, quotas)
        for number, part in _by_text(text[written]):
            draft, mine = drafts[number], written[part]
            if draft.joint:
                self._write_in_turn(draft, places[mine], [scores[int(index)] for index in mine], uniform[0, mine])
            else:
                draft.write(places[mine], found.tokens[mine], found.confidence[mine])

    def _masks_to_predict(self, draft: Draft) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the places (M,) of the masks of a draft that this step predicts, and random numbers (2, M)."""
        places = draft.masked().nonzero()[:, 0]
        uniform = draft.uniform(2 * len(places)).view(2, -1)
        if not self.rule.ancestral:
            return places, uniform
        # What the model predicts does not matter for which masks are written, so the others need no prediction.
        written = uniform[1] >= 1 - 1 / draft.steps_left
        return places[written], uniform[:, written]

    def _masks_to_write(self, found: Predictions, text: torch.Tensor, quotas: torch.Tensor) -> torch.Tensor:
        """Return which masks to write, text by text, those with the highest priority first."""
        order, rank = in_order(text, found.priority)
        if self.rule.ancestral:
            return order
        chosen = rank < quotas[text[order]]
        if self.options.confidence_threshold is not None:
            chosen |= found.confidence[order] >= self.options.confidence_threshold
        if self.options.entropy_bound is not None:
            entropy = cast(torch.Tensor, found.entropy)[order]
            chosen |= within_entropy_bound(entropy, rank, self.options.entropy_bound)
        return order[chosen]

    def _predict(
        self,
        drafts: list[Draft],
        text: torch.Tensor,
        places: torch.Tensor,
        uniform: torch.Tensor,
    ) -> tuple[Predictions, dict[int, torch.Tensor]]:
        """Predict masks. Also return the scores (V,) of masks in drafts with joint constraints, by mask."""
        starts = torch.tensor([0, *accumulate(len(draft.ids) for draft in drafts)])
        needed = torch.zeros(int(starts[-1]), dtype=torch.bool).index_fill(0, starts[text] + places, True)
        states = self._states([draft.ids for draft in drafts], needed)
        without = None
        if self.options.guidance_scale != 1:
            without = self._states([self._without_prompt(draft) for draft in drafts], needed)
        for draft in drafts:
            draft.steps_taken += 1
        rows = max(1, _MAX_LOGITS // self.model.config.vocab_size)
        parts, joint = [], {}
        for start in range(0, len(states), rows):
            part = slice(start, start + rows)
            scores = self._logits(states[part], None if without is None else without[part])
            self._process(scores, drafts, text[part], places[part])
            parts.append(self._choose(scores, uniform[:, part]))
            for index, number in enumerate(text[part].tolist()):
                if drafts[number].joint:
                    joint[start + index] = scores[index].cpu()
        return _joined(parts), joint

    def _states(self, rows: list[torch.Tensor], needed: torch.Tensor) -> torch.Tensor:
        """Return the states (M, D) of the needed tokens (T,) after the last layer, which computes only these."""
        outputs = run_packed(self.model.model, [row.tolist() for row in rows], needed[None])
        states: torch.Tensor = outputs.last_hidden_state[0]
        return states[needed.to(states.device)]

    def _without_prompt(self, draft: Draft) -> torch.Tensor:
        given = ~draft.writable & ~torch.isin(draft.ids, self.kept)
        return draft.ids.masked_fill(given, draft.mask)

    def _logits(self, states: torch.Tensor, without: torch.Tensor | None) -> torch.Tensor:
        """Return logits in float32, with classifier-free guidance (Ho and Salimans, 2022) if there are two states."""
        model = self.model
        scores = model.decoder(model.head(states)).float()
        if without is None:
            return scores
        free = model.decoder(model.head(without)).float().log_softmax(-1)
        return free + self.options.guidance_scale * (scores.log_softmax(-1) - free)

    def _process(self, scores: torch.Tensor, drafts: list[Draft], text: torch.Tensor, places: torch.Tensor) -> None:
        """Apply processors and constraints to scores in place."""
        if self.processors:
            longest = max(len(draft.ids) for draft in drafts)
            padded = torch.stack(
                [
                    torch.nn.functional.pad(draft.ids, (0, longest - len(draft.ids)), value=draft.mask)
                    for draft in drafts
                ]
            )
            scores.copy_(self.processors(cast(Any, padded[text].to(scores.device)), cast(Any, scores)))
        for number, mine in _by_text(text):
            _forbid(drafts[number], places[mine], scores[mine])

    def _choose(self, scores: torch.Tensor, uniform: torch.Tensor) -> Predictions:
        """Choose a token for each mask, given processed scores (M, V) and random numbers (2, M)."""
        total = scores.logsumexp(-1)
        if not bool(total.isfinite().all()):
            forbidden = bool((total == -torch.inf).any())
            cause = "constraints leave no token for a mask" if forbidden else "logits of the model are not finite"
            raise ValueError(f"No token can be chosen: the {cause}.")
        tokens = self._tokens(scores, uniform[0])
        confidence = (scores.gather(1, tokens[:, None])[:, 0] - total).exp()
        priority = self.rule.priority(scores, confidence, uniform[1].to(scores.device))
        entropy = entropy_of(scores).cpu() if self.options.entropy_bound is not None else None
        return Predictions(tokens.cpu(), confidence.cpu(), priority.cpu(), entropy)

    def _tokens(self, scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """Return the most probable tokens, or draw tokens."""
        if not self.options.do_sample:
            return scores.argmax(-1)
        # The processors of transformers read `input_ids` only before the warpers.
        warped = self.warpers(cast(Any, None), scores)
        sums = warped.softmax(-1).cumsum(-1)
        # Slightly less than 1, so that rounding never selects a token after the last possible one.
        wanted = uniform.to(sums.device)[:, None] * (1 - 1e-6) * sums[:, -1:]
        return torch.searchsorted(sums, wanted, right=True)[:, 0]

    def _write_in_turn(
        self, draft: Draft, places: torch.Tensor, scores: list[torch.Tensor], uniform: torch.Tensor
    ) -> None:
        """Write one token after another, each given those before, as joint constraints demand."""
        for index, place in enumerate(places):
            row = scores[index][None].clone()
            _forbid(draft, place[None], row)
            chosen = self._choose(row, uniform[index].expand(2, 1))
            draft.write(place[None], chosen.tokens, chosen.confidence)


def _forbid(draft: Draft, places: torch.Tensor, scores: torch.Tensor) -> None:
    """Apply the constraints of a draft to scores (M, V) of some of its masks, in place."""
    for constraint in draft.constraints:
        constraint.forbid(draft.ids, places, scores)


def _groups(drafts: list[Draft], size: int) -> Iterator[list[Draft]]:
    """Split drafts into groups of at most so many tokens, or of one draft."""
    group: list[Draft] = []
    tokens = 0
    for draft in drafts:
        if group and tokens + len(draft.ids) > size:
            yield group
            group, tokens = [], 0
        group.append(draft)
        tokens += len(draft.ids)
    yield group


def _by_text(text: torch.Tensor) -> Iterator[tuple[int, slice]]:
    """Return the place of each text in ascending numbers (M,) of texts."""
    numbers, counts = text.unique_consecutive(return_counts=True)
    ends = accumulate(counts.tolist())
    for number, count, end in zip(numbers.tolist(), counts.tolist(), ends, strict=True):
        yield number, slice(end - count, end)


def _joined(parts: list[Predictions]) -> Predictions:
    tokens, confidence, priority = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("tokens", "confidence", "priority")
    )
    entropy = [part.entropy for part in parts if part.entropy is not None]
    return Predictions(tokens, confidence, priority, torch.cat(entropy) if entropy else None)

"""Gives the masked language model the method `generate`, which writes by unmasking.

Shapes: B texts, S padded length, V vocabulary.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer
from transformers.utils.generic import ModelOutput

from ..cpu.prepacked import prepacked_for
from ..text_encoding.evaluation_mode import evaluation_mode
from .constraints import AllowedTokens, BannedTokens, BannedWithin, BannedWords, Constraint
from .draft import Draft
from .sampler import Sampler
from .unmasking_options import UnmaskingOptions


@dataclass
class UnmaskingOutput(ModelOutput):
    """Output of `generate` with `return_dict_in_generate=True`.

    Attributes:
        sequences: (B, S) the texts.
        confidence: (B, S) the probability of each written token when it was written, and 0 elsewhere.
        steps: (B,) number of forward passes for each text.
    """

    sequences: torch.Tensor | None = None
    confidence: torch.Tensor | None = None
    steps: torch.Tensor | None = None


class MaskedGenerationMixin(GenerationMixin):
    """Mixin that fills masks and continues texts, as masked diffusion models do (Sahoo et al., 2024)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._keep_own_options()

    def adjust_generation_fn(self, *args: Any, **kwargs: Any) -> None:
        """Load the generation configuration of a folder."""
        cast(Any, super()).adjust_generation_fn(*args, **kwargs)
        self._keep_own_options()

    def _keep_own_options(self) -> None:
        # Transformers drops options that it does not know if the configuration of the model is their source.
        self.generation_config._from_model_config = False

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        streamer: BaseStreamer | None = None,
        *,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        allowed_tokens: Any = None,
        bad_words_ids: list[list[int]] | None = None,
        return_dict_in_generate: bool | None = None,
        custom_generate: str | Callable[..., Any] | None = None,
        **options: Any,
    ) -> Any:
        """Fill all masks of texts and, with `max_new_tokens`, continue the texts.

        Each step predicts all masks of all texts that are not done, without padding, and writes the surest. A text's
        result depends neither on the padding nor on the other texts, up to rounding.

        Args:
            inputs: (B, S) token ids, also as `input_ids`. All mask tokens are filled.
            generation_config: Options that replace those of `model.generation_config`. Keyword arguments have
                precedence.
            logits_processor: Processors of transformers. They get the text of each mask, padded with masks, (M, S), and
                the logits (M, V) of M masks.
            streamer: A streamer of transformers for a single text, such as `TextDiffusionStreamer`, which also gets the
                text after each step.
            input_ids: See `inputs`.
            attention_mask: (B, S), 0 at padding, which may be on either side; by default, padding tokens at the ends of
                rows are padding.
            token_type_ids: (B, S), only 0, as tokenizers return them for single texts.
            allowed_tokens: Ids that may be written, or a dict of them by index in the row, or one such dict for each
                row.
            bad_words_ids: Token sequences that must not be written.
            return_dict_in_generate: Whether to return an `UnmaskingOutput`.
            custom_generate: See `GenerationMixin.generate`.
            **options: The options below, which may also be attributes of the generation configuration.

                - `max_new_tokens`: Write up to that many tokens after each text. A final separator is removed first,
                  and the model reads [CLS] before texts that lack it.
                - `min_new_tokens`: Let no text end before that many new tokens.
                - `block_length`: Number of new tokens that are masked at once (semi-autoregressive; Arriola et al.,
                  2025); by default all.
                - `steps`: Maximum number of steps for each block; by default one for each mask. With fewer, several
                  tokens are written at once, which is faster and worse.
                - `unmasking`: Which masks are written first: those with the highest probability ("confidence"), with
                  the largest distance to the second token ("margin"), with the lowest entropy ("entropy"), or any
                  ("random", the ancestral sampling of MDLM).
                - `entropy_bound`: Also write masks in a step as long as the bound on their mutual information, in nats,
                  is below this number (Ben-Hamu et al., 2025); needs `unmasking="entropy"`.
                - `confidence_threshold`: Also write all tokens with at least this probability, so that a text is done
                  early where the model is sure (Wu et al., 2025); needs `unmasking="confidence"`.
                - `remasking`: The share, from 0 to 1, of the largest possible number of written tokens to mask again in
                  a step, the least probable first (Wang et al., 2025).
                - `guidance_scale`: Classifier-free guidance by the prompt; 1 disables it. It doubles the computation.
                - `do_sample`, `temperature`, `top_k`, `top_p`, `repetition_penalty`, `num_return_sequences`: As in
                  transformers.
                - `mask_token_id`: The mask token; by default that of the model's configuration.
                - `eos_token_id`: Tokens that end a continuation; by default the separator.
                - `fill_token_id`: The token that a model writes where it leaves a mask empty, as one does that has
                  learned from `adapt --task infilling`. A continuation is returned without it.
                - `seed`: Makes random choices repeatable. They depend on the seed, the text, and how often the same
                  text precedes it in the batch; by default also on torch's global seed.

        Returns:
            (B, S) token ids, padded on the right behind the longest text, or an `UnmaskingOutput`.

        Raises:
            ValueError: If an argument is not allowed, there is nothing to write, a text is too long for the model, or
                the constraints leave no token.
        """
        if custom_generate is not None:
            ours = {
                "allowed_tokens": allowed_tokens,
                "bad_words_ids": bad_words_ids,
                "return_dict_in_generate": return_dict_in_generate,
            }
            given = {name: value for name, value in ours.items() if value is not None}
            return super().generate(
                cast(Any, inputs if input_ids is None else input_ids),
                generation_config,
                logits_processor,
                streamer=cast(Any, streamer),
                attention_mask=attention_mask,
                custom_generate=custom_generate,
                **given,
                **options,
            )
        if (inputs is None) == (input_ids is None):
            raise ValueError("Pass either inputs or input_ids.")
        if token_type_ids is not None and bool(token_type_ids.any()):
            raise ValueError("token_type_ids must be 0: the model writes texts of one segment.")
        defaults = self.generation_config
        config = defaults if generation_config is None else generation_config
        chosen, unknown = UnmaskingOptions.read(options, config, defaults)
        if unknown:
            raise ValueError(f"generate has no argument {', '.join(unknown)}.")
        ids = cast(torch.Tensor, inputs if input_ids is None else input_ids)
        texts, skipped = _texts_of_rows(ids, attention_mask, cast(Any, self).config.pad_token_id)
        added = [self._needs_start(text, chosen) for text in texts]
        start = torch.tensor([cast(Any, self).config.cls_token_id or 0])
        texts = [torch.cat([start, text]) if needed else text for text, needed in zip(texts, added, strict=True)]
        # The place of a row's first token in its text, and the padding before it.
        shifts = [left - needed for left, needed in zip(skipped, added, strict=True)]
        configured = (getattr(source, "bad_words_ids", None) for source in (config, defaults))
        banned = bad_words_ids or next(filter(None, configured), None)
        constraints = _constraints(allowed_tokens, banned, shifts, cast(Any, self).config.vocab_size, chosen)
        drafts = self.write_drafts(texts, chosen, constraints, logits_processor, streamer)
        copies = chosen.num_return_sequences
        for draft in drafts:
            draft.drop(chosen.fill_token_id)
        rows = [(skipped[index // copies], int(added[index // copies]), draft) for index, draft in enumerate(drafts)]
        sequences = _padded([(left, draft.ids[first:]) for left, first, draft in rows], self._pad(chosen))
        if return_dict_in_generate is None:
            return_dict_in_generate = bool(getattr(config, "return_dict_in_generate", False))
        if not return_dict_in_generate:
            return sequences.to(ids.device)
        confidence = _padded([(left, draft.confidence[first:]) for left, first, draft in rows], 0)
        steps = torch.tensor([draft.steps_taken for draft in drafts])
        return UnmaskingOutput(*(x.to(ids.device) for x in (sequences, confidence, steps)))

    def _needs_start(self, text: torch.Tensor, options: UnmaskingOptions) -> bool:
        """Return whether a text to continue lacks [CLS], as those of the "text-generation" pipeline do."""
        start = cast(Any, self).config.cls_token_id
        return bool(options.max_new_tokens) and start is not None and not (len(text) and int(text[0]) == start)

    def write_drafts(
        self,
        texts: Sequence[torch.Tensor],
        options: UnmaskingOptions,
        constraints: Sequence[Sequence[Constraint]],
        processors: LogitsProcessorList | None = None,
        streamer: BaseStreamer | None = None,
        empty: Sequence[Sequence[int]] | None = None,
    ) -> list[Draft]:
        """Write texts, as `generate` does, which describes the options.

        Args:
            texts: The token ids of each text (L,), on the CPU.
            options: The options.
            constraints: The constraints of each text.
            processors: Processors of logits.
            streamer: A streamer for a single text.
            empty: The places in each text that may stay empty, where [PAD] may be written.

        Returns:
            `num_return_sequences` finished drafts for each text.
        """
        model = cast(Any, self)
        drafts = self._drafts(texts, options, constraints, empty or [()] * len(texts))
        if streamer is not None and len(drafts) > 1:
            raise ValueError(f"A streamer can follow only one text, got {len(drafts)}.")
        config = model.config
        kept = [i for i in (config.cls_token_id, config.bos_token_id, config.sep_token_id) if i is not None]
        sampler = Sampler(model, options, processors, kept)
        shown = _Shown(streamer, drafts[0]) if streamer is not None else None
        passes = sum(len(draft.ids) * draft.steps_left for draft in drafts) if model.device.type == "cpu" else 0
        with evaluation_mode(model), prepacked_for(cast(nn.Module, model.model.layers), passes):
            sampler.write(drafts, (lambda: None) if shown is None else shown.update)
        if shown is not None:
            shown.end(options.fill_token_id)
        return drafts

    def _drafts(
        self,
        texts: Sequence[torch.Tensor],
        options: UnmaskingOptions,
        constraints: Sequence[Sequence[Constraint]],
        empty: Sequence[Sequence[int]],
    ) -> list[Draft]:
        """Return drafts of all texts, after checking that each can be written."""
        config = cast(Any, self).config
        mask = config.mask_token_id if options.mask_token_id is None else options.mask_token_id
        if mask is None:
            raise ValueError("mask_token_id is None in the configuration of the model; pass the id of the mask token.")
        new = options.max_new_tokens or 0
        limit = config.max_position_embeddings if config.position_embedding == "learned" else None
        fill = options.fill_token_id
        # The ids of a preset may exceed a smaller vocabulary.
        writable = range(config.vocab_size)
        ends = options.ends or [token for token in (config.sep_token_id,) if token in writable]
        options.check_tokens(config.vocab_size)
        shortening = [token for token in (*ends, fill) if token is not None]
        named = [getattr(config, f"{name}_token_id") for name in ("pad", "cls", "bos", "sep", "eos")]
        special = {token for token in (mask, *named) if token in writable}
        never_written = sorted(special - {*ends, fill})
        seed = int(torch.randint(2**62, ())) if options.seed is None else options.seed
        drafts, repeated = [], Counter[tuple[int, ...]]()
        for row, (text, given, places) in enumerate(zip(texts, constraints, empty, strict=True)):
            if new and len(text) and int(text[-1]) == config.sep_token_id:
                text = text[:-1]
            has_gaps = bool((text == mask).any())
            if not new and not has_gaps:
                raise ValueError(f"Text {row} has no mask (token {mask}) to fill; add masks, or pass max_new_tokens.")
            if limit is not None and len(text) + new > limit:
                more = f" and max_new_tokens={new}" if new else ""
                smaller = "pass a smaller max_new_tokens, or shorten the text" if new else "shorten it or its gaps"
                raise ValueError(
                    f"Text {row} has {len(text)} tokens{more}, but the model has only {limit} positions "
                    f"(max_position_embeddings); {smaller}."
                )
            fixed: list[Constraint] = [BannedTokens(never_written, config.vocab_size), *given]
            if has_gaps:
                fixed.append(BannedWithin(sorted(special.intersection(ends) - {fill}), 0, len(text)))
                if fill is not None:
                    fixed.append(BannedWithin([fill], 0, len(text), places))
            if options.min_new_tokens:
                fixed.append(BannedWithin(shortening, len(text), len(text) + options.min_new_tokens))
            # A text keeps its seeds wherever it stands in the batch, and neighbouring seeds are independent.
            key = tuple(text.tolist())
            seeds = np.random.SeedSequence([seed, repeated[key], *key]).generate_state(options.num_return_sequences)
            repeated[key] += 1
            for own in seeds.tolist():
                draft = Draft(
                    text,
                    mask,
                    new_tokens=new,
                    block_length=options.block_length,
                    steps=options.steps,
                    ends=ends,
                    constraints=fixed,
                    seed=own,
                )
                drafts.append(draft)
        return drafts

    def _pad(self, options: UnmaskingOptions) -> int:
        pad = options.pad_token_id if options.pad_token_id is not None else cast(Any, self).config.pad_token_id
        return 0 if pad is None else pad


class _Shown:
    """Shows a draft in a streamer: what precedes its first mask, all later tokens after each step, and at the end."""

    def __init__(self, streamer: BaseStreamer, draft: Draft) -> None:
        self.streamer, self.draft = streamer, draft
        self.start = int(draft.masked().nonzero()[0])
        streamer.put(draft.ids[: self.start])
        self.update()

    def update(self) -> None:
        """Show the draft as it is now, if the streamer can take it back."""
        if hasattr(self.streamer, "put_draft"):
            self.streamer.put_draft(self.draft.ids[self.start :])

    def end(self, fill: int | None) -> None:
        """Show the finished text, without the token that leaves masks empty."""
        ids = self.draft.ids[self.start :]
        self.streamer.put(ids if fill is None else ids[~self.draft.writable[self.start :] | (ids != fill)])
        self.streamer.end()


def _constraints(
    allowed_tokens: Any,
    bad_words_ids: list[list[int]] | None,
    shifts: Sequence[int],
    vocab_size: int,
    options: UnmaskingOptions,
) -> list[list[Constraint]]:
    """Return the constraints of each row that the arguments of `generate` describe.

    Args:
        allowed_tokens: See `generate`.
        bad_words_ids: See `generate`.
        shifts: By how much the places of tokens in each row exceed those in its text. Smaller places are padding.
        vocab_size: V.
        options: The other arguments.
    """
    fill = options.fill_token_id
    banned: list[Constraint] = [BannedWords(bad_words_ids, vocab_size, fill)] if bad_words_ids else []
    if allowed_tokens is None:
        return [banned] * len(shifts)
    by_row = isinstance(allowed_tokens, Sequence) and any(isinstance(item, Mapping) for item in allowed_tokens)
    if by_row and len(allowed_tokens) != len(shifts):
        raise ValueError(
            f"allowed_tokens must have one dict for each of {len(shifts)} rows, got {len(allowed_tokens)}."
        )
    rows = allowed_tokens if by_row else [allowed_tokens] * len(shifts)
    shifted = [
        {place - shift: tokens for place, tokens in row.items() if not 0 <= place < shift}
        if isinstance(row, Mapping)
        else row
        for row, shift in zip(rows, shifts, strict=True)
    ]
    return [[AllowedTokens(row, vocab_size), *banned] for row in shifted]


def _texts_of_rows(
    ids: torch.Tensor, attention_mask: torch.Tensor | None, pad: int | None
) -> tuple[list[torch.Tensor], list[int]]:
    """Return the tokens of each row without padding, on the CPU, and the number of padding tokens on its left."""
    if not isinstance(ids, torch.Tensor) or ids.dim() != 2 or ids.is_floating_point() or not len(ids):
        shape = f"{ids.dtype} of shape {tuple(ids.shape)}" if isinstance(ids, torch.Tensor) else repr(ids)
        raise ValueError(f"input_ids must be a tensor of integers of shape (B, S), got {shape}.")
    if attention_mask is not None and attention_mask.shape != ids.shape:
        raise ValueError(
            f"attention_mask must have the shape of input_ids, {tuple(ids.shape)}, got {tuple(attention_mask.shape)}."
        )
    rows = ids.long().cpu()
    real = rows != (-1 if pad is None else pad) if attention_mask is None else attention_mask.cpu() != 0
    texts, skipped = [], []
    for number, (row, places) in enumerate(zip(rows, real, strict=True)):
        found = places.nonzero()[:, 0].tolist() or [0, -1]
        start, stop = found[0], found[-1] + 1
        if attention_mask is not None and not bool(places[start:stop].all()):
            raise ValueError(f"attention_mask must be 0 only at the ends of a row, but is 0 inside row {number}.")
        texts.append(row[start:stop].clone())
        skipped.append(start)
    return texts, skipped


def _padded(rows: Sequence[tuple[int, torch.Tensor]], value: int) -> torch.Tensor:
    """Stack rows (L,), each with so much padding on the left, and the rest on the right."""
    size = max(left + len(row) for left, row in rows)
    return torch.stack([nn.functional.pad(row, (left, size - left - len(row)), value=value) for left, row in rows])

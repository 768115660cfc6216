"""Encoding many texts: sorted by length, packed without padding up to a number of tokens, returned in their order.

Shapes: N texts, T tokens of a batch, D hidden.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

# Texts that are tokenised and sorted together: hundreds of batches.
CHUNK = 16_384


class TextEncoding:
    """`encode` and `iter_encode`, as methods of the encoder."""

    def encode(
        self,
        sentences: str | Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        convert_to_tensor: bool = False,
        **options: Any,
    ) -> torch.Tensor | Any:
        """One vector for each text, for search, clustering and comparison.

        Names are those of `SentenceTransformer.encode`; but a batch has a number of tokens, not of texts, and no
        padding. Computed with the dtype and device of the model, in evaluation mode and without gradients.

        Args:
            sentences: texts, or one of them.
            tokenizer: that of the model.
            convert_to_tensor: return a tensor on the device of the model, and not an array.
            options: of `iter_encode`.

        Returns:
            (N, D), in the order of the texts; (D,) for a single text.

        Raises:
            ValueError: for arguments that are not allowed.
        """
        if not convert_to_tensor:
            _check_numpy_has(options.get("dtype"))
        texts = [sentences] if isinstance(sentences, str) else sentences
        parts = cast("list[torch.Tensor]", list(self.iter_encode(texts, tokenizer, convert_to_tensor=True, **options)))
        if parts:
            vectors = torch.cat(parts)
        else:
            channels = cast(PreTrainedModel, self).config.hidden_size
            vectors = torch.empty(0, channels, dtype=options.get("dtype", torch.float32), device=self._result_device())
        vectors = vectors[0] if isinstance(sentences, str) else vectors
        return vectors if convert_to_tensor else vectors.cpu().numpy()

    def iter_encode(
        self,
        sentences: Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: str = "mean",
        normalize_embeddings: bool = False,
        max_length: int | None = None,
        max_tokens: int = 2048,
        dtype: torch.dtype = torch.float32,
        convert_to_tensor: bool = False,
        show_progress_bar: bool | None = None,
    ) -> Iterator[torch.Tensor | Any]:
        """As `encode`, for more texts than memory holds: reads and yields some thousands at a time.

        Args:
            sentences: texts; may be an iterator without an end.
            tokenizer: that of the model.
            pooling: `mean` or `cls`, of the vectors of the last layer.
            normalize_embeddings: whether vectors are scaled to the length 1.
            max_length: longer texts are cut to so many tokens; by default to what tokenizer and model allow.
            max_tokens: of a batch, unless a single text has more.
            dtype: of the results.
            convert_to_tensor: yield tensors on the device of the model, and not arrays.
            show_progress_bar: by default where the log level of transformers is INFO or lower.

        Yields:
            (N, D) for the next N texts.

        Raises:
            ValueError: for arguments that are not allowed.
        """
        if isinstance(sentences, str):
            raise ValueError("sentences must be texts, got a single str; put it in a list.")
        check_pooling(pooling)
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}.")
        if not convert_to_tensor:
            _check_numpy_has(dtype)
        max_length = self.longest_text(tokenizer, max_length)
        if show_progress_bar is None:
            show_progress_bar = logging.get_verbosity() <= logging.INFO
        return self._iter_encode(
            sentences, tokenizer, pooling, normalize_embeddings, max_length, max_tokens, dtype, convert_to_tensor,
            show_progress_bar,
        )  # fmt: skip

    def longest_text(self, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> int | None:
        """The tokens that a text is cut to: `max_length`, or else what tokenizer and model allow; None for no limit.

        Raises:
            ValueError: if `max_length` is more than the model has positions, or the tokenizer has more tokens than it.
        """
        config = cast(PreTrainedModel, self).config
        if len(tokenizer) > config.vocab_size:
            raise ValueError(
                f"tokenizer has {len(tokenizer)} tokens, and the model vectors for vocab_size={config.vocab_size}. Is "
                f"it that of the model? If so, resize_token_embeddings({len(tokenizer)}) makes room."
            )
        positions = config.max_position_embeddings if config.position_embedding == "learned" else None
        if max_length is None:
            # Tokenizers without a limit have an enormous one.
            limits = [n for n in (positions, tokenizer.model_max_length) if n is not None and n < 10**9]
            return min(limits, default=None)
        least = tokenizer.num_special_tokens_to_add() + 1
        if max_length < least or (positions is not None and max_length > positions):
            most = "" if positions is None else f" and at most {positions}"
            raise ValueError(f"max_length must be at least {least}{most}, got {max_length}.")
        return max_length

    def _iter_encode(
        self,
        sentences: Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        pooling: str,
        normalize: bool,
        max_length: int | None,
        max_tokens: int,
        dtype: torch.dtype,
        convert_to_tensor: bool,
        show_progress_bar: bool,
    ) -> Iterator[torch.Tensor | Any]:
        total = len(sentences) if isinstance(sentences, Sized) else None
        iterator = iter(sentences)
        with logging.tqdm(total=total, desc="Encoding", unit="text", disable=not show_progress_bar) as progress:
            while chunk := list(itertools.islice(iterator, CHUNK)):
                for text in chunk:
                    if not isinstance(text, str):
                        raise ValueError(f"sentences must be texts, got a {type(text).__name__} among them: {text!r}.")
                encoded = tokenizer(
                    chunk, truncation=max_length is not None, max_length=max_length, return_attention_mask=False
                )
                vectors = self._encode_ids(encoded["input_ids"], pooling, max_tokens, progress)
                if normalize:
                    vectors = torch.nn.functional.normalize(vectors, dim=-1)
                vectors = vectors.to(dtype)
                yield vectors if convert_to_tensor else vectors.cpu().numpy()

    def _result_device(self) -> torch.device:
        """That of the model; where weights are on the disk, they are on none until they are needed."""
        device = cast(PreTrainedModel, self).device
        return torch.device("cpu") if device.type == "meta" else device

    @torch.no_grad()
    def _encode_ids(self, ids: list[list[int]], pooling: str, max_tokens: int, progress: Any) -> torch.Tensor:
        """(N, D) in float32, or in float64 if the model is; zero for a text without tokens."""
        model = cast(PreTrainedModel, self)
        device = self._result_device()
        dtype = torch.promote_types(model.dtype, torch.float32)
        vectors = torch.zeros(len(ids), model.config.hidden_size, device=device, dtype=dtype)
        modes = [(module, module.training) for module in model.modules() if module.training]
        if modes:
            model.eval()
        try:
            # The longest first: if there is too little memory, it is seen at once.
            for batch in reversed(token_batches([len(text) for text in ids], max_tokens)):
                lengths = [len(ids[i]) for i in batch]
                row = torch.tensor(list(itertools.chain.from_iterable(ids[i] for i in batch)))[None].to(device)
                offsets = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32).to(device)
                pool, needed_of = POOLINGS_OF_RUNS[pooling]
                packing = {"cu_seq_lens_q": offsets, "cu_seq_lens_k": offsets}
                outputs = model(input_ids=row, needed=needed_of(offsets), return_dict=True, **packing)
                pooled = pool(outputs.last_hidden_state[0], lengths)
                vectors[batch] = pooled.to(device, dtype)
                progress.update(len(batch))
        finally:
            for module, training in modes:
                module.training = training
        return vectors


def _check_numpy_has(dtype: torch.dtype | None) -> None:
    if dtype == torch.bfloat16:
        raise ValueError("dtype=torch.bfloat16 is none of numpy's; with it, pass convert_to_tensor=True.")


def token_batches(lengths: list[int], max_tokens: int) -> list[list[int]]:
    """Indices of texts in batches of at most `max_tokens` tokens, the shortest first; none of texts without tokens."""
    batches: list[list[int]] = []
    tokens = max_tokens
    for index in sorted((i for i, length in enumerate(lengths) if length), key=lengths.__getitem__):
        tokens += lengths[index]
        if tokens > max_tokens:
            batches.append([])
            tokens = lengths[index]
        batches[-1].append(index)
    return batches


def _means(hidden_states: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """(T, D) of texts one after the other, the shortest first, to their means (N, D)."""
    runs = [(length, len(list(group))) for length, group in itertools.groupby(lengths)]
    parts = hidden_states.split([length * count for length, count in runs])
    means = [part.unflatten(0, (count, length)).mean(1) for part, (length, count) in zip(parts, runs, strict=True)]
    return torch.cat(means)


def _firsts(hidden_states: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """(T, D) of texts one after the other to their first vectors (N, D)."""
    return hidden_states[[0, *itertools.accumulate(lengths[:-1])]]


def _starts(offsets: torch.Tensor) -> torch.Tensor:
    """Which tokens are the first of a text, (1, T) bool; offsets (N + 1,), none of an empty text."""
    tokens = torch.zeros(int(offsets[-1]), dtype=torch.bool, device=offsets.device)
    return tokens.index_fill(0, offsets[:-1].long(), True)[None]


# How the vectors of texts one after the other become one each, and which are needed for it.
POOLINGS_OF_RUNS: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor | bool]]] = {
    "mean": (_means, lambda offsets: True),
    "cls": (_firsts, _starts),
}


def check_pooling(pooling: str) -> None:
    """Checks the name of a pooling.

    Raises:
        ValueError: if there is none of that name.
    """
    if pooling not in POOLINGS_OF_RUNS:
        raise ValueError(f"pooling must be {' or '.join(map(repr, POOLINGS_OF_RUNS))}, got {pooling!r}.")

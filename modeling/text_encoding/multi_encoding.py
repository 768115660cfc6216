"""`encode_multi`: the dense, sparse and multi-vector representations of texts from one pass, as in BGE-M3.

Names and definitions are those of `BGEM3FlagModel.encode` in FlagEmbedding
(https://github.com/FlagOpen/FlagEmbedding, FlagEmbedding/inference/embedder/encoder_only/m3.py). Batches have no
padding.

Shapes: N texts, L tokens of a text, D channels of dense vectors, C channels of token vectors.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...data.batching import longest_first
from ..cpu.prepacked import prepacked_for
from ..packing import device_of, run_packed
from .evaluation_mode import evaluation_mode
from .multi_scores import lexical_score, multi_vector_score, similarities, weighted_scores
from .prepared_encoding import PreparedEncoding, check_sentences, tokenized_chunks
from .text_encoding import TextEncodingMixin, check_numpy_dtype
from .text_pooling import pooled


class EncodedBatch(NamedTuple):
    """The representations of a batch of texts.

    Attributes:
        pooled: (N, D) in at least float32, before the later steps of the embedding recipe.
        token_weights: The weights of the tokens of each text, (L,) each.
        token_vectors: The vectors of the tokens of each text but the first, (L - 1, C) each.
    """

    pooled: torch.Tensor
    token_weights: tuple[torch.Tensor, ...]
    token_vectors: tuple[torch.Tensor, ...]


class MultiEncodingMixin(TextEncodingMixin):
    """Mixin that gives a model with heads for sparse and multi-vector retrieval the method `encode_multi`."""

    def encode_multi(
        self,
        sentences: str | Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        return_dense: bool = True,
        return_sparse: bool = True,
        return_colbert_vecs: bool = True,
        convert_to_tensor: bool = False,
        show_progress_bar: bool | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Compute the dense, sparse and multi-vector representations of each text in one pass.

        Batches are sorted, limited by tokens and computed without padding, as in `encode`. The dense vectors are those
        of `encode`.

        Args:
            sentences: A text or several texts.
            tokenizer: The tokenizer of the model.
            return_dense: Whether to return the dense vectors.
            return_sparse: Whether to return the weights of the tokens.
            return_colbert_vecs: Whether to return the vectors of the tokens.
            convert_to_tensor: Whether to return tensors on the device of the model instead of NumPy arrays.
            show_progress_bar: See `iter_encode`.
            **options: Arguments of `prepare_encoding`, such as `max_length`, `max_tokens`, `prompt` and `dtype`.

        Returns:
            - `dense_vecs`: (N, D).
            - `lexical_weights`: For each text, the weight of each token that has one, by the id of the token as a
              string. If a token occurs several times, its weight is the largest.
            - `colbert_vecs`: For each text, the vectors (L - 1, C) of its tokens without the first, of unit length.

            In the order of the texts, and None for what was not requested; for a single text without the dimension N
            and without lists.

        Raises:
            ValueError: If an argument is invalid, nothing is requested, the recipe of the folder is not supported, or a
                vector is not finite.
        """
        single = isinstance(sentences, str)
        parts = list(
            self.iter_encode_multi(
                [sentences] if isinstance(sentences, str) else sentences,
                tokenizer,
                return_dense=return_dense,
                return_sparse=return_sparse,
                return_colbert_vecs=return_colbert_vecs,
                convert_to_tensor=convert_to_tensor,
                show_progress_bar=show_progress_bar,
                **options,
            )
        )
        found: dict[str, Any] = {"dense_vecs": None, "lexical_weights": None, "colbert_vecs": None}
        if return_dense:
            empty = () if parts else (self.encode([], tokenizer, convert_to_tensor=True, **options),)
            vectors = torch.cat([*empty, *(torch.as_tensor(part["dense_vecs"]) for part in parts)])
            found["dense_vecs"] = vectors if convert_to_tensor else vectors.cpu().numpy()
        for name, asked in (("lexical_weights", return_sparse), ("colbert_vecs", return_colbert_vecs)):
            if asked:
                found[name] = [text for part in parts for text in part[name]]
        return {name: value[0] if single and value is not None else value for name, value in found.items()}

    def iter_encode_multi(
        self,
        sentences: Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        return_dense: bool = True,
        return_sparse: bool = True,
        return_colbert_vecs: bool = True,
        convert_to_tensor: bool = False,
        show_progress_bar: bool | None = None,
        **options: Any,
    ) -> Iterator[dict[str, Any]]:
        """Like `encode_multi`, but for more texts than fit in memory: read and yield thousands of texts at a time.

        Args:
            sentences: Texts, also from an infinite iterator.
            tokenizer: See `encode_multi`, also for the other arguments.
            return_dense: Whether to yield the dense vectors.
            return_sparse: Whether to yield the weights of the tokens.
            return_colbert_vecs: Whether to yield the vectors of the tokens.
            convert_to_tensor: Whether to yield tensors instead of NumPy arrays.
            show_progress_bar: See `iter_encode`.
            **options: Arguments of `prepare_encoding`.

        Yields:
            What `encode_multi` returns, for the next N texts.

        Raises:
            ValueError: See `encode_multi`.
        """
        check_sentences(sentences)
        asked = (return_dense, return_sparse, return_colbert_vecs)
        if not any(asked):
            raise ValueError("At least one of return_dense, return_sparse and return_colbert_vecs must be True.")
        prepared = self.prepare_encoding(tokenizer, **options)
        if not convert_to_tensor:
            check_numpy_dtype(prepared.dtype)
        return self._iter_encode_multi(sentences, prepared, asked, convert_to_tensor, show_progress_bar)

    def _iter_encode_multi(
        self,
        sentences: Iterable[str],
        prepared: PreparedEncoding,
        asked: tuple[bool, bool, bool],
        convert_to_tensor: bool,
        show_progress_bar: bool | None,
    ) -> Iterator[dict[str, Any]]:
        for ids, name, progress in tokenized_chunks(sentences, prepared, show_progress_bar):
            vectors, weights, token_vectors = self._encode_all(ids, prepared, asked, progress)
            vectors = prepared.finished(vectors, name) if asked[0] else vectors
            if not convert_to_tensor:
                token_vectors = [text.cpu().numpy() for text in token_vectors]
            yield {
                "dense_vecs": (vectors if convert_to_tensor else vectors.cpu().numpy()) if asked[0] else None,
                "lexical_weights": weights if asked[1] else None,
                "colbert_vecs": token_vectors if asked[2] else None,
            }

    def _encode_all(
        self, ids: list[list[int]], prepared: PreparedEncoding, asked: tuple[bool, bool, bool], progress: Any
    ) -> tuple[torch.Tensor, list[dict[str, float]], list[Any]]:
        """Return the pooled vectors, the weights by token and the token vectors of texts, in their order."""
        model, device = cast(PreTrainedModel, self), device_of(self)
        size = model.config.hidden_size * len(prepared.recipe.pooling)
        vectors = torch.zeros(len(ids), size, device=device, dtype=torch.promote_types(model.dtype, torch.float32))
        weights: list[dict[str, float]] = [{} for _ in ids]
        channels = model.config.multi_vector_size or model.config.hidden_size
        token_vectors = [torch.zeros(0, channels, device=device, dtype=prepared.dtype)] * len(ids)
        tokens = sum(map(len, ids)) if device.type == "cpu" else 0
        with evaluation_mode(model), prepacked_for(cast(nn.Module, model.layers), tokens):
            for batch in longest_first([len(text) for text in ids], prepared.max_tokens, progress):
                found = self.encode_multi_batch([ids[i] for i in batch], prepared.recipe.pooling, prepared.skipped)
                vectors[batch] = found.pooled.to(device)
                for place, index in enumerate(batch):
                    if asked[1]:
                        weights[index] = weights_by_token(ids[index], found.token_weights[place])
                    if asked[2]:
                        # A copy, since a part of a batch would keep all of it in memory.
                        token_vectors[index] = found.token_vectors[place].to(device, prepared.dtype, copy=True)
        return vectors, weights, token_vectors

    @torch.no_grad()
    def encode_multi_batch(self, ids: list[list[int]], modes: tuple[str, ...], skipped: int = 0) -> EncodedBatch:
        """Compute all representations of one batch. Call it in evaluation mode.

        Args:
            ids: The token ids of the texts, none of them empty, in ascending order of length.
            modes: The poolings of the dense vectors.
            skipped: Number of tokens that the pooling skips at the start of each text.
        """
        lengths = [len(text) for text in ids]
        outputs = run_packed(self, ids)
        vectors = pooled(outputs.last_hidden_state[0], lengths, modes, skipped)
        vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        # One transfer for the whole batch.
        weights = outputs.token_weights[0].float().cpu().split(lengths)
        token_vectors = tuple(text[1:] for text in outputs.colbert_vecs[0].split(lengths))
        return EncodedBatch(vectors, weights, token_vectors)

    def compute_score(
        self,
        sentence_pairs: Sequence[tuple[str, str]] | tuple[str, str],
        tokenizer: PreTrainedTokenizerBase,
        weights_for_different_modes: Sequence[float] = (1.0, 1.0, 1.0),
        **options: Any,
    ) -> dict[str, Any]:
        """Return the scores of pairs of a query and a document.

        Args:
            sentence_pairs: A pair or several pairs of texts.
            tokenizer: The tokenizer of the model.
            weights_for_different_modes: The weights of the dense, sparse and multi-vector scores in their means.
            **options: Arguments of `encode_multi`, for all texts.

        Returns:
            A number for each pair, or one number for a single pair, by the names "dense", "sparse", "colbert",
            "sparse+dense" and "colbert+sparse+dense".

        Raises:
            ValueError: See `encode_multi`; or if something is not a pair, or the weights are not three numbers of at
                least 0 with a positive sum.
        """
        single = bool(sentence_pairs) and isinstance(sentence_pairs[0], str)
        pairs = cast("list[tuple[str, str]]", [sentence_pairs] if single else list(sentence_pairs))
        for pair in pairs:
            if isinstance(pair, str) or len(pair) != 2:
                raise ValueError(f"sentence_pairs must be pairs of a query and a document, got {pair!r}.")
        # A text of several pairs is computed once.
        places = {text: index for index, text in enumerate(dict.fromkeys(text for pair in pairs for text in pair))}
        found = self.encode_multi(list(places), tokenizer, **options, convert_to_tensor=True)
        sides = [[places[pair[side]] for pair in pairs] for side in (0, 1)]
        dense = (found["dense_vecs"][sides[0]] * found["dense_vecs"][sides[1]]).sum(dim=1).cpu()
        words, tokens = found["lexical_weights"], found["colbert_vecs"]
        both = list(zip(*sides, strict=True))
        sparse = torch.tensor([lexical_score(words[one], words[other]) for one, other in both], dtype=dense.dtype)
        multi = torch.tensor([float(multi_vector_score(tokens[one], tokens[other])) for one, other in both])
        scores = weighted_scores(dense, sparse, multi.to(dense.dtype), weights_for_different_modes)
        return {name: values[0].item() if single else values.tolist() for name, values in scores.items()}

    similarity = staticmethod(similarities)


def weights_by_token(ids: list[int], weights: torch.Tensor) -> dict[str, float]:
    """Return the largest weight of each token that has one, by its id as a string.

    Args:
        ids: The L token ids of a text.
        weights: (L,), at least 0.
    """
    largest: dict[str, float] = {}
    for token, weight in zip(ids, weights.tolist(), strict=True):
        if weight > largest.get(str(token), 0.0):
            largest[str(token)] = weight
    return largest

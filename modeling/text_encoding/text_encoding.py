"""Encoding many texts: sorted by length, packed without padding up to a number of tokens, returned in their order.

Shapes: N texts, T tokens of a batch, D channels of the vectors.
"""

import itertools
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ...data.batching import token_batches
from ...tokenizer.private_copy import lowercased, private_copy
from .embedding_recipe import EmbeddingRecipe, Normalize
from .evaluation_mode import evaluation_mode
from .text_pooling import check_pooling, needed_tokens, pooled

logger = logging.get_logger(__name__)

# Texts that are tokenised and sorted together: hundreds of batches.
CHUNK = 16_384
# Vocabularies are often enlarged to a multiple of this, for speed.
_ROUNDED_TO = 128


@dataclass(frozen=True)
class _Call:
    """What one call of `iter_encode` has settled: its own tokenizer, and how texts become vectors."""

    tokenizer: PreTrainedTokenizerBase
    recipe: EmbeddingRecipe
    prompt: str
    max_length: int | None
    max_tokens: int
    kept_channels: int
    normalize: bool
    dtype: torch.dtype

    def ids(self, texts: list[str]) -> list[list[int]]:
        """The tokens of each text."""
        encoded = self.tokenizer(
            texts, truncation=self.max_length is not None, max_length=self.max_length, return_attention_mask=False
        )
        return cast("list[list[int]]", encoded["input_ids"])

    @property
    def skipped(self) -> int:
        """The tokens at the start of each text that are not pooled: those of the prompt, where it is left out."""
        if self.recipe.include_prompt or not self.prompt:
            return 0
        (tokens,) = self.ids([self.prompt])
        return len(tokens) - (tokens[-1:] != [] and tokens[-1] in self.tokenizer.all_special_ids)

    def finish(self, vectors: torch.Tensor) -> torch.Tensor:
        """What follows the pooling, (N, D) to (N, D)."""
        for step in self.recipe.after:
            vectors = step(vectors)
        vectors = vectors[:, : self.kept_channels]
        if self.normalize:
            vectors = Normalize()(vectors)
        return vectors.to(self.dtype)


class TextEncoding:
    """`encode` and `iter_encode`, as methods of the encoder.

    Attributes:
        embedding_recipe: how texts become vectors by default. `from_pretrained` reads it from the folder of a model of
            sentence-transformers, and `save_pretrained` writes it; None for the mean of all tokens.
    """

    embedding_recipe: EmbeddingRecipe | None = None

    def encode(
        self,
        sentences: str | Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        convert_to_tensor: bool = False,
        **options: Any,
    ) -> torch.Tensor | Any:
        """One vector for each text, for search, clustering and comparison.

        A model that comes from a folder of sentence-transformers gives the vectors that `SentenceTransformer` gives
        for it, unless arguments say otherwise, which have the names of `SentenceTransformer.encode`; but a batch has a
        number of tokens, not of texts, and no padding. Computed with the dtype and device of the model, in evaluation
        mode and without gradients. Several threads may call it at once, with any options, but not beside one
        that trains the model or changes its mode, which all threads share.

        Args:
            sentences: texts, or one of them.
            tokenizer: that of the model.
            convert_to_tensor: return a tensor on the device of the model, and not an array.
            options: of `iter_encode`.

        Returns:
            (N, D), in the order of the texts; (D,) for a single text.

        Raises:
            ValueError: for arguments that are not allowed, for a folder whose description cannot be followed, and if
                a vector is not finite.
        """
        if not convert_to_tensor:
            _check_numpy_has(options.get("dtype"))
        texts = [sentences] if isinstance(sentences, str) else sentences
        parts = cast("list[torch.Tensor]", list(self.iter_encode(texts, tokenizer, convert_to_tensor=True, **options)))
        if parts:
            vectors = torch.cat(parts)
        else:
            recipe = self.recipe_for(options.get("pooling"), options.get("normalize_embeddings"))
            kept = recipe.kept_channels(cast(PreTrainedModel, self).config.hidden_size, options.get("truncate_dim"))
            vectors = torch.empty(0, kept, dtype=options.get("dtype", torch.float32), device=self._result_device())
        vectors = vectors[0] if isinstance(sentences, str) else vectors
        return vectors if convert_to_tensor else vectors.cpu().numpy()

    def iter_encode(
        self,
        sentences: Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: str | None = None,
        normalize_embeddings: bool | None = None,
        max_length: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
        max_tokens: int = 2048,
        dtype: torch.dtype = torch.float32,
        convert_to_tensor: bool = False,
        show_progress_bar: bool | None = None,
    ) -> Iterator[torch.Tensor | Any]:
        """As `encode`, for more texts than memory holds: reads and yields some thousands at a time.

        Args:
            sentences: texts; may be an iterator without an end.
            tokenizer: that of the model.
            pooling: of the vectors of the last layer: `mean`, `cls`, `max`, `mean_sqrt_len_tokens`, `weightedmean` or
                `lasttoken`; by default what the folder of the model says, or else `mean`.
            normalize_embeddings: whether vectors are scaled to the length 1; by default what the folder says, or else
                not.
            max_length: longer texts are cut to so many tokens; by default to what the folder says, or else to what
                tokenizer and model allow.
            prompt: is put before each text.
            prompt_name: that of a prompt of the folder; by default the folder's default prompt, if it has one.
            truncate_dim: keep only so many of the channels; by default as many as the folder says, or else all.
            max_tokens: of a batch, unless a single text has more.
            dtype: of the results.
            convert_to_tensor: yield tensors on the device of the model, and not arrays.
            show_progress_bar: by default where the log level of transformers is INFO or lower.

        Yields:
            (N, D) for the next N texts.

        Raises:
            ValueError: as `encode`.
        """
        if isinstance(sentences, str):
            raise ValueError("sentences must be texts, got a single str; put it in a list.")
        recipe = self.recipe_for(pooling, normalize_embeddings)
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}.")
        kept = recipe.kept_channels(cast(PreTrainedModel, self).config.hidden_size, truncate_dim)
        if not convert_to_tensor:
            _check_numpy_has(dtype)
        prompt = recipe.prompt(prompt, prompt_name)
        own = private_copy(tokenizer)
        max_length = self.longest_text(tokenizer, max_length)
        own = lowercased(own) if recipe.lowercase else own
        call = _Call(own, recipe, prompt, max_length, max_tokens, kept, bool(normalize_embeddings), dtype)
        if show_progress_bar is None:
            show_progress_bar = logging.get_verbosity() <= logging.INFO
        return self._iter_encode(sentences, call, convert_to_tensor, show_progress_bar)

    def recipe_for(self, pooling: str | None = None, normalize_embeddings: bool | None = None) -> EmbeddingRecipe:
        """How texts become vectors, with arguments of `iter_encode` in place of what the folder says.

        Raises:
            ValueError: for a pooling that does not exist, or a folder whose description cannot be followed.
        """
        recipe = self.embedding_recipe or EmbeddingRecipe()
        if pooling is None:
            recipe.check()
        else:
            check_pooling(pooling)
            recipe = replace(recipe, pooling=(pooling,), obstacle=None)
        if normalize_embeddings is False:
            recipe = replace(recipe, after=tuple(step for step in recipe.after if not isinstance(step, Normalize)))
        elif normalize_embeddings and recipe.after[-1:] != (Normalize(),):
            recipe = replace(recipe, after=(*recipe.after, Normalize()))
        return recipe

    def longest_text(self, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> int | None:
        """The tokens that a text is cut to: `max_length`, or else what folder, tokenizer and model say.

        Returns:
            None for no limit.

        Raises:
            ValueError: if `max_length` is more than the model has positions, or the tokenizer has more tokens than it.
        """
        config = cast(PreTrainedModel, self).config
        self._check_tokenizer(tokenizer)
        positions = config.max_position_embeddings if config.position_embedding == "learned" else None
        if max_length is None:
            recipe = self.embedding_recipe
            limits = [positions, recipe.max_length if recipe and recipe.max_length else tokenizer.model_max_length]
            if recipe and not recipe.max_length:
                limits.append(config.max_position_embeddings)  # As SentenceTransformer does.
            # Tokenizers without a limit have an enormous one.
            return min((limit for limit in limits if limit is not None and limit < 10**9), default=None)
        least = tokenizer.num_special_tokens_to_add() + 1
        if max_length < least or (positions is not None and max_length > positions):
            most = "" if positions is None else f" and at most {positions}"
            raise ValueError(f"max_length must be at least {least}{most}, got {max_length}.")
        return max_length

    def _check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuses a tokenizer with more tokens than the model has vectors, and warns of others that do not fit."""
        config = cast(PreTrainedModel, self).config
        size = len(tokenizer)
        if size > config.vocab_size:
            raise ValueError(
                f"tokenizer has {size} tokens, and the model vectors for vocab_size={config.vocab_size}. Is it that of "
                f"the model? If so, resize_token_embeddings({size}) makes room."
            )
        differences = [
            f"its {name} is {theirs}, and that of the model {ours}"
            for name in ("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
            if name.removesuffix("_id") in tokenizer.special_tokens_map
            and (theirs := getattr(tokenizer, name)) != (ours := getattr(config, name))
            and ours is not None
        ]
        if config.vocab_size - size >= _ROUNDED_TO:
            differences.append(f"it has {size} tokens, and the model vectors for vocab_size={config.vocab_size}")
        if differences:
            logger.warning_once(
                f"The tokenizer does not seem to be that of the model: {'; '.join(differences)}. Vectors from a wrong "
                "tokenizer mean nothing."
            )

    def _iter_encode(
        self, sentences: Iterable[str], call: _Call, convert_to_tensor: bool, show_progress_bar: bool
    ) -> Iterator[torch.Tensor | Any]:
        total = len(sentences) if isinstance(sentences, Sized) else None
        iterator = iter(sentences)
        skipped, done = call.skipped, 0
        with logging.tqdm(total=total, desc="Encoding", unit="text", disable=not show_progress_bar) as progress:
            while chunk := list(itertools.islice(iterator, CHUNK)):
                for text in chunk:
                    if not isinstance(text, str):
                        raise ValueError(f"sentences must be texts, got a {type(text).__name__} among them: {text!r}.")
                ids = call.ids([call.prompt + text for text in chunk])
                vectors = call.finish(self._encode_ids(ids, call.recipe.pooling, skipped, call.max_tokens, progress))
                self._check_finite(vectors, done)
                done += len(chunk)
                yield vectors if convert_to_tensor else vectors.cpu().numpy()

    def _check_finite(self, vectors: torch.Tensor, before: int) -> None:
        if vectors.isfinite().all():
            return
        text = before + int(vectors.isfinite().all(dim=1).int().argmin())
        model = cast(PreTrainedModel, self)
        bad = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
        cause = f"its weights are not, such as {bad[0]}" if bad else f"the numbers are too large for {vectors.dtype}"
        cause = cause if bad or vectors.dtype == model.dtype else f"{cause} or {model.dtype}"
        raise ValueError(f"The vector of sentences[{text}] is not finite: of the {type(self).__name__}, {cause}.")

    def _result_device(self) -> torch.device:
        """That of the model; where weights are on the disk, they are on none until they are needed."""
        device = cast(PreTrainedModel, self).device
        return torch.device("cpu") if device.type == "meta" else device

    @torch.no_grad()
    def _encode_ids(
        self, ids: list[list[int]], modes: tuple[str, ...], skipped: int, max_tokens: int, progress: Any
    ) -> torch.Tensor:
        """The pooled vectors in float32, or in float64 if the model is; zero for a text without tokens."""
        model = cast(PreTrainedModel, self)
        device = self._result_device()
        dtype = torch.promote_types(model.dtype, torch.float32)
        vectors = torch.zeros(len(ids), model.config.hidden_size * len(modes), device=device, dtype=dtype)
        with evaluation_mode(model):
            # The longest first: if there is too little memory, it is seen at once.
            for batch in reversed(token_batches([len(text) for text in ids], max_tokens)):
                lengths = [len(ids[i]) for i in batch]
                row = torch.tensor(list(itertools.chain.from_iterable(ids[i] for i in batch)))[None].to(device)
                offsets = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32).to(device)
                needed = needed_tokens(lengths, modes, skipped)
                needed = needed if isinstance(needed, bool) else needed.to(device)
                packing = {"cu_seq_lens_q": offsets, "cu_seq_lens_k": offsets}
                outputs = model(input_ids=row, needed=needed, return_dict=True, **packing)
                found = pooled(outputs.last_hidden_state[0], lengths, modes, skipped)
                vectors[batch] = found.to(device, dtype)
                progress.update(len(batch))
        return vectors


def _check_numpy_has(dtype: torch.dtype | None) -> None:
    if dtype == torch.bfloat16:
        raise ValueError("dtype=torch.bfloat16 is none of numpy's; with it, pass convert_to_tensor=True.")

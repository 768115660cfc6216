"""The options of `generate`, read from its arguments and the generation configuration of the model."""

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from transformers import GenerationConfig

from .unmasking import UNMASKING

# Arguments and attributes of transformers' generation configuration that would change what is written, but that
# unmasking lacks, with the values that change nothing.
_OFF: tuple[Any, ...] = (None, 0, [], {})
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "typical_p"), (None, 1)),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id"), (None,)),
    **dict.fromkeys(("penalty_alpha", "assistant_early_exit", "prompt_lookup_num_tokens", "dola_layers"), _OFF),
    **dict.fromkeys(("min_length", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), _OFF),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens", "sequence_bias", "watermarking_config"), _OFF),
    **dict.fromkeys(("stop_strings", "min_p", "epsilon_cutoff", "eta_cutoff", "max_time"), _OFF),
}

# Arguments of transformers that change nothing here: nothing is cached, and logits that are not finite are an error.
# `Seq2SeqTrainer` passes the labels of its batches.
_WITHOUT_EFFECT = ("use_cache", "remove_invalid_values", "labels")


@dataclass(frozen=True)
class UnmaskingOptions:
    """How masks become tokens. `SequenceEncoderForMaskedLM.generate` describes each option.

    Raises:
        ValueError: If an option is out of range, or options contradict each other.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    block_length: int | None = None
    steps: int | None = None
    unmasking: str = "confidence"
    entropy_bound: float | None = None
    confidence_threshold: float | None = None
    remasking: float = 0.0
    guidance_scale: float = 1.0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    num_return_sequences: int = 1
    mask_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    fill_token_id: int | None = None
    seed: int | None = None

    @classmethod
    def read(
        cls, given: dict[str, Any], config: GenerationConfig, defaults: GenerationConfig, without: Sequence[str] = ()
    ) -> tuple["UnmaskingOptions", dict[str, Any]]:
        """Return the options, and what is left of the given arguments.

        Args:
            given: Keyword arguments, which take precedence. None means that an argument is not given.
            config: The generation configuration of the call.
            defaults: That of the model.
            without: Options that the caller does not have, whose values in the configurations are ignored.

        Raises:
            ValueError: If an option is not allowed, or the configurations ask for what unmasking does not support.
        """
        if not isinstance(config, GenerationConfig | None):
            raise ValueError(f"generation_config must be a GenerationConfig, got {config!r}.")
        names = [field.name for field in fields(cls) if field.name not in without]
        options: dict[str, Any] = {}
        left = {name: value for name, value in given.items() if name not in names and value is not None}
        for source in (defaults, config):
            options |= {name: value for name in names if (value := getattr(source, name, None)) is not None}
        options |= {name: given[name] for name in names if given.get(name) is not None}
        if "max_new_tokens" not in options and given.get("block_length") is None:
            # A default for continuations.
            options.pop("block_length", None)
        for name, neutral in _UNSUPPORTED.items():
            value = left.pop(name, None) if name in left else getattr(config, name, None)
            if value not in neutral:
                raise ValueError(f"{name}={value!r} is not supported: a text that is unmasked is not written in order.")
        if "max_length" in left and "max_new_tokens" in names:
            raise ValueError(
                f"max_length={left['max_length']!r} is not supported; pass max_new_tokens, the number of tokens "
                "to write after each text."
            )
        # Outputs that transformers can return besides the texts, and what `Seq2SeqTrainer` passes without sharding.
        off = {
            name for name, value in left.items() if value is False and (hasattr(config, name) or name == "synced_gpus")
        }
        return cls(**options), {name: left[name] for name in left if name not in (*off, *_WITHOUT_EFFECT)}

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "block_length", "steps", "num_return_sequences"):
            _check(name, getattr(self, name), int, 1, math.inf)
        # As in transformers, 0 disables them.
        _check("top_k", self.top_k, int, 0, math.inf)
        _check("min_new_tokens", self.min_new_tokens, int, 0, self.max_new_tokens or 0)
        for name in ("guidance_scale", "repetition_penalty", "entropy_bound"):
            _check(name, getattr(self, name), float, 0, math.inf, open_below=True)
        # Callers of transformers pass 0 with do_sample=False.
        _check("temperature", self.temperature, float, 0, math.inf, open_below=self.do_sample is True)
        _check("top_p", self.top_p, float, 0, 1, open_below=True)
        _check("confidence_threshold", self.confidence_threshold, float, 0, 1)
        _check("remasking", self.remasking, float, 0, 1)
        _check("pad_token_id", self.pad_token_id, int, 0, math.inf)
        _check("seed", self.seed, int, 0, 2**63 - 1)
        if not isinstance(self.do_sample, bool):
            raise ValueError(f"do_sample must be True or False, got {self.do_sample!r}.")
        if self.unmasking not in UNMASKING:
            raise ValueError(f"unmasking={self.unmasking!r} does not exist; choose one of {', '.join(UNMASKING)}.")
        if self.entropy_bound is not None and self.unmasking != "entropy":
            raise ValueError(f"entropy_bound needs unmasking='entropy', got unmasking={self.unmasking!r}.")
        if self.confidence_threshold is not None and self.unmasking != "confidence":
            raise ValueError(f"confidence_threshold needs unmasking='confidence', got unmasking={self.unmasking!r}.")
        if self.block_length is not None and self.max_new_tokens is None:
            raise ValueError(
                "block_length needs max_new_tokens: it is the number of new tokens that are masked at once."
            )
        if self.num_return_sequences > 1 and not self.do_sample and self.unmasking != "random":
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} needs do_sample=True: all texts would be the same."
            )

    @property
    def ends(self) -> list[int]:
        """The tokens that end a text."""
        if self.eos_token_id is None:
            return []
        return [self.eos_token_id] if isinstance(self.eos_token_id, int) else list(self.eos_token_id)

    def check_tokens(self, vocab_size: int) -> None:
        """Check that the tokens to write are in the vocabulary.

        Raises:
            ValueError: If one is not.
        """
        for name, tokens in (("eos_token_id", self.ends), ("fill_token_id", [self.fill_token_id])):
            for token in tokens:
                _check(name, token, int, 0, vocab_size - 1)


def _check(name: str, value: Any, kind: type, low: float, high: float, *, open_below: bool = False) -> None:
    """Check that an option is None, or of a type and in a range."""
    if value is None:
        return
    allowed: Any = numbers.Integral if kind is int else numbers.Real
    inside = (
        isinstance(value, allowed)
        and not isinstance(value, bool)
        and (low < value if open_below else low <= value)
        and value <= high
        and value != math.inf
    )
    if not inside:
        above = "greater than" if open_below else "at least"
        most = f" and at most {high}" if high not in (math.inf, 2**63 - 1) else ""
        raise ValueError(
            f"{name} must be {'an integer' if kind is int else 'a number'} {above} {low}{most}, got {value!r}."
        )

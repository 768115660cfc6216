"""Reads GLiNER's folders (`gliner_config.json`) as `SequenceEncoderForSpanExtraction`, without the package `gliner`.

GLiNER (Zaratiana et al., 2024, https://arxiv.org/abs/2311.08526; package https://github.com/urchade/GLiNER) puts an
encoder of another family under its head. The weights of the encoder are mapped by the table of that family.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.utils import cached_file

from ..configuration import SequenceEncoderConfig
from ..modeling import SequenceEncoderForSpanExtraction, SequenceEncoderModel
from .configurations import read_config
from .key_mapping import SAME, Heads, Layout, Rule, Tensors, module, to_ours, with_prefixes
from .pickled_weights import check_stored, read_pickled
from .source_models import find_family

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GLINER_CONFIG = "gliner_config.json"
_TRUNK = "token_rep_layer.bert_layer.model."
# The fields that must have one of these values, of which the first is the default.
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "span_mode": ("markerV0", "token_level"),
    "subtoken_pooling": ("first",),
    "words_splitter_type": ("whitespace",),
    "fuse_layers": (False,),
    "post_fusion_schema": ("", None),
    "span_encoder_config": (None,),
    "represent_spans": (False,),
    "precomputed_prompts_mode": (None, False),
    "labels_encoder": (None,),
    "labels_decoder": (None,),
    "relations_layer": (None,),
}
# Weights that the outputs do not need.
_UNUSED = re.compile(rf"^{re.escape(_TRUNK)}(pooler\.|.*(position_ids|token_type_ids|inv_freq)$)")


def _columns(part: int, count: int) -> Layout:
    """Return a part of the columns of a matrix."""
    return Layout(lambda tensors, heads: tensors[0].chunk(count, dim=1)[part].contiguous(), SAME.split)


def _projection(ours: str, theirs: str) -> list[Rule]:
    return [*module(f"{ours}.up_proj", f"{theirs}.0"), *module(f"{ours}.down_proj", f"{theirs}.3")]


_MARKER = "span_rep_layer.span_rep_layer"
_SPANS = [
    *_projection("scorer.first_word", f"{_MARKER}.project_start"),
    *_projection("scorer.last_word", f"{_MARKER}.project_end"),
    *_projection("scorer.label", "prompt_rep_layer"),
    Rule("scorer.first_proj.weight", (f"{_MARKER}.out_project.0.weight",), _columns(0, 2)),
    Rule("scorer.first_proj.bias", (f"{_MARKER}.out_project.0.bias",)),
    Rule("scorer.last_proj.weight", (f"{_MARKER}.out_project.0.weight",), _columns(1, 2)),
    *module("scorer.out_proj", f"{_MARKER}.out_project.3"),
]
_TOKENS = [
    *module("scorer.word", "scorer.proj_token"),
    *module("scorer.label", "scorer.proj_label"),
    Rule("scorer.word_proj.weight", ("scorer.out_mlp.0.weight",), _columns(0, 3)),
    Rule("scorer.word_proj.bias", ("scorer.out_mlp.0.bias",)),
    Rule("scorer.label_proj.weight", ("scorer.out_mlp.0.weight",), _columns(1, 3)),
    Rule("scorer.product_proj.weight", ("scorer.out_mlp.0.weight",), _columns(2, 3)),
    *module("scorer.out_proj", "scorer.out_mlp.3"),
]


def _rules(names: list[str]) -> list[Rule]:
    """Return the rules of the head for our names of weights."""
    lstm = [Rule(name, (name.replace("recurrent", "rnn.lstm"),)) for name in names if name.startswith("recurrent.")]
    scores = _SPANS if "scorer.first_proj.weight" in names else _TOKENS
    return [*module("projection", "token_rep_layer.projection"), *lstm, *scores]


@dataclass(frozen=True)
class GlinerCheckpoint:
    """A folder or a repository of GLiNER.

    Attributes:
        place: The folder or Hub id.
        fields: The content of its `gliner_config.json`.
    """

    architecture = "GLiNER"
    where = "in the package gliner"
    place: str | os.PathLike[str]
    fields: Mapping[str, Any]

    def check(self) -> None:
        """Check the fields that a `SequenceEncoderForSpanExtraction` cannot represent.

        Raises:
            ValueError: If one has another value. The message names all of them.
        """
        faults = []
        for name, allowed in _REQUIRED.items():
            value = self.fields.get(name, allowed[0])
            if not any(type(value) is type(each) and value == each for each in allowed):
                faults.append(f"{name}={value!r} is not supported: it must be {' or '.join(map(repr, allowed))}.")
        if faults:
            raise ValueError(f"{self.place} cannot be converted. {' '.join(faults)}")

    @cached_property
    def encoder_config(self) -> PreTrainedConfig:
        """The configuration of its encoder, which is that of `model_name` on the Hub if the folder has none.

        Raises:
            ValueError: If transformers does not know its type.
        """
        given = self.fields.get("encoder_config")
        if isinstance(given, dict):
            given = dict(given)
            config = AutoConfig.for_model(given.pop("model_type", "deberta-v2"), **given)
        else:
            # `None` would ask on a terminal whether to run code from the Hub.
            config = AutoConfig.from_pretrained(str(self.fields.get("model_name")), trust_remote_code=False)
        return config

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load its tokenizer, with the tokens around labels.

        Raises:
            ValueError: If the tokens have other ids than the configuration states.
        """
        from .sidecar_files import folder_of, read_tokenizer

        folder = folder_of(os.fspath(self.place))
        # GLiNER before version 0.2 did not save the tokenizer.
        own = (folder / "tokenizer_config.json").is_file()
        tokenizer = read_tokenizer(folder if own else cast(str, self.fields.get("model_name")))
        tokens = [self.fields.get("ent_token", "<<ENT>>"), self.fields.get("sep_token", "<<SEP>>")]
        stated = self.fields.get("class_token_index", -1)
        missing = [token for token in tokens if token not in tokenizer.get_vocab()]
        if missing:
            # Its first versions added another token before these two.
            before = ["[FLERT]"] if stated == len(tokenizer) + 1 else []
            tokenizer.add_tokens([*before, *missing])
        found = tokenizer.convert_tokens_to_ids(tokens[0])
        if stated not in (-1, found):
            raise ValueError(f"class_token_index is {stated} in {self.place}, but {tokens[0]} has the id {found}.")
        return tokenizer

    def convert(self, base_model: bool = False) -> SequenceEncoderForSpanExtraction | SequenceEncoderModel:
        """Convert it. See `convert`.

        Args:
            base_model: Whether to convert only the encoder.

        Raises:
            ValueError: If the configuration has no equivalent, or if weights are missing, unused or of another shape.
        """
        self.check()
        tensors = {name: tensor for name, tensor in self._weights().items() if not _UNUSED.match(name)}
        config, trunk = self._config(tensors)
        with torch.device("meta"):
            needed = SequenceEncoderForSpanExtraction(config).state_dict()
        ours = to_ours([*trunk, *_rules(list(needed))], tensors, needed, _heads(config))
        for name, tensor in ours.items():
            if tensor.shape != needed[name].shape:
                raise ValueError(
                    f"The weights of {self.place} do not fit its configuration: {name} of the new model would have the "
                    f"shape {tuple(tensor.shape)}, and needs {tuple(needed[name].shape)}."
                )
        dtype = next(iter(ours.values())).dtype
        with no_init_weights():
            model = SequenceEncoderForSpanExtraction(config)
        model.load_state_dict({name: tensor.to(dtype) for name, tensor in ours.items()}, assign=True)
        model.config.dtype = dtype
        return cast(Any, model.model if base_model else model).eval()

    def _config(self, tensors: Tensors) -> tuple[SequenceEncoderConfig, list[Rule]]:
        """Return our configuration, and the rules of the encoder's weights."""
        theirs = self.encoder_config
        class_name = MODEL_MAPPING_NAMES.get(theirs.model_type)
        if not isinstance(class_name, str):
            raise ValueError(f"{self.place} has an encoder of the type {theirs.model_type!r}, which is not supported.")
        family, head = find_family(class_name)
        config = read_config(family, head, theirs)
        config.pooler_act = None
        rules = with_prefixes(family.rules("Model", config, ""), "model.", _TRUNK)
        (embeddings,) = (rule.theirs[0] for rule in rules if rule.ours == "model.embed_tokens.weight")
        if embeddings in tensors:
            # GLiNER adds rows for its tokens, and old folders state the number of the encoder without them.
            config.vocab_size = len(tensors[embeddings])
        config.span_extraction = self._span_extraction()
        config.validate()
        return config, rules

    def _span_extraction(self) -> dict[str, Any]:
        """Return our field for the fields of the head. What they leave out has GLiNER's defaults."""
        tokenizer, fields = self.tokenizer(), self.fields
        tokens = (fields.get("ent_token", "<<ENT>>"), fields.get("sep_token", "<<SEP>>"))
        label_token, separator = map(tokenizer.convert_tokens_to_ids, tokens)
        return {
            "label_token_id": label_token,
            "separator_token_id": separator,
            "scoring": "tokens" if fields.get("span_mode") == "token_level" else "spans",
            "hidden_size": fields.get("hidden_size", 512),
            "num_recurrent_layers": fields.get("num_rnn_layers", 1),
            "reads_label_token": fields.get("embed_ent_token", True),
            "max_width": fields.get("max_width", 12),
            "max_words": fields.get("max_len", 384),
            "dropout": fields.get("dropout", 0.4),
        }

    def _weights(self) -> Tensors:
        file = _find(self.place, "model.safetensors")
        if file is not None:
            try:
                with safe_open(file, framework="pt") as opened:
                    # GLiNER's file leaves out tensors that share memory with others, and names those.
                    shared = opened.metadata() or {}
                    tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            except (SafetensorError, RuntimeError) as error:
                raise ValueError(f"The weights of {self.place} are damaged or incomplete ({error}).") from error
            return tensors | {name: tensors[other] for name, other in shared.items() if other in tensors}
        file = _find(self.place, "pytorch_model.bin")
        if file is None:
            raise OSError(f"{self.place} has neither model.safetensors nor pytorch_model.bin.")
        tensors = read_pickled(file, "the weights of a GLiNER")
        if not isinstance(tensors, dict):
            raise ValueError(f"{file} must contain weights by name, got a {type(tensors).__name__}.")
        tensors = {name: tensor for name, tensor in tensors.items() if not _UNUSED.match(str(name))}
        for name, tensor in tensors.items():
            check_stored(name, tensor, file)
        return tensors


def find_gliner(place: str | os.PathLike[str]) -> GlinerCheckpoint | None:
    """Recognise a folder or a repository of GLiNER.

    Args:
        place: A folder or a Hub id.

    Returns:
        The checkpoint; None if it has no `gliner_config.json`, or has a `config.json`.

    Raises:
        ValueError: If its configuration is damaged.
    """
    folder = Path(place)
    if (folder / "config.json").is_file() or (file := _find(place, GLINER_CONFIG)) is None:
        return None
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{file} must contain a JSON object, got a {type(fields).__name__}.")
    return GlinerCheckpoint(place, fields)


def _heads(config: SequenceEncoderConfig) -> Heads:
    return Heads(config.num_attention_heads, config.key_value_heads)


def _find(place: str | os.PathLike[str], name: str) -> Path | None:
    quiet = {f"_raise_exceptions_for_{kind}": False for kind in ("gated_repo", "missing_entries", "connection_errors")}
    found = cached_file(place, name, **quiet)
    return None if found is None else Path(found)

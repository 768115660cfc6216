"""Reads GLiNER's folders (`gliner_config.json`) as `SequenceEncoderForSpanExtraction`, without the package `gliner`.

GLiNER (Zaratiana et al., 2024, https://arxiv.org/abs/2311.08526; package https://github.com/urchade/GLiNER) puts an
encoder of another family under its head. The weights of the encoder are mapped by the table of that family.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from transformers import AutoConfig, PreTrainedConfig

from ...configuration import SequenceEncoderConfig
from ...saving.optional_files import optional_files
from ..configurations import read_config
from ..key_mapping import SAME, Heads, Layout, Rule, Tensors, module, to_ours, with_prefixes
from .package_checkpoints import HeadedCheckpoint, family_of
from .weight_files import check_stored, find_file, read_file, read_torch_save

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
    "labels_decoder": (None,),
    "relations_layer": (None,),
}
_LABELS = "token_rep_layer.labels_encoder.model."
# Weights that the outputs do not need.
_UNUSED = re.compile(
    rf"^({re.escape(_TRUNK)}|{re.escape(_LABELS)})(pooler\.|.*(position_ids|token_type_ids|inv_freq)$)"
)


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


class GlinerCheckpoint(HeadedCheckpoint):
    """A folder or a repository of GLiNER."""

    architecture = "GLiNER"
    where = "in the package gliner"
    model_class = "SequenceEncoderForSpanExtraction"
    encoder_prefix = _TRUNK
    allowed: ClassVar[Mapping[str, tuple[Any, ...]]] = _REQUIRED

    @cached_property
    def label_encoder_config(self) -> PreTrainedConfig | None:
        """The configuration of the separate encoder of labels; None for a model that has no such encoder."""
        given = self.fields.get("labels_encoder_config")
        if self.fields.get("labels_encoder") is None:
            return None
        if isinstance(given, dict):
            return self.read_encoder_config(given)
        return AutoConfig.from_pretrained(str(self.fields["labels_encoder"]), trust_remote_code=False)

    @cached_property
    def encoder_config(self) -> PreTrainedConfig:
        """See `HeadedCheckpoint.encoder_config`. Without one in the folder, it is that of `model_name` on the Hub."""
        given = self.fields.get("encoder_config")
        if isinstance(given, dict):
            return self.read_encoder_config(given)
        # `None` would ask on a terminal whether to run code from the Hub.
        return AutoConfig.from_pretrained(str(self.fields.get("model_name")), trust_remote_code=False)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """See `PackageCheckpoint.tokenizer`.

        Raises:
            ValueError: If the tokens have other ids than the configuration states.
        """
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        from ..sidecar_files import folder_of, read_tokenizer

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

    def complete(self, config: SequenceEncoderConfig) -> None:
        """See `HeadedCheckpoint.complete`. What the fields leave out has GLiNER's defaults."""
        tokenizer, fields = self.tokenizer(), self.fields
        tokens = (fields.get("ent_token", "<<ENT>>"), fields.get("sep_token", "<<SEP>>"))
        label_token, separator = map(tokenizer.convert_tokens_to_ids, tokens)
        # Old folders state the number of tokens without these, which matters until the weights are read.
        config.vocab_size = max(config.vocab_size, len(tokenizer))
        config.span_extraction = {
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
        if (labels := self.label_encoder_config) is not None:
            # GLiNER has recurrent layers here that it does not run.
            config.span_extraction["num_recurrent_layers"] = 0
            config.span_extraction["label_encoder"] = _fields_of(read_config(*family_of(labels), labels))

    def head_rules(self, needed: Sequence[str]) -> list[Rule]:
        """See `HeadedCheckpoint.head_rules`."""
        lstm = [
            Rule(name, (name.replace("recurrent", "rnn.lstm"),)) for name in needed if name.startswith("recurrent.")
        ]
        scores = _SPANS if "scorer.first_proj.weight" in needed else _TOKENS
        labels = module("label_encoder.projection", "token_rep_layer.labels_projection")
        return [*module("projection", "token_rep_layer.projection"), *labels, *lstm, *scores]

    def weights(self) -> Tensors:
        """See `HeadedCheckpoint.weights`."""
        found = {name: tensor for name, tensor in self._weights().items() if not _UNUSED.match(name)}
        separate = self.label_encoder_config is not None
        return {name: tensor for name, tensor in found.items() if not (separate and name.startswith("rnn."))}

    def other_encoders(self, theirs: Tensors, needed: Sequence[str]) -> Tensors:
        """See `HeadedCheckpoint.other_encoders`."""
        found = self.label_encoder_config
        if found is None:
            return {}
        family, head = family_of(found)
        config = read_config(family, head, found)
        rules = with_prefixes(family.rules(head, config, ""), "label_encoder.model.", _LABELS)
        own = {name: theirs.pop(name) for name in list(theirs) if name.startswith(_LABELS)}
        names = [name for name in needed if name.startswith("label_encoder.model.")]
        return to_ours(rules, own, names, Heads(config.num_attention_heads, config.key_value_heads))

    def add_to(self, model: Any) -> None:
        """See `HeadedCheckpoint.add_to`."""
        if self.label_encoder_config is not None:
            from ..sidecar_files import download, read_tokenizer

            local = os.path.isdir(self.place)
            folder = Path(self.place) if local else download(os.fspath(self.place), ["labels_tokenizer/*"])
            own = (folder / "labels_tokenizer" / "tokenizer_config.json").is_file()
            source = folder / "labels_tokenizer" if own else self.fields["labels_encoder"]
            model.label_tokenizer = read_tokenizer(source)

    def _weights(self) -> Tensors:
        file = find_file(self.place, "model.safetensors")
        if file is not None:
            # GLiNER's file leaves out tensors that share memory with others, and names those.
            tensors, shared = read_file(file, self.place)
            return tensors | {name: tensors[other] for name, other in shared.items() if other in tensors}
        file = find_file(self.place, "pytorch_model.bin")
        if file is None:
            raise OSError(f"{self.place} has neither model.safetensors nor pytorch_model.bin.")
        tensors = read_torch_save(file, "the weights of a GLiNER")
        if not isinstance(tensors, dict):
            raise ValueError(f"{file} must contain weights by name, got a {type(tensors).__name__}.")
        tensors = {name: tensor for name, tensor in tensors.items() if not _UNUSED.match(str(name))}
        for name, tensor in tensors.items():
            check_stored(name, tensor, file)
        return tensors


def _fields_of(config: SequenceEncoderConfig) -> dict[str, Any]:
    """Return the fields of a configuration without what is only saved for whole models."""
    config.pooler_act = None
    left_out = {"model_type", "transformers_version", "architectures", "auto_map", "dtype"}
    return {name: value for name, value in config.to_diff_dict().items() if name not in left_out}


def find_gliner(place: str | os.PathLike[str]) -> GlinerCheckpoint | None:
    """Recognise a folder or a repository of GLiNER.

    Args:
        place: A folder or a Hub id.

    Returns:
        The checkpoint; None if it has no `gliner_config.json`.

    Raises:
        ValueError: If its configuration is damaged.
    """
    find = optional_files(os.fspath(place))
    if find is None or (file := find(GLINER_CONFIG)) is None:
        return None
    try:
        fields = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{file} must contain a JSON object, got a {type(fields).__name__}.")
    return GlinerCheckpoint(place, fields)

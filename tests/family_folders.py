"""Tiny checkpoints of other families, saved with the tokenizer of the family as their authors would save them."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORDS = "a the text model is of cat dog red animals software this example about berlin lives"
_SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 66,
}
# The labels of natural language inference, in the order of most checkpoints.
NLI = {0: "entailment", 1: "neutral", 2: "contradiction"}


def _ids(*tokens: str) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}


def _wordpiece(name: str, special: tuple[str, ...]) -> Callable[[], PreTrainedTokenizerBase]:
    vocabulary = _ids(*special, *_WORDS.split(), *_LETTERS[1:], ".", ",", *(f"##{letter}" for letter in _LETTERS))
    return lambda: getattr(transformers, name)(vocab=vocabulary)


def _unigram(name: str, special: tuple[str, ...], last: tuple[str, ...] = (), **options: Any) -> Callable[[], Any]:
    pieces = [(token, 0.0) for token in special]
    pieces += [(f"▁{word}", -3.0) for word in _WORDS.split()] + [(letter, -6.0) for letter in f"▁{_LETTERS}.,"]
    pieces += [(token, 0.0) for token in last]
    return lambda: getattr(transformers, name)(vocab=pieces, **options)


def _byte_level() -> PreTrainedTokenizerBase:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = _ids("<s>", "<pad>", "</s>", "<unk>", *letters, "<mask>")
    return transformers.RobertaTokenizer(vocab=vocabulary, merges=[])


def _without_class() -> PreTrainedTokenizerBase:
    special = {name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token")}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=_BERT()._tokenizer,
        **special,
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )


_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SENTENCEPIECE = ("<pad>", "<unk>", *_SPECIAL[2:])
_FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")
_BERT = _wordpiece("BertTokenizer", _SPECIAL)
_XLM_R = _unigram("XLMRobertaTokenizer", _FAIRSEQ, ("<mask>",))


@dataclass(frozen=True)
class Family:
    """The classes of a family, the fields of a tiny configuration, and a function that builds a tiny tokenizer."""

    prefix: str
    tokenizer: Callable[[], PreTrainedTokenizerBase] = _BERT
    fields: dict[str, Any] = field(default_factory=dict)


_OFFSET = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}
_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
_DEBERTA = {
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": "p2c|c2p",
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
_GROUPED = {"num_attention_heads": 6, "num_key_value_heads": 2, **_IDS}

FAMILIES = {
    "bert": Family("Bert"),
    "roberta": Family("Roberta", _byte_level, _OFFSET),
    "xlm-roberta": Family("XLMRoberta", _XLM_R, _OFFSET),
    "camembert": Family("Camembert", _unigram("CamembertTokenizer", _FAIRSEQ, ("<mask>",)), _OFFSET),
    "distilbert": Family("DistilBert"),
    "electra": Family("Electra", fields={"embedding_size": 12}),
    "albert": Family(
        "Albert",
        _unigram("AlbertTokenizer", _SENTENCEPIECE),
        {"embedding_size": 12, "num_hidden_layers": 3, "num_hidden_groups": 2},
    ),
    "ernie": Family("Ernie", fields={"use_task_id": True, "type_vocab_size": 4}),
    "mpnet": Family("MPNet", _wordpiece("MPNetTokenizer", (*_FAIRSEQ[:3], "[UNK]", "<mask>")), _OFFSET),
    "deberta": Family(
        "DebertaV2",
        _unigram("DebertaV2Tokenizer", ("[PAD]", "[CLS]", "[SEP]", "[UNK]"), ("[MASK]",), unk_id=3),
        _DEBERTA,
    ),
    "nomic_bert": Family("NomicBert", fields={"type_vocab_size": 2, **_IDS}),
    "gte": Family("Gte", _XLM_R, _OFFSET),
    "jina_embeddings_v3": Family("JinaEmbeddingsV3", _XLM_R, _OFFSET),
    "eurobert": Family("EuroBert", _without_class, {**_GROUPED, "mask_token_id": 4}),
    "ultrabert": Family("Ultrabert", _without_class, {**_GROUPED, "sliding_window": 3, "prediction_head_size": 31}),
    "data2vec_text": Family("Data2VecText", _byte_level, _OFFSET),
    "roberta_prelayernorm": Family("RobertaPreLayerNorm", _byte_level, _OFFSET),
    "xlm_roberta_xl": Family("XLMRobertaXL", _XLM_R, _OFFSET),
    "megatron_bert": Family("MegatronBert"),
    "roformer": Family("RoFormer", fields={"embedding_size": 12}),
    "rembert": Family(
        "RemBert",
        _unigram("RemBertTokenizer", _SENTENCEPIECE),
        {**_IDS, "input_embedding_size": 12, "output_embedding_size": 33},
    ),
    "modernbert": Family(
        "ModernBert", _without_class, {"local_attention": 6, **_IDS, "cls_token_id": 2, "sep_token_id": 3}
    ),
}
# Releases of transformers since which a family is in it.
SINCE = {"gte": "5.18", "ultrabert": "5.20"}


def build(family: str, head: str = "Model", **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a tiny model of a family with random weights, and its tokenizer."""
    kind = FAMILIES[family]
    tokenizer = kind.tokenizer()
    tokenizer.model_max_length = 64
    fields = {"vocab_size": len(tokenizer) + 3, **_SIZES, **kind.fields, **options}
    config = getattr(transformers, f"{kind.prefix}Config")(**fields)
    model = getattr(transformers, kind.prefix + head)(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.empty(parameter.shape).normal_(std=0.2, generator=generator))
    return model, tokenizer


def save(folder: Path, family: str, head: str = "Model", **options: Any) -> Path:
    """Save a tiny model of a family and its tokenizer."""
    model, tokenizer = build(family, head, **options)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def add_modules(folder: Path, pooling: str = "mean", prompts: dict[str, str] | None = None) -> Path:
    """Add the files with which sentence-transformers pools and normalises, and its prompts."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    mode = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}[pooling]
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": _SIZES["hidden_size"], mode: True})
    )
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts or {}}))
    return folder


def add_retrieval_heads(folder: Path, channels: int = 10) -> Path:
    """Add the heads of BGE-M3 as FlagEmbedding saves them, in float16."""
    generator = torch.Generator().manual_seed(0)
    for head, outputs in (("sparse_linear", 1), ("colbert_linear", channels)):
        weight = torch.randn(outputs, _SIZES["hidden_size"], generator=generator)
        # With a smaller bias, the tokens of the tests have no weight.
        bias = torch.full((1,), 20.5) if outputs == 1 else torch.randn(outputs, generator=generator)
        torch.save(OrderedDict(weight=weight.half(), bias=bias.half()), folder / f"{head}.pt")
    return folder

"""Converted models of other families keep their outputs and gradients, and convert back bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from sequence_encoder import convert
from sequence_encoder.conversion.source_models import FAMILIES
from sequence_encoder.modeling import SequenceEncoderPreTrainedModel

_BERT = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 50,
    "num_labels": 5,
}
_ROBERTA = {**_BERT, "type_vocab_size": 2, "pad_token_id": 1}
_DISTILBERT = {
    "vocab_size": 97,
    "dim": 24,
    "n_layers": 3,
    "n_heads": 3,
    "hidden_dim": 40,
    "max_position_embeddings": 50,
    "num_labels": 5,
}
# Two groups of three layers have two layers and one.
_ALBERT = {**_BERT, "embedding_size": 15, "num_hidden_groups": 2}
_MODERN = {
    **_BERT,
    "local_attention": 6,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
_ROTARY = {**_BERT, "type_vocab_size": 2, "pad_token_id": 0}
_LINEAR = {"rope_type": "linear", "rope_theta": 300.0, "factor": 3.0}
_YARN = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 12}
_EURO = {**_BERT, "num_attention_heads": 6, "num_key_value_heads": 2, "pad_token_id": 0, "mask_token_id": 4}
_ULTRA = {**_EURO, "sliding_window": 3, "prediction_head_size": 31}
del _ULTRA["mask_token_id"]
_DEBERTA = {
    **_BERT,
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": "p2c|c2p",
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "cls_dropout": 0.2,
}
_SEPARATE = {"share_att_key": False, "norm_rel_ebd": "none"}
_ALL_BIASES = dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True)

CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", _BERT),
    "bert-one-type": ("Bert", {**_BERT, "type_vocab_size": 1, "hidden_act": "relu", "layer_norm_eps": 1e-3}),
    "bert-untied": ("Bert", {**_BERT, "tie_word_embeddings": False}),
    "roberta": ("Roberta", _ROBERTA),
    "roberta-untied": ("Roberta", {**_ROBERTA, "tie_word_embeddings": False}),
    "xlm-roberta": ("XLMRoberta", {**_ROBERTA, "pad_token_id": 3}),
    "camembert": ("Camembert", _ROBERTA),
    "distilbert": ("DistilBert", _DISTILBERT),
    "distilbert-sinusoidal": ("DistilBert", {**_DISTILBERT, "sinusoidal_pos_embds": True}),
    "electra": ("Electra", {**_BERT, "embedding_size": 24}),
    "electra-narrow": ("Electra", {**_BERT, "embedding_size": 15}),
    "electra-wide-untied": ("Electra", {**_BERT, "embedding_size": 35, "tie_word_embeddings": False}),
    "albert": ("Albert", _ALBERT),
    "albert-one-group-wide": ("Albert", {**_ALBERT, "embedding_size": 35, "num_hidden_groups": 1}),
    "albert-untied-unshared": ("Albert", {**_ALBERT, "tie_word_embeddings": False, "num_hidden_groups": 3}),
    "albert-gelu": ("Albert", {**_ALBERT, "hidden_act": "gelu", "layer_norm_eps": 1e-3, "type_vocab_size": 1}),
    "ernie": ("Ernie", {**_BERT, "use_task_id": True, "task_type_vocab_size": 4}),
    "ernie-no-tasks": ("Ernie", {**_BERT, "type_vocab_size": 4, "hidden_act": "relu"}),
    "ernie-untied": ("Ernie", {**_BERT, "use_task_id": True, "tie_word_embeddings": False}),
    "mpnet": ("MPNet", {**_BERT, "pad_token_id": 1}),
    "mpnet-untied": ("MPNet", {**_BERT, "pad_token_id": 1, "tie_word_embeddings": False}),
    "nomic_bert": ("NomicBert", _ROTARY),
    "nomic_bert-untied-linear": ("NomicBert", {**_ROTARY, "tie_word_embeddings": False, "rope_parameters": _LINEAR}),
    "nomic_bert-gelu-yarn": (
        "NomicBert",
        {**_ROTARY, "type_vocab_size": 1, "hidden_act": "gelu", "layer_norm_eps": 1e-3, "rope_parameters": _YARN},
    ),
    "gte": ("Gte", {**_ROTARY, "pad_token_id": 1}),
    "gte-no-types-untied": ("Gte", {**_ROTARY, "type_vocab_size": 0, "tie_word_embeddings": False}),
    "gte-one-type-linear": ("Gte", {**_ROTARY, "type_vocab_size": 1, "rope_parameters": _LINEAR}),
    "jina_embeddings_v3": ("JinaEmbeddingsV3", {**_ROTARY, "pad_token_id": 1}),
    "jina_embeddings_v3-untied-linear": (
        "JinaEmbeddingsV3",
        {**_ROTARY, "type_vocab_size": 1, "tie_word_embeddings": False, "rope_parameters": _LINEAR},
    ),
    "eurobert": ("EuroBert", _EURO),
    "eurobert-as-many-keys-mean-linear": (
        "EuroBert",
        {**_EURO, "num_key_value_heads": None, "classifier_pooling": "mean", "rope_parameters": _LINEAR},
    ),
    "eurobert-one-key-biases-bos-tied-yarn": (
        "EuroBert",
        {
            **_EURO,
            "num_key_value_heads": 1,
            "classifier_pooling": "bos",
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-3,
            "hidden_act": "gelu",
            "rope_parameters": _YARN,
        },
    ),
    "ultrabert": ("Ultrabert", _ULTRA),
    "ultrabert-biases-mean-tied": (
        "Ultrabert",
        {
            **_ULTRA,
            "attention_bias": True,
            "mlp_bias": True,
            "classifier_pooling": "mean",
            "tie_word_embeddings": True,
            "prediction_head_size": 24,
            "layer_types": ["full_attention"] * 3,
        },
    ),
    "data2vec_text": ("Data2VecText", {**_ROBERTA, "type_vocab_size": 1}),
    "data2vec_text-untied": ("Data2VecText", {**_ROBERTA, "tie_word_embeddings": False}),
    "roberta_prelayernorm": ("RobertaPreLayerNorm", _ROBERTA),
    "roberta_prelayernorm-untied": ("RobertaPreLayerNorm", {**_ROBERTA, "tie_word_embeddings": False}),
    "xlm_roberta_xl": ("XLMRobertaXL", {**_ROBERTA, "type_vocab_size": 1}),
    "xlm_roberta_xl-untied": ("XLMRobertaXL", {**_ROBERTA, "tie_word_embeddings": False}),
    "megatron_bert": ("MegatronBert", _BERT),
    "megatron_bert-untied": ("MegatronBert", {**_BERT, "hidden_act": "gelu_new", "tie_word_embeddings": False}),
    "roformer": ("RoFormer", _BERT),
    "roformer-narrow-untied": ("RoFormer", {**_BERT, "embedding_size": 15, "tie_word_embeddings": False}),
    "rembert": ("RemBert", {**_BERT, "input_embedding_size": 15, "output_embedding_size": 33}),
    "rembert-same-outputs": (
        "RemBert",
        {**_BERT, "input_embedding_size": 33, "output_embedding_size": 33, "type_vocab_size": 1, "hidden_act": "relu"},
    ),
    "deberta": ("DebertaV2", _DEBERTA),
    "deberta-convolution": (
        "DebertaV2",
        {**_DEBERTA, "conv_kernel_size": 3, "conv_act": "gelu", "type_vocab_size": 2, "embedding_size": 15},
    ),
    "deberta-wide-convolution": ("DebertaV2", {**_DEBERTA, **_SEPARATE, "conv_kernel_size": 5, "legacy": False}),
    "deberta-no-buckets": (
        "DebertaV2",
        {**_DEBERTA, **_SEPARATE, "position_buckets": -1, "max_relative_positions": 5, "position_biased_input": True},
    ),
    "deberta-c2p": ("DebertaV2", {**_DEBERTA, "pos_att_type": ["c2p"], "tie_word_embeddings": False}),
    "deberta-p2c": ("DebertaV2", {**_DEBERTA, **_SEPARATE, "pos_att_type": ["p2c"], "pooler_hidden_act": "tanh"}),
    "deberta-absolute": ("DebertaV2", {**_BERT, "type_vocab_size": 3, "embedding_size": 31}),
    "modernbert": ("ModernBert", _MODERN),
    "modernbert-biases-mean": ("ModernBert", {**_MODERN, **_ALL_BIASES, "classifier_pooling": "mean"}),
    "modernbert-local-only": ("ModernBert", {**_MODERN, "layer_types": ["sliding_attention"] * 3}),
    "modernbert-no-decoder-bias": ("ModernBert", {**_MODERN, "decoder_bias": False}),
}
HEADS = (
    "Model",
    "ForPreTraining",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)
# Older releases of transformers do not support these.
_GTE = ("transformers", "5.18", "has GTE")
_YARN_BY_TYPE = ("transformers", "5.9", "takes YaRN that is nested by layer type")
_SINCE = {
    "nomic_bert-gelu-yarn": _YARN_BY_TYPE,
    "gte": _GTE,
    "gte-no-types-untied": _GTE,
    "gte-one-type-linear": _GTE,
    "eurobert-one-key-biases-bos-tied-yarn": _YARN_BY_TYPE,
    "modernbert-local-only": ("transformers", "5.17", "takes layers of one type in ModernBERT"),
    "xlm-roberta-ForMultipleChoice": ("transformers", "5.14", "makes the pooler that this head reads"),
    "camembert-ForMultipleChoice": ("transformers", "5.14", "makes the pooler that this head reads"),
    "ultrabert": ("transformers", "5.20", "has UltraBERT"),
    "ultrabert-biases-mean-tied": ("transformers", "5.20", "has UltraBERT"),
}
BACK = {"xlm-roberta": "roberta", "camembert": "roberta"}
BACK |= {name: "deberta-v2" for name in CONFIGURATIONS if name.startswith("deberta")}


def family_of(name: str) -> str:
    """Return the family that a configuration converts back to."""
    return BACK.get(name, name.partition("-")[0])


def heads_of(name: str) -> list[str]:
    """Return all heads for the first configuration of a family, and two heads whose options differ for the others."""
    family, heads = family_of(name), FAMILIES[family_of(name)].heads
    if name == next(other for other in CONFIGURATIONS if family_of(other) == family):
        return [head for head in HEADS if head in heads]
    return ["ForPreTraining" if "ForPreTraining" in heads else "ForMaskedLM", "ForSequenceClassification"]


CASES = [
    pytest.param(
        name,
        head,
        marks=[pytest.mark.since(*_SINCE[key]) for key in (name, f"{name}-{head}") if key in _SINCE],
    )
    for name in CONFIGURATIONS
    for head in heads_of(name)
]
every_case = pytest.mark.parametrize(("name", "head"), CASES)
# An untied head has a bias that it does not use.
UNUSED = {
    "bert-untied": "cls.predictions.bias",
    "roberta-untied": "lm_head.bias",
    "albert-untied-unshared": "predictions.bias",
    "deberta-c2p": "cls.predictions.bias",
    "ernie-untied": "cls.predictions.bias",
    "mpnet-untied": "lm_head.bias",
    "nomic_bert-untied-linear": "cls.predictions.bias",
    "jina_embeddings_v3-untied-linear": "lm_head.bias",
    **{f"{name}-untied": "lm_head.bias" for name in ("data2vec_text", "roberta_prelayernorm", "xlm_roberta_xl")},
    "megatron_bert-untied": "cls.predictions.bias",
    "roformer-narrow-untied": "cls.predictions.bias",
}


@pytest.fixture(scope="module")
def make(randomize: Callable[..., Any]) -> Callable[..., PreTrainedModel]:
    """Return `make(name, head)`, which builds a tiny model of a family without zero weights or biases."""

    def build(name: str, head: str, **overrides: Any) -> PreTrainedModel:
        family, options = CONFIGURATIONS[name]
        labels = {"num_labels": 2} if head in ("ForQuestionAnswering", "ForPreTraining") else {}
        config = getattr(transformers, f"{family}Config")(**{**options, **labels, **overrides})
        config._attn_implementation = "eager"
        model = randomize(getattr(transformers, family + head)(config))
        return model

    return build


def ragged_batches(config: PreTrainedConfig, head: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return texts of several lengths, padded on the right and on the left."""
    lengths = [13, 7, 2, 11]
    width = max(lengths)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    right = {"input_ids": torch.randint(5, 97, (4, width)), "attention_mask": mask}
    if getattr(config, "type_vocab_size", 0) > 1:
        right["token_type_ids"] = torch.randint(0, 2, (4, width))
    right["input_ids"] = right["input_ids"] * mask + config.pad_token_id * (1 - mask)
    left = {
        key: torch.stack([row.roll(width - n) for row, n in zip(tensor, lengths, strict=True)])
        for key, tensor in right.items()
    }
    if head == "ForMultipleChoice":
        right, left = ({key: tensor.view(2, 2, width) for key, tensor in side.items()} for side in (right, left))
    return right, left


def outputs_at_text(output: ModelOutput, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return all outputs. Those of tokens have no padding, in the order of the texts."""
    real = batch["attention_mask"].bool()
    return [
        tensor[real] if tensor.shape[:2] == real.shape and real.dim() == 2 else tensor for tensor in output.to_tuple()
    ]


@every_case
def test_a_converted_model_equals_the_original_there_and_back(make: Callable[..., Any], name: str, head: str) -> None:
    original = make(name, head)
    converted = convert(original)
    assert isinstance(converted, SequenceEncoderPreTrainedModel)
    assert type(converted).__name__ == f"SequenceEncoder{head}"
    assert_every_bit_returns(converted, original, name)
    assert_same_outputs_and_gradients(converted, original, name, head)


def assert_every_bit_returns(converted: PreTrainedModel, original: PreTrainedModel, name: str) -> None:
    back = convert_back(converted, name)
    found, expected = back.state_dict(), original.state_dict()
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        used = key.replace(".bias", ".decoder.bias") if key == UNUSED.get(name) else key
        assert torch.equal(tensor, expected[used]), key
    again = convert(back)
    assert again.config.to_diff_dict() == converted.config.to_diff_dict()
    found = again.state_dict()
    for key, tensor in converted.state_dict().items():
        assert torch.equal(found[key], tensor), key


def assert_same_outputs_and_gradients(
    converted: PreTrainedModel, original: PreTrainedModel, name: str, head: str
) -> None:
    # With left padding, the original models count padding as text and pool its first token.
    right, left = ragged_batches(original.config, head)
    expected = outputs_at_text(original(**right), right)
    weights = [torch.randn_like(output) for output in expected]
    for batch in (right, left):
        found = outputs_at_text(converted(**batch), batch)
        assert len(found) >= len(expected) > 0  # Our model also pools if the original has no pooler.
        for one, other in zip(found, expected, strict=False):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        # The gradient is the mean of those with each padding.
        sum((one * weight).sum() / 2 for one, weight in zip(found, weights, strict=False)).backward()
    sum((one * weight).sum() for one, weight in zip(expected, weights, strict=True)).backward()
    for parameter in (*converted.parameters(), *original.parameters()):
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    gradients = convert_back(converted, name).state_dict()
    frozen = {key for key, parameter in original.named_parameters() if not parameter.requires_grad}
    for key, gradient in original.state_dict().items():
        if key not in (UNUSED.get(name), *frozen):
            torch.testing.assert_close(gradients[key], gradient, rtol=1e-4, atol=1e-4, msg=key)


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "albert"])
def test_left_padding_equals_the_original_with_explicit_positions(make: Callable[..., Any], name: str) -> None:
    original = make(name, "Model")
    _, left = ragged_batches(original.config, "Model")
    mask = left["attention_mask"]
    first = original.config.pad_token_id + 1 if name == "roberta" else 0
    expected = original(**left, position_ids=(mask.cumsum(-1) - 1).clamp(min=0) + first).last_hidden_state
    found = convert(original)(**left).last_hidden_state
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["roberta", "xlm-roberta", "camembert"])
@pytest.mark.parametrize("path", [{}, {"output_hidden_states": True}], ids=["packed", "padded"])
def test_positions_may_start_at_0_or_at_the_original_offset(
    make: Callable[..., Any], tmp_path: Path, name: str, path: dict[str, bool]
) -> None:
    original = make(name, "Model")
    convert(original).save_pretrained(tmp_path)
    converted = AutoModel.from_pretrained(tmp_path)
    first = original.config.pad_token_id + 1
    right, left = ragged_batches(original.config, "Model")
    real = right["attention_mask"].bool()
    expected = original(**right).last_hidden_state[real]
    # Padding has the position that the original gives it, one before the first position of a text.
    counted = {
        "right": (right, right["attention_mask"].cumsum(-1) * right["attention_mask"] + first - 1),
        "left": (left, left["attention_mask"].cumsum(-1) * left["attention_mask"] + first - 1),
    }
    for batch, position_ids in counted.values():
        for given in (position_ids, (position_ids - first).clamp(min=0), None):
            found = converted(**batch, position_ids=given, **path).last_hidden_state
            torch.testing.assert_close(found[batch["attention_mask"].bool()], expected, rtol=1e-5, atol=1e-5)
    # DataCollatorWithFlattening(position_ids_start=first) returns such batches.
    packed = {key: tensor[real][None] for key, tensor in right.items() if key != "attention_mask"}
    offsets = torch.tensor([0, *real.sum(1).cumsum(0).tolist()], dtype=torch.int32)
    for start in (0, first):
        position_ids = torch.cat([torch.arange(start, start + length) for length in real.sum(1).tolist()])[None]
        for options in ({}, {"cu_seq_lens_q": offsets, "cu_seq_lens_k": offsets}):
            found = converted(**packed, position_ids=position_ids, **options, **path).last_hidden_state[0]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", [{}, {"output_hidden_states": True}], ids=["packed", "padded"])
def test_positions_that_start_elsewhere_are_rejected(make: Callable[..., Any], path: dict[str, bool]) -> None:
    converted = convert(make("roberta", "Model"))
    ids = torch.randint(5, 97, (2, 4))
    for wrong, start in ([3, 4, 5, 6], 3), ([1, 2, 3, 4], 1), ([2, 3, 1, 4], 1), ([0, 1, 2, -1], -1):
        message = rf"position_offset=2 .* at 0, or at 2 .*position_ids_start=2.* got a text that starts at {start}\."
        with pytest.raises(ValueError, match=message):
            converted(ids, position_ids=torch.tensor([[2, 3, 4, 5], wrong]), **path)
    # Without an offset, the positions are not ambiguous.
    assert (
        convert(make("bert", "Model"))(ids, position_ids=torch.tensor([[3, 4, 5, 6]]))
        .last_hidden_state.isfinite()
        .all()
    )


def convert_back(converted: PreTrainedModel, name: str) -> PreTrainedModel:
    return convert(converted, to=family_of(name))


@pytest.mark.parametrize("name", UNUSED)
def test_an_unused_bias_is_dropped_with_a_warning(
    make: Callable[..., Any], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    original = make(name, "ForMaskedLM")
    with caplog.at_level("WARNING", "sequence_encoder"):
        convert(original)
    assert f"{UNUSED[name]} is not converted" in caplog.text


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra", "albert", "modernbert"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_the_question_answering_loss_does_not_depend_on_padding(make: Callable[..., Any], name: str, side: str) -> None:
    original = make(name, "ForQuestionAnswering")
    right, left = ragged_batches(original.config, "ForQuestionAnswering")
    batch = right if side == "right" else left
    mask = batch["attention_mask"]
    lengths, firsts = mask.sum(1), mask.argmax(1)
    alone = [
        original(
            **{key: tensor[row : row + 1, :length] for key, tensor in right.items()},
            start_positions=torch.tensor([0]),
            end_positions=torch.tensor([length - 1]),
        ).loss
        for row, length in enumerate(lengths.tolist())
    ]
    found = convert(original)(**batch, start_positions=firsts, end_positions=firsts + lengths - 1).loss
    torch.testing.assert_close(found, torch.stack(alone).mean(), rtol=1e-5, atol=1e-5)

"""`encode` returns the vectors of SentenceTransformer for the same folder, also after saving it again."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from sequence_encoder import (
    SequenceEncoderForMaskedLM,
    SequenceEncoderModel,
    SequenceEncoderTokenizer,
    TaskAdapter,
    convert,
)
from sequence_encoder.__main__ import main
from sequence_encoder.command_line import UsageError
from sequence_encoder.training.adaptation.arguments import TaskDataArguments
from sequence_encoder.training.adaptation.encoder import encoder_of
from sequence_encoder.training.adaptation.tasks.similarity import Embedding
from sequence_encoder.training.encoders import pooling_fields

st = pytest.importorskip("sentence_transformers", reason="is installed by `make compatibility`, not by `make test`")
from sentence_transformers.sentence_transformer import modules as models  # noqa: E402

TEXTS = ["a model", "The text is short, return the weights of a model of a text", "RETURN the text [MASK]", "weights"]
QUERY = "query: the text "


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny BERT with its tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("plain")
    texts = ["a model of a text", "the text is short", "return the weights of a model", QUERY, "The RETURN"] * 3
    tokenizer = SequenceEncoderTokenizer.train_from_iterator(
        texts, vocab_size=90, lowercase=False, model_max_length=14, show_progress=False
    )
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=16, initializer_range=0.5, **sizes)
    BertModel(config).save_pretrained(folder)
    return folder


def dense(outputs: int, activation: Any = None) -> Any:
    return models.Dense(24, outputs, activation_function=activation or torch.nn.Tanh())


# Per name: the modules after the encoder, and the other arguments of SentenceTransformer.
LAYOUTS: dict[str, tuple[Callable[[], list[Any]], dict[str, Any]]] = {
    **{
        mode: (lambda mode=mode: [models.Pooling(24, pooling_mode=mode)], {})
        for mode in ("mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
    },
    "several poolings": (lambda: [models.Pooling(24, pooling_mode=("cls", "mean"))], {}),
    "poolings in another order": (lambda: [models.Pooling(24, pooling_mode=("mean", "cls"))], {}),
    "normalize": (lambda: [models.Pooling(24, pooling_mode="cls"), models.Normalize()], {"max_seq_length": 6}),
    "lowercase": (lambda: [models.Pooling(24)], {"do_lower_case": True}),
    "dense": (lambda: [models.Pooling(24), dense(7), models.Normalize()], {}),
    "dense without an activation": (lambda: [models.Pooling(24), dense(24, torch.nn.Identity())], {}),
    "dropout": (lambda: [models.Pooling(24), models.Dropout(0.5)], {}),
    "default prompt": (lambda: [models.Pooling(24)], {"prompts": {"q": QUERY}, "default_prompt_name": "q"}),
    "truncated": (lambda: [models.Pooling(24), models.Normalize()], {"truncate_dim": 5}),
    "excluded prompt": (
        lambda: [models.Pooling(24, pooling_mode="weightedmean", include_prompt=False)],
        {"prompts": {"q": QUERY}, "default_prompt_name": "q", "max_seq_length": 12},
    ),
    "excluded prompt before the first token": (
        lambda: [models.Pooling(24, pooling_mode="cls", include_prompt=False)],
        {"prompts": {"q": QUERY}, "default_prompt_name": "q"},
    ),
}


def sentence_model(plain: Path, name: str) -> Any:
    """Build a SentenceTransformer with one of the layouts."""
    torch.manual_seed(1)
    after, options = LAYOUTS[name]
    options = dict(options)
    transformer = models.Transformer(str(plain), do_lower_case=options.pop("do_lower_case", False))
    if (length := options.pop("max_seq_length", None)) is not None:
        transformer.max_seq_length = length
    return st.SentenceTransformer(modules=[transformer, *after()], device="cpu", **options)


def same(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_encode_agrees_with_sentence_transformer_before_and_after_saving(
    plain: Path, layout: str, tmp_path: Path
) -> None:
    theirs = sentence_model(plain, layout)
    expected = theirs.encode(TEXTS)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    if layout == "lowercase":  # Only old folders store this outside the tokenizer.
        (tmp_path / "theirs" / "sentence_bert_config.json").write_text('{"max_seq_length": 14, "do_lower_case": true}')
        AutoTokenizer.from_pretrained(plain).save_pretrained(tmp_path / "theirs")
    same(st.SentenceTransformer(str(tmp_path / "theirs"), device="cpu").encode(TEXTS), expected)
    ours = convert(tmp_path / "theirs")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "theirs")
    same(ours.encode(TEXTS, tokenizer), expected)
    assert ours.encode([], tokenizer).shape == (0, expected.shape[1])
    ours.save_pretrained(tmp_path / "ours")
    tokenizer.save_pretrained(tmp_path / "ours")
    again = AutoModel.from_pretrained(tmp_path / "ours")
    same(again.encode(TEXTS, tokenizer), expected)
    loaded = st.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    same(loaded.encode(TEXTS), expected)
    loaded.save_pretrained(str(tmp_path / "resaved"))
    same(st.SentenceTransformer(str(tmp_path / "resaved"), device="cpu").encode(TEXTS), expected)
    same(AutoModel.from_pretrained(tmp_path / "resaved").encode(TEXTS, loaded.tokenizer), expected)


def test_the_convert_command_keeps_the_embedding_recipe(plain: Path, tmp_path: Path) -> None:
    theirs = sentence_model(plain, "normalize")
    theirs.save_pretrained(str(tmp_path / "theirs"))
    main(["convert", str(tmp_path / "theirs"), "--output_dir", str(tmp_path / "ours")])
    ours = AutoModel.from_pretrained(tmp_path / "ours")
    same(ours.encode(TEXTS, AutoTokenizer.from_pretrained(tmp_path / "ours")), theirs.encode(TEXTS))


def old_layout(plain: Path, folder: Path) -> None:
    """Write a folder in the old layout of sentence-transformers, with the encoder in `0_Transformer`."""
    shutil.copytree(plain, folder / "0_Transformer")
    kinds = ["Transformer", "Pooling", "Normalize"]
    listed = [
        {"idx": index, "name": str(index), "path": f"{index}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for index, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    config = {"word_embedding_dimension": 24, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    (folder / "0_Transformer" / "sentence_bert_config.json").write_text('{"max_seq_length": 6}')


def test_an_encoder_in_a_subfolder_follows_modules_json(plain: Path, tmp_path: Path) -> None:
    old_layout(plain, tmp_path / "old")
    expected = st.SentenceTransformer(str(tmp_path / "old"), device="cpu").encode(TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(plain)
    same(convert(tmp_path / "old").encode(TEXTS, tokenizer), expected)
    main(["convert", str(tmp_path / "old"), "--output_dir", str(tmp_path / "ours")])
    for place, options in (
        (tmp_path / "ours" / "0_Transformer", {}),
        (tmp_path / "ours", {"subfolder": "0_Transformer"}),
    ):
        same(SequenceEncoderModel.from_pretrained(place, **options).encode(TEXTS, tokenizer), expected)
    head = SequenceEncoderForMaskedLM.from_pretrained(tmp_path / "ours" / "0_Transformer")
    same(head.base_model.encode(TEXTS, tokenizer), expected)


def test_arguments_override_the_folder(plain: Path, tmp_path: Path) -> None:
    theirs = sentence_model(plain, "normalize")
    theirs.save_pretrained(str(tmp_path / "theirs"))
    ours, tokenizer = convert(tmp_path / "theirs"), AutoTokenizer.from_pretrained(tmp_path / "theirs")
    bare = convert(plain)
    assert bare.embedding_recipe is None
    same(
        ours.encode(TEXTS, tokenizer, pooling="mean", normalize_embeddings=False, max_length=14),
        bare.encode(TEXTS, AutoTokenizer.from_pretrained(plain)),
    )
    same(ours.encode(TEXTS, tokenizer, prompt=QUERY), theirs.encode(TEXTS, prompt=QUERY))
    same(ours.encode(TEXTS, tokenizer, truncate_dim=5), theirs.encode(TEXTS, truncate_dim=5))
    same(
        ours.encode(TEXTS, tokenizer, truncate_dim=5, normalize_embeddings=True),
        theirs.encode(TEXTS, truncate_dim=5, normalize_embeddings=True),
    )


def test_a_plain_encoder_uses_mean_pooling_and_is_saved_without_modules(plain: Path, tmp_path: Path) -> None:
    ours, tokenizer = convert(plain), AutoTokenizer.from_pretrained(plain)
    ours.save_pretrained(tmp_path / "ours")
    assert not (tmp_path / "ours" / "modules.json").exists()
    tokenizer.save_pretrained(tmp_path / "ours")
    expected = st.SentenceTransformer(str(tmp_path / "ours"), device="cpu").encode(TEXTS)
    same(ours.encode(TEXTS, tokenizer), expected)


def test_a_stale_modules_json_is_reported(
    plain: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    sentence_model(plain, "normalize").save_pretrained(str(tmp_path))
    convert(plain).save_pretrained(tmp_path)
    assert "modules.json is unchanged" in caplog.text


def change(folder: Path, file: str, **fields: Any) -> None:
    content = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (content[-1] if isinstance(content, list) else content).update(fields)
    (folder / file).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("modules.json", {"type": "sentence_transformers.models.LSTM"}, "the module LSTM"),
        ("modules.json", {"type": "of_someone.Normalize"}, r"of_someone\.Normalize"),
        ("2_Dense/config.json", {"activation_function": "os.system"}, r"activation_function='os\.system'"),
        ("2_Dense/config.json", {"use_residual": True}, "use_residual=True"),
        ("1_Pooling/config.json", {"pooling_mode": "first"}, "got 'first'"),
        (
            "3_Normalize/config.json",
            {"module_output_name": "other"},
            "a Normalize module with module_output_name='other'",
        ),
        ("sentence_bert_config.json", {"config_args": {"num_hidden_layers": 1}}, "num_hidden_layers.* for the config"),
        (
            "sentence_bert_config.json",
            {"tokenizer_args": {"truncation_side": "left"}},
            "truncation_side.* for the tokenizer",
        ),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task='fill-mask'"),
        (
            "sentence_bert_config.json",
            {"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}},
            "method_output_name='pooler_output'",
        ),
        ("sentence_bert_config.json", {"module_output_name": "sentence_embedding"}, "module_output_name='sentence_emb"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "describes a SparseEncoder"),
        ("config_sentence_transformers.json", {"truncate_dim": 0}, "truncate_dim in .* at least 1, got 0"),
    ],
)
def test_unsupported_modules_are_rejected_by_name(
    plain: Path,
    tmp_path: Path,
    file: str,
    fields: dict[str, Any],
    message: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "theirs"
    sentence_model(plain, "dense").save_pretrained(str(folder))
    change(folder, file, **fields)
    ours, tokenizer = convert(folder), AutoTokenizer.from_pretrained(plain)
    with pytest.raises(ValueError, match=message):
        ours.encode(TEXTS, tokenizer)
    same(ours.encode(TEXTS, tokenizer, pooling="mean"), convert(plain).encode(TEXTS, tokenizer))
    with pytest.raises(ValueError, match=message):
        TaskAdapter(ours, 2)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    ours.save_pretrained(tmp_path / "again")
    assert "copy modules.json" in caplog.text
    assert not (tmp_path / "again" / "modules.json").exists()


def test_pickled_weights_of_a_module_are_not_read(plain: Path, tmp_path: Path) -> None:
    sentence_model(plain, "dense").save_pretrained(str(tmp_path))
    (tmp_path / "2_Dense" / "model.safetensors").rename(tmp_path / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickled ones are not read"):
        convert(tmp_path).encode(TEXTS, AutoTokenizer.from_pretrained(plain))


@pytest.mark.parametrize("of", ["ours", "theirs"])
def test_a_task_adapter_uses_the_pooling_of_its_encoder(plain: Path, tmp_path: Path, of: str) -> None:
    sentence_model(plain, "normalize").save_pretrained(str(tmp_path))
    encoder = convert(tmp_path) if of == "ours" else AutoModel.from_pretrained(tmp_path)
    assert TaskAdapter(encoder, 2).config.pooling == "cls"
    assert TaskAdapter(encoder, 2, pooling="mean").config.pooling == "mean"
    assert TaskAdapter(AutoModel.from_pretrained(plain), 2).config.pooling == "mean"


@pytest.mark.parametrize("layout", ["normalize", "dense", "excluded prompt", "several poolings", "truncated"])
def test_adapt_trains_the_model_that_the_folder_describes(plain: Path, layout: str, tmp_path: Path) -> None:
    theirs = sentence_model(plain, layout)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    checkpoint, _ = encoder_of(str(tmp_path / "theirs"), tmp_path / "ours", any_family=False, may_write=True)
    task = Embedding(TaskDataArguments(train_file="pairs.csv"))
    model = task.model(checkpoint, None, theirs.max_seq_length)
    same(model.encode(TEXTS), theirs.encode(TEXTS))
    assert [type(module) for module in model][1:] == [type(module) for module in theirs][1:]
    assert task.model(checkpoint, "cls", 10)[1].pooling_mode == "cls"
    assert task.model(checkpoint, None, 10).max_seq_length == 10


def test_heads_use_the_pooling_of_the_folder_or_the_argument(plain: Path, tmp_path: Path) -> None:
    assert pooling_fields(str(plain), None) == {}
    assert pooling_fields(str(plain), "mean") == {"pooling": "mean", "pooler_act": None}
    for layout, expected in (("normalize", {"pooling": "cls"}), ("mean", {"pooling": "mean", "pooler_act": None})):
        sentence_model(plain, layout).save_pretrained(str(tmp_path / layout))
        assert pooling_fields(str(tmp_path / layout), None) == expected
    sentence_model(plain, "max").save_pretrained(str(tmp_path / "max"))
    with pytest.raises(
        UsageError, match="--pooling is required for this checkpoint: pooling must be one of 'cls', 'mean', got 'max'"
    ):
        pooling_fields(str(tmp_path / "max"), None)
    assert pooling_fields(str(tmp_path / "max"), "cls") == {"pooling": "cls"}

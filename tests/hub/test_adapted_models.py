"""Models with an adapter, a `TaskAdapter` or one of peft, become ordinary models wherever a checkpoint is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel, SplinterConfig, SplinterModel, pipeline

from sequence_encoder import (
    SequenceEncoderForSequenceClassification,
    SequenceEncoderModel,
    TaskAdapter,
    calibrate,
    convert,
    evaluate,
    explain,
    quantize,
)
from sequence_encoder.__main__ import main
from sequence_encoder.conversion.inspection import inspect
from sequence_encoder.conversion.source import Source
from sequence_encoder.tests.fixtures.texts import tokenizer_of

Build = Callable[..., Any]
TEXTS = ["Return the text", "of the serialised files, and all of their names", "a"]
NAMES = {0: "bad", 1: "good", 2: "none"}


def batch_of(side: str = "right") -> dict[str, torch.Tensor]:
    tokenizer: Any = tokenizer_of()
    tokenizer.padding_side = side
    return dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))


def adapter_of(tiny_config: Build, randomize: Build, pooling: str = "mean", preset: str = "bert") -> TaskAdapter:
    tokenizer = tokenizer_of()
    config = tiny_config(preset, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    adapter = randomize(TaskAdapter(SequenceEncoderModel(config), 3, pooling, NAMES))
    adapter.config.problem_type = "multi_label_classification"
    return adapter.eval()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("preset", ["vanilla", "bert", "modernbert"])
def test_a_task_adapter_becomes_a_classifier_with_its_logits(
    tiny_config: Build, randomize: Build, preset: str, pooling: str, side: str
) -> None:
    adapter, batch = adapter_of(tiny_config, randomize, pooling, preset), batch_of(side)
    logits = adapter(**batch).logits
    model = convert(adapter)
    assert type(model) is SequenceEncoderForSequenceClassification
    # The classifier computes only the first token of each text in its last layer.
    torch.testing.assert_close(model(**batch).logits, logits, atol=1e-6, rtol=1e-6)
    assert model.config.id2label == NAMES
    assert model.config.problem_type == "multi_label_classification"
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.model.embed_tokens.weight.zero_()
    assert torch.equal(adapter(**batch).logits, logits)


def test_a_task_adapter_of_another_family_is_converted_with_its_encoder(randomize: Build) -> None:
    config = BertConfig(
        vocab_size=len(tokenizer_of()), hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40
    )
    adapter = randomize(TaskAdapter(BertModel(config), 3, "cls")).eval()
    torch.testing.assert_close(convert(adapter)(**batch_of()).logits, adapter(**batch_of()).logits)
    adapter = TaskAdapter(SplinterModel(SplinterConfig(**{**config.to_dict(), "model_type": "splinter"})), 3)
    with pytest.raises(ValueError, match=r"encoder: SplinterModel cannot be converted.*TaskAdapter.from_"):
        convert(adapter)


@pytest.fixture
def folder(tiny_config: Build, randomize: Build, tmp_path: Path) -> Path:
    adapter_of(tiny_config, randomize).save_pretrained(tmp_path / "adapter")
    tokenizer_of().save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_saved_task_adapter_is_loaded_as_a_classifier(folder: Path) -> None:
    adapter = TaskAdapter.from_pretrained(folder).eval()
    model: Any = Source(str(folder)).load()
    assert type(model) is SequenceEncoderForSequenceClassification
    assert torch.equal(model(**batch_of()).logits, adapter(**batch_of()).logits)
    encoder: Any = Source(str(folder)).load(base_model=True)
    assert type(encoder) is SequenceEncoderModel
    assert torch.equal(encoder(**batch_of()).last_hidden_state, adapter.encoder(**batch_of()).last_hidden_state)


def test_a_task_adapter_is_explained_as_its_classifier(folder: Path, capsys: Any) -> None:
    adapter = TaskAdapter.from_pretrained(folder)
    (found,) = explain(adapter, tokenizer_of(), TEXTS[1], target="good")
    assert [found] == explain(convert(adapter), tokenizer_of(), TEXTS[1], target="good")
    main(["explain", str(folder), "--text", TEXTS[1], "--target", "good"])
    assert f"good: log-odds {found.value:.3f}" in capsys.readouterr().out


def save_adapter(folder: Path, model: Any, config: Any) -> Any:
    """Save the encoder of a model with its tokenizer in `base`, and an adapter of the model in `adapter`."""
    model.base_model.save_pretrained(folder / "base")
    tokenizer_of().save_pretrained(folder / "base")
    adapted = peft.get_peft_model(model, config).eval()
    adapted.peft_config["default"].base_model_name_or_path = str(folder / "base")
    adapted.save_pretrained(folder / "adapter")
    return adapted


PEFT = {
    "lora": lambda: peft.LoraConfig(r=3, init_lora_weights=False, task_type="SEQ_CLS", modules_to_save=["pooler"]),
    "ia3": lambda: peft.IA3Config(init_ia3_weights=False, task_type="SEQ_CLS", modules_to_save=["pooler"]),
}


@pytest.mark.parametrize("method", PEFT)
@pytest.mark.parametrize("family", ["ours", "bert"])
def test_a_peft_folder_is_merged_into_its_base_model(
    tiny_config: Build, randomize: Build, tmp_path: Path, family: str, method: str
) -> None:
    size = len(tokenizer_of())
    if family == "ours":
        base = SequenceEncoderForSequenceClassification(tiny_config("bert", vocab_size=size, num_labels=5))
    else:
        sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
        base = BertForSequenceClassification(BertConfig(vocab_size=size, num_labels=5, **sizes))
    adapted = save_adapter(tmp_path, randomize(base), PEFT[method]())
    expected = adapted(**batch_of()).logits
    model: Any = Source(str(tmp_path / "adapter")).load()
    torch.testing.assert_close(model(**batch_of()).logits, expected, atol=1e-5, rtol=1e-4)
    assert not hasattr(model, "peft_config")
    assert len(model.config.id2label) == 5


def lora_of(tiny_config: Build, randomize: Build, folder: Path, **options: Any) -> Any:
    """Save a classifier with a LoRA adapter, whose folder does not have the pooler."""
    base = SequenceEncoderForSequenceClassification(tiny_config("modernbert", vocab_size=len(tokenizer_of())))
    return save_adapter(folder, randomize(base), peft.LoraConfig(r=3, init_lora_weights=False, **options))


def test_an_adapter_without_a_task_has_the_class_that_it_names(
    tiny_config: Build, randomize: Build, tmp_path: Path
) -> None:
    lora_of(tiny_config, randomize, tmp_path, modules_to_save=["classifier", "head"])
    model: Any = Source(str(tmp_path / "adapter")).load()
    assert type(model) is SequenceEncoderForSequenceClassification
    encoder: Any = Source(str(tmp_path / "adapter")).load(base_model=True)
    assert type(encoder) is SequenceEncoderModel


def test_adapters_that_cannot_be_merged_are_refused(tiny_config: Build, randomize: Build, tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Source(str(tmp_path / "adapter")).load()

    lora_of(tiny_config, randomize, tmp_path, task_type="SEQ_CLS")
    refused(r"neither it nor its base model .* has head.dense.weight, head.norm.weight. Save these .*modules_to_save")
    file = tmp_path / "adapter" / "adapter_config.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps({**fields, "base_model_name_or_path": str(tmp_path / "nothing")}))
    refused("needs its base model .*nothing: There is no folder")
    file.write_text(json.dumps({**fields, "base_model_name_or_path": None}))
    refused("names no base model in base_model_name_or_path")
    file.write_text("{")
    refused("adapter_config.json of .* is damaged")
    file.write_text(json.dumps(fields))
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    refused("has no adapter_model.safetensors")
    base = SequenceEncoderForSequenceClassification(tiny_config("bert", vocab_size=len(tokenizer_of())))
    save_adapter(tmp_path, base, peft.PromptTuningConfig(num_virtual_tokens=3, task_type="SEQ_CLS"))
    refused("trained prompts .PROMPT_TUNING., which cannot be merged")


def test_functions_refuse_adapters_in_the_layers(tiny_config: Build, randomize: Build, tmp_path: Path) -> None:
    adapted, tokenizer = lora_of(tiny_config, randomize, tmp_path), tokenizer_of()
    functions: list[Callable[[Any], Any]] = [
        lambda model: quantize(model, tokenizer, TEXTS),
        lambda model: calibrate(model, tokenizer, [{"text": text, "label": 0} for text in TEXTS]),
        lambda model: evaluate(model, tokenizer, {"home": [{"text": text, "label": 0} for text in TEXTS]}),
    ]
    for model in (adapted, adapted.get_base_model()):
        for function in functions:
            with pytest.raises(ValueError, match=r"has peft adapters in its layers. Pass the model that merge_and_unl"):
                function(model)


@pytest.mark.parametrize(
    ("command", "kind"), [("convert", "task adapter"), ("quantize", "task adapter"), ("convert", "peft")]
)
def test_commands_write_an_ordinary_model(
    tiny_config: Build, randomize: Build, folder: Path, tmp_path: Path, command: str, kind: str
) -> None:
    if kind == "peft":
        lora_of(tiny_config, randomize, tmp_path / "peft", task_type="SEQ_CLS", modules_to_save=["head"])
        folder = tmp_path / "peft" / "adapter"
    (tmp_path / "texts").write_text("\n".join(TEXTS * 3))
    options = ["--cosine", "0.5", "--text_file", str(tmp_path / "texts")] if command == "quantize" else []
    main([command, str(folder), "--output_dir", str(tmp_path / "out"), *options])
    expected: Any = Source(str(folder)).load()
    classify = pipeline("text-classification", model=tmp_path / "out")
    assert type(classify.model) is SequenceEncoderForSequenceClassification
    if command == "convert":
        batch = batch_of()
        torch.testing.assert_close(classify.model(**batch).logits, expected(**batch).logits)
    assert classify(TEXTS[0])[0]["label"] in expected.config.id2label.values()


def test_inspect_names_the_command_that_converts(
    tiny_config: Build, randomize: Build, folder: Path, tmp_path: Path
) -> None:
    lora_of(tiny_config, randomize, tmp_path / "peft", task_type="SEQ_CLS")
    for adapted in (folder, tmp_path / "peft" / "adapter"):
        found = inspect(adapted)
        assert found.verdict == "yes"
        assert found.next_step.startswith(f"sequence-encoder convert {adapted} ")
    base = SequenceEncoderForSequenceClassification(tiny_config("bert", vocab_size=len(tokenizer_of())))
    save_adapter(tmp_path, base, peft.PromptTuningConfig(num_virtual_tokens=3, task_type="SEQ_CLS"))
    assert "trained prompts" in inspect(tmp_path / "adapter").verdict

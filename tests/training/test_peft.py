"""PEFT finds the target modules of every head; adapters are trained, merged and saved on the padding-free path."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification

import sequence_encoder

Build = Callable[..., Any]
MakeBatch = Callable[..., tuple[torch.Tensor, torch.Tensor]]

# Per class: the task type of PEFT, and the module of the head that is trained with an adapter.
HEADS = {
    "SequenceEncoderForSequenceClassification": ("SEQ_CLS", "classifier"),
    "SequenceEncoderForTokenClassification": ("TOKEN_CLS", "classifier"),
    "SequenceEncoderForQuestionAnswering": ("QUESTION_ANS", "qa_outputs"),
    "SequenceEncoderForMultipleChoice": (None, "classifier"),
    "SequenceEncoderForMaskedLM": (None, None),
    "SequenceEncoderModel": ("FEATURE_EXTRACTION", None),
}
METHODS: dict[str, Callable[..., Any]] = {
    "lora": lambda **options: peft.LoraConfig(r=3, init_lora_weights=False, **options),
    "dora": lambda **options: peft.LoraConfig(r=3, init_lora_weights=False, use_dora=True, **options),
    "ia3": lambda **options: peft.IA3Config(init_ia3_weights=False, **options),
}
MATRICES = {"qkv_proj", "o_proj", "down_proj"}


def build(head: str, tiny_config: Build, randomize: Build, preset: str = "modernbert") -> Any:
    return randomize(getattr(sequence_encoder, head)(tiny_config(preset, num_labels=4)))


def batch_for(head: str, ragged: MakeBatch) -> dict[str, torch.Tensor]:
    ids, mask = ragged([7, 3, 11, 5])
    if head.endswith("MultipleChoice"):
        ids, mask = ids.view(2, 2, -1), mask.view(2, 2, -1)
    return {"input_ids": ids, "attention_mask": mask}


def first_output(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**batch, return_dict=False)[0]


@pytest.mark.parametrize("preset", ["vanilla", "bert", "modernbert"])
@pytest.mark.parametrize("head", HEADS)
def test_all_matrices_of_the_layers_are_default_targets(
    head: str, preset: str, tiny_config: Build, randomize: Build
) -> None:
    model = peft.get_peft_model(build(head, tiny_config, randomize, preset), peft.LoraConfig(task_type=HEADS[head][0]))
    adapted = {name for name, module in model.named_modules() if isinstance(module, peft.tuners.lora.Linear)}
    up = "up_proj" if preset != "modernbert" else "gate_up_proj"
    assert {name.rpartition(".")[2] for name in adapted} == {*MATRICES, up}
    assert len(adapted) == 3 * 4
    assert all(".layers." in name for name in adapted)


def test_the_convolution_is_a_default_target(tiny_config: Build, ragged: MakeBatch) -> None:
    model = sequence_encoder.SequenceEncoderModel(tiny_config("modernbert", conv_kernel_size=3))
    adapted = peft.get_peft_model(model, METHODS["lora"]())
    weight = adapted.base_model.model.layers[0].convolution.dense.lora_B["default"].weight
    ids, mask = ragged([7, 3])
    adapted(input_ids=ids, attention_mask=mask).last_hidden_state.sum().backward()
    assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("head", HEADS)
def test_the_head_is_trained_and_saved_with_an_adapter(
    head: str, method: str, tiny_config: Build, randomize: Build, ragged: MakeBatch, tmp_path: Path
) -> None:
    task, part = HEADS[head]
    model = build(head, tiny_config, randomize)
    batch, before = batch_for(head, ragged), first_output(model, batch_for(head, ragged))
    options = {"modules_to_save": [part]} if part and task is None else {}
    adapted = peft.get_peft_model(copy.deepcopy(model), METHODS[method](task_type=task, **options)).eval()
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert part is None or any(f".{part}." in name for name in trained)
    changed = first_output(adapted, batch)
    assert not torch.allclose(changed, before, atol=1e-3)
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(copy.deepcopy(model), str(tmp_path)).eval()
    torch.testing.assert_close(first_output(again, batch), changed, atol=0, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_merging_keeps_outputs_and_unloading_restores_them(
    method: str, tiny_config: Build, randomize: Build, ragged: MakeBatch
) -> None:
    head = "SequenceEncoderForTokenClassification"
    model, batch = build(head, tiny_config, randomize), batch_for(head, ragged)
    before = first_output(model, batch)
    names = set(model.state_dict())
    adapted = peft.get_peft_model(copy.deepcopy(model), METHODS[method]()).eval()
    changed = first_output(adapted, batch)
    unloaded = adapted.unload()
    assert torch.equal(first_output(unloaded, batch), before)
    adapted = peft.get_peft_model(copy.deepcopy(model), METHODS[method]()).eval()
    adapted.load_state_dict(adapted.state_dict())
    changed = first_output(adapted, batch)
    merged = adapted.merge_and_unload()
    assert set(merged.state_dict()) == names
    torch.testing.assert_close(first_output(merged, batch), changed, atol=1e-5, rtol=1e-4)


def test_an_adapter_loads_from_the_folder_of_its_encoder(
    tiny_config: Build, randomize: Build, ragged: MakeBatch, tmp_path: Path, without_package: Build
) -> None:
    base = build("SequenceEncoderForSequenceClassification", tiny_config, randomize)
    base.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    adapted = peft.get_peft_model(loaded, METHODS["lora"](task_type="SEQ_CLS")).eval()
    adapted.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors", "adapter_config.json", "adapter_model.safetensors"} <= {
        path.name for path in tmp_path.iterdir()
    }
    ids, mask = ragged([7, 3])
    expected = adapted(input_ids=ids, attention_mask=mask).logits
    for model in (
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path),
        peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path),
    ):
        torch.testing.assert_close(model.eval()(input_ids=ids, attention_mask=mask).logits, expected, atol=0, rtol=0)
    code = """
import json
from peft import AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification
ids, mask = json.loads(sys.argv[2])
model = AutoPeftModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
fresh = AutoModelForSequenceClassification.from_pretrained(sys.argv[1] + "-base", trust_remote_code=True)
trained = get_peft_model(fresh, LoraConfig(task_type="SEQ_CLS")).num_parameters(only_trainable=True)
print(json.dumps([model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.tolist(), trained]))
"""
    base.save_pretrained(f"{tmp_path}-base")
    logits, trained = without_package(code, tmp_path, str([ids.tolist(), mask.tolist()]))
    torch.testing.assert_close(torch.tensor(logits), expected, atol=1e-6, rtol=1e-5)
    assert trained > 0


@pytest.mark.parametrize(("preset", "lost"), [("roberta", "pooler"), ("modernbert", "head")])
def test_a_new_head_is_saved_whole_or_a_warning_names_its_lost_parts(
    preset: str, lost: str, tiny_config: Build, ragged: MakeBatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sequence_encoder.SequenceEncoderForMaskedLM(tiny_config(preset)).model.save_pretrained(tmp_path / "encoder")
    ids, mask = ragged([7, 3])
    for saved in (None, ["head", "pooler"]):
        caplog.clear()
        transformers.utils.logging.warning_once.cache_clear()
        adapted, again = (
            AutoModelForSequenceClassification.from_pretrained(tmp_path / "encoder", num_labels=4) for _ in range(2)
        )
        adapted = peft.get_peft_model(adapted, METHODS["lora"](task_type="SEQ_CLS", modules_to_save=saved))
        with caplog.at_level("WARNING", "transformers"):
            adapted.train()
        warned = [message for message in caplog.messages if "neither trains nor saves" in message]
        assert [f"modules_to_save=['{lost}']" in message for message in warned] == ([True] if saved is None else [])
        adapted.eval().save_pretrained(tmp_path / "adapter")
        again = peft.PeftModel.from_pretrained(again, str(tmp_path / "adapter")).eval()
        found, expected = (model(input_ids=ids, attention_mask=mask).logits for model in (again, adapted))
        assert torch.equal(found, expected) == (saved is not None)
    # No part of a trained classifier is random.
    sequence_encoder.SequenceEncoderForSequenceClassification(tiny_config(preset)).save_pretrained(tmp_path / "trained")
    caplog.clear()
    transformers.utils.logging.warning_once.cache_clear()
    trained = AutoModelForSequenceClassification.from_pretrained(tmp_path / "trained")
    with caplog.at_level("WARNING", "transformers"):
        peft.get_peft_model(trained, METHODS["lora"](task_type="SEQ_CLS")).train()
    assert caplog.messages == []

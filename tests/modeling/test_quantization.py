"""Quantization to eight bits: models stay close and become smaller, are the same after saving, and errors are clear."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModel, Trainer, TrainingArguments

import sequence_encoder
from sequence_encoder import (
    EightBitConfig,
    SequenceEncoderForMaskedLM,
    SequenceEncoderModel,
    SequenceEncoderTokenizer,
    TaskAdapter,
    convert,
    quantize,
)
from sequence_encoder.__main__ import main
from sequence_encoder.command_line import UsageError
from sequence_encoder.conversion.inspection import inspect
from sequence_encoder.hub.card.card import model_card
from sequence_encoder.inference.bfloat16 import faster_in_bfloat16, relies_on_amx
from sequence_encoder.inference.preparation import optimize_for_inference
from sequence_encoder.modeling.quantized.eight_bit_linear import EightBitLinear, multiplies_integers
from sequence_encoder.tests.fixtures.forked_python import forked_python
from sequence_encoder.tests.fixtures.gliner_folders import LABELS, save_gliner
from sequence_encoder.training.adaptation.encoder import encoder_of

Build = Callable[..., Any]
WORDS = ["model", "reads", "text", "returns", "one", "vector", "each", "token", "whole", "short", "long"]
TEXTS = [" ".join((WORDS * 2)[i : i + 3 + i % 7]) for i in range(30)]

needs_integers = pytest.mark.skipif(not multiplies_integers(), reason="torch has no products of integers here")


@pytest.fixture(scope="module")
def tokenizer() -> SequenceEncoderTokenizer:
    return SequenceEncoderTokenizer.train_from_iterator(TEXTS * 3, vocab_size=90, show_progress=False)


@pytest.fixture(scope="module")
def build(tiny_config: Build, randomize: Build) -> Build:
    """Return `build(head, preset, **overrides)`, which makes a model that is large enough to have averages."""

    def make(head: str = "Model", preset: str = "bert", **overrides: Any) -> Any:
        sizes = {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 96, "num_hidden_layers": 2}
        ids = {f"{name}_token_id": None for name in ("cls", "sep", "mask")}
        config = tiny_config(preset, **{**sizes, **ids, **overrides})
        return randomize(getattr(sequence_encoder, f"SequenceEncoder{head}")(config))

    return make


def vectors(model: SequenceEncoderModel, tokenizer: Any, texts: list[str] = TEXTS) -> torch.Tensor:
    return model.encode(texts, tokenizer, convert_to_tensor=True)


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.cosine_similarity(one.flatten(1), other.flatten(1)).mean())


@pytest.mark.parametrize("preset", ["bert", "modernbert", "mpnet", "deberta-v3", "eurobert"])
def test_a_quantized_model_is_close_and_a_quarter_of_the_size(build: Build, tokenizer: Any, preset: str) -> None:
    model = build(preset=preset)
    expected = vectors(model, tokenizer)
    report = quantize(model, tokenizer, TEXTS, target=0.99)
    assert report.found >= report.target
    assert cosine(vectors(model, tokenizer), expected) > 0.99
    assert not report.kept
    inside = sum(isinstance(module, EightBitLinear) for module in model.modules())
    assert len(report.quantized) == inside + 1 == len(model.config.quantization_config.modules)
    integers = [tensor for tensor in model.state_dict().values() if tensor.dtype == torch.int8]
    # Of such a small model, norms, biases and scales are a large part.
    assert report.size_before - report.size > 2.5 * sum(tensor.numel() for tensor in integers)


@pytest.mark.parametrize(
    "head",
    ["ForTokenClassification", "ForMaskedLM", "ForMultipleChoice", "ForPreTraining"],
)
def test_heads_stay_as_they_are(build: Build, tokenizer: Any, head: str, ragged: Build) -> None:
    model = build(head)
    ids, mask = ragged([9, 4, 7])
    ids = ids % 80
    if head == "ForMultipleChoice":
        ids, mask = ids[:, None], mask[:, None]
    with torch.no_grad():
        before = model(ids, attention_mask=mask)
    other = {name: parameter for name, parameter in model.named_parameters() if "layers." not in name}
    report = quantize(model, tokenizer, TEXTS, target=0.98)
    after = model(ids, attention_mask=mask)
    assert cosine(after[0], before[0]) > 0.95
    # The table that a head of token predictions shares stays as well.
    shared = head in ("ForMaskedLM", "ForPreTraining")
    assert ("embed_tokens" in report.quantized) != shared
    assert all(model.get_parameter(name) is other[name] for name in other if shared or "embed_tokens" not in name)


def test_a_saved_model_is_the_same_again(build: Build, tokenizer: Any, tmp_path: Path, without_package: Build) -> None:
    model = build()
    quantize(model, tokenizer, TEXTS, target=0.99)
    expected = vectors(model, tokenizer)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(vectors(again, tokenizer), expected)
    assert again.config.quantization_config.found == model.config.quantization_config.found
    halved = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert halved.dtype == torch.bfloat16
    linear = halved.layers[0].mlp.down_proj
    kinds = [linear.weight.dtype, linear.weight_scale.dtype, linear.input_scale.dtype, linear.bias.dtype]
    assert kinds == [torch.int8, torch.float32, torch.float32, torch.bfloat16]
    assert torch.equal(linear.input_scale, model.layers[0].mlp.down_proj.input_scale)
    assert cosine(vectors(halved, tokenizer), expected) > 0.999
    assert halved.to(torch.float32).layers[0].mlp.down_proj.weight.dtype == torch.int8
    model.save_pretrained(tmp_path / "copy")
    code = """
import json
from transformers import AutoModel
found = []
for folder in sys.argv[1:]:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    layer = type(model.layers[0].mlp.up_proj)
    value = model(torch.tensor([[5, 6, 7]])).last_hidden_state[0, 0, 0].item()
    found.append([layer.__name__, layer.__module__ == type(model).__module__, value])
print(json.dumps(found))
"""
    found = without_package(code, tmp_path, tmp_path / "copy")
    with torch.no_grad():
        value = again(torch.tensor([[5, 6, 7]])).last_hidden_state[0, 0, 0].item()
    # Each folder has a copy of the code, whose layers work together only with each other.
    assert found == [["EightBitLinear", True, pytest.approx(value, abs=1e-5)]] * 2
    assert found[0] == found[1]


def test_a_model_is_quantized_while_it_is_loaded(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, quantization_config=EightBitConfig(0.99, TEXTS))
    quantize(model, tokenizer, TEXTS, target=0.99)
    expected = vectors(model, tokenizer)
    assert torch.equal(vectors(loaded, tokenizer), expected)
    loaded.save_pretrained(tmp_path)
    assert torch.equal(vectors(AutoModel.from_pretrained(tmp_path), tokenizer), expected)
    settings = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert settings == {**model.config.quantization_config.to_dict()}


def test_the_package_quantizes_after_the_code_of_a_folder_was_loaded(
    build: Build, tokenizer: Any, tmp_path: Path
) -> None:
    model = build()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "plain")
    quantize(model, tokenizer, TEXTS, target=0.9)
    model.save_pretrained(tmp_path / "bits")
    code = """
import sys
from transformers import AutoModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module
get_class_from_dynamic_module("modeling_sequence_encoder.SequenceEncoderModel", sys.argv[2])
from sequence_encoder import EightBitConfig
model = AutoModel.from_pretrained(sys.argv[1], quantization_config=EightBitConfig(0.9))
print(type(model.layers[0].mlp.up_proj))
"""
    command = [forked_python(), "-c", code, tmp_path / "plain", tmp_path / "bits"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "sequence_encoder.modeling.quantized.eight_bit_linear.EightBitLinear" in printed


def test_a_plain_model_from_the_configuration_of_a_quantized_one_is_saved_as_such(
    build: Build, tokenizer: Any, tmp_path: Path
) -> None:
    model = build()
    quantize(model, tokenizer, TEXTS, target=0.9)
    plain = AutoModel.from_config(model.config)
    plain.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in plain.state_dict().items())
    assert not hasattr(again, "hf_quantizer")
    assert model.config.quantization_config.modules


@needs_integers
def test_a_layer_that_misses_the_target_stays(build: Build, tokenizer: Any) -> None:
    model = build()
    with torch.no_grad():
        # A single weight that takes the whole range of its row.
        model.layers[1].self_attn.o_proj.weight[:, 0] *= 3000
        model.layers[1].self_attn.qkv_proj.weight *= 1e-3
    bad = "layers.1.self_attn.o_proj"
    report = quantize(model, tokenizer, TEXTS, target=0.9995)
    assert bad in report.kept
    assert type(model.get_submodule(bad)) is nn.Linear
    assert bad in str(report)
    assert len(report.quantized) > 4


def test_a_metric_decides_which_layers_stay(build: Build, tokenizer: Any) -> None:
    model = build()

    def bits(each: nn.Module) -> float:
        return -float(sum(isinstance(module, EightBitLinear) for module in each.modules()))

    report = quantize(model, tokenizer, TEXTS, target=-3, metric=bits)
    assert (report.found, report.is_cosine, bits(model)) == (-3, False, -3)
    assert "metric is -3" in str(report)
    settings = model.config.quantization_config
    assert (settings.target, settings.found) == (None, None)


@pytest.mark.parametrize("signs", [[1.0], [1.0, -1.0]])
def test_a_head_with_one_number_for_each_text_is_measured_over_all_texts(
    build: Build, tokenizer: Any, signs: list[float]
) -> None:
    model = build("ForSequenceClassification", num_labels=len(signs))
    row = 1e-3 * model.classifier.weight.data[:1]
    model.classifier.weight.data = torch.tensor(signs)[:, None] * row
    model.classifier.bias.data.fill_(0)
    report = quantize(model, tokenizer, TEXTS, target=0.9)
    # The cosine of two single numbers, or of two pairs of opposite ones, is 1 or -1.
    assert report.found < 1 - 1e-6
    measured = len(TEXTS[2::3])
    assert all(abs(report.found - (1 - 2 * turned / measured)) > 1e-6 for turned in range(measured))


@needs_integers
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_integers_and_converted_weights_agree(build: Build, tokenizer: Any, dtype: torch.dtype) -> None:
    model = build().to(dtype)
    quantize(model, tokenizer, TEXTS, target=0.99)
    found = vectors(model, tokenizer)
    with torch.backends.mkldnn.flags(enabled=False):
        converted = vectors(model, tokenizer)
    assert not torch.equal(found, converted)
    assert cosine(found, converted) > 0.995


@needs_integers
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_product_of_integers_takes_the_slow_reference(
    build: Build, tokenizer: Any, dtype: torch.dtype, capfd: pytest.CaptureFixture[str]
) -> None:
    # Without AMX, oneDNN's reference takes a thousand times as long.
    model = build().to(dtype)
    quantize(model, tokenizer, TEXTS, target=0.99)
    capfd.readouterr()
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        vectors(model, tokenizer)
    products = [line for line in capfd.readouterr().out.splitlines() if ",exec,cpu,matmul," in line]
    integers = [line for line in products if "wei:s8" in line or "wei_s8" in line]
    assert len(integers) >= 8
    assert not any(",ref" in line for line in integers), integers


def test_a_text_does_not_depend_on_its_batch(build: Build, tokenizer: Any) -> None:
    model = build()
    quantize(model, tokenizer, TEXTS, target=0.99)
    together = vectors(model, tokenizer)
    alone = torch.stack([vectors(model, tokenizer, [text])[0] for text in TEXTS])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-4)
    with ThreadPoolExecutor(4) as threads:
        for other in threads.map(lambda _: vectors(model, tokenizer), range(8)):
            assert torch.equal(other, together)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(vectors(twin, tokenizer), together)


def test_a_layer_has_the_formula_of_its_attributes() -> None:
    layer = EightBitLinear(12, 5, bias=True, outliers=2)
    layer.weight.data.random_(-127, 128)
    layer.outlier_channels = torch.tensor([3, 8])
    layer.weight.data[:, layer.outlier_channels] = 0
    layer.outlier_weight.data.normal_()
    layer.bias.data.normal_()
    layer.weight_scale.uniform_(0.01, 0.02)
    layer.input_scale.fill_(1 / 64)
    layer.input_offset.random_(-20, 20)
    x = torch.randint(-80, 80, (7, 12)) / 64  # Multiples of the scale, so that quantization is exact.
    weight = layer.weight * layer.weight_scale[:, None] * 64
    weight[:, layer.outlier_channels] = layer.outlier_weight
    for each in (x, x.clone().requires_grad_()):
        torch.testing.assert_close(layer(each), x @ weight.t() + layer.bias, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layer(x[0], nn.ReLU()), (x[0] @ weight.t() + layer.bias).relu(), atol=1e-4, rtol=1e-4)
    assert "outliers=2" in repr(layer)


@pytest.mark.since("torch", "2.7", "compiles models of transformers")
def test_a_quantized_model_runs_with_autocast_gradients_and_compilers(build: Build, tokenizer: Any) -> None:
    model = build()
    quantize(model, tokenizer, TEXTS, target=0.9)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode(), torch.backends.mkldnn.flags(enabled=False):
        expected = model(ids).last_hidden_state
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert cosine(model(ids).last_hidden_state.float(), expected) > 0.99
    # What the layers keep from the first call is no inference tensor.
    embeds = torch.randn(1, 4, 48, requires_grad=True)
    model(inputs_embeds=embeds).last_hidden_state.sum().backward()
    assert embeds.grad.isfinite().all()
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        assert cosine(compiled(ids).last_hidden_state, expected) > 0.9999


def test_new_weights_replace_what_was_derived(build: Build, tokenizer: Any) -> None:
    model = build()
    quantize(model, tokenizer, TEXTS, target=0.99)
    first = vectors(model, tokenizer)
    state = {
        name: -tensor if name.endswith("mlp.up_proj.weight") else tensor for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(state)
    assert not torch.allclose(vectors(model, tokenizer), first, atol=1e-2)


def test_a_quantized_model_is_not_trained(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    model = build("ForSequenceClassification")
    quantize(model, tokenizer, TEXTS, target=0.9)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="quantized"):
        Trainer(model, TrainingArguments(str(tmp_path), report_to="none"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 1.5}, "target must be between 0 and 1, got 1.5"),
        ({"target": 1.0}, "target=1.0 leaves no linear layer"),
        ({"texts": ["one", "two"]}, "texts must be at least 3 strings, got 2"),
        ({"texts": [["one"]] * 3}, "texts must be at least 3 strings"),
        ({"texts": "a text"}, "texts must be at least 3 strings"),
        ({"target": 2, "metric": lambda _: 1}, "misses target=2 before quantization: its metric is 1"),
    ],
)
def test_bad_arguments_leave_the_model_as_it_was(
    build: Build, tokenizer: Any, options: dict[str, Any], message: str
) -> None:
    model = build()
    before = dict(model.named_modules())
    with pytest.raises(ValueError, match=message):
        quantize(model, tokenizer, **{"texts": TEXTS, **options})
    assert dict(model.named_modules()) == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_other_models_are_refused(build: Build, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="must be a SequenceEncoder, got a Linear"):
        quantize(nn.Linear(2, 2), tokenizer)
    model = build()
    with pytest.raises(ValueError, match=r"must be in float32 or bfloat16, got torch\.float64"):
        quantize(model.double(), tokenizer)
    quantize(model.float(), tokenizer, TEXTS, target=0.9)
    with pytest.raises(ValueError, match="is already quantized to eight bits"):
        quantize(model, tokenizer, TEXTS)
    with pytest.raises(ValueError, match="got a TaskAdapter; convert it with `convert`"):
        quantize(TaskAdapter(build(), 2), tokenizer)


def test_what_eight_bits_do_not_support_is_refused(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    model = build()
    with pytest.raises(TypeError, match="goal"):
        EightBitConfig(goal=0.9)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="target must be between 0 and 1 to quantize a model, got None"):
        AutoModel.from_pretrained(tmp_path, quantization_config=EightBitConfig(None, TEXTS))
    with pytest.raises(ValueError, match="has no tokenizer, which quantization needs"):
        AutoModel.from_pretrained(tmp_path, quantization_config=EightBitConfig(0.9, TEXTS))
    quantize(model, tokenizer, TEXTS, target=0.9)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="predicts tokens with the weights of embed_tokens"):
        SequenceEncoderForMaskedLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must not be quantized to eight bits"):
        TaskAdapter(model, 2)
    with pytest.raises(ValueError, match="converted to bert: its weights are quantized"):
        convert(tmp_path, to="bert")
    assert "no: its weights are quantized" in str(inspect(tmp_path))
    with pytest.raises(UsageError, match="a quantized model cannot be trained"):
        encoder_of(str(tmp_path), tmp_path / "new", any_family=False, may_write=True)


def test_settings_that_do_not_fit_the_model_are_refused(build: Build, tokenizer: Any, tmp_path: Path) -> None:
    model = build()
    quantize(model, tokenizer, TEXTS, target=0.9)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"]["modules"] = {"layers.7.mlp.up_proj": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"'layers\.7\.mlp\.up_proj', which is no linear layer"):
        AutoModel.from_pretrained(tmp_path)


def test_the_command_writes_a_folder_with_a_card(bert_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, target = bert_folder.parent / "texts.txt", bert_folder.parent / "small"
    texts.write_text("\n".join(["a model of a text", "", "the weights", "return the text", "short text"] * 3))
    command = ["quantize", str(bert_folder), "--output_dir", str(target), "--text_file", str(texts), "--cosine", "0.9"]
    main(command)
    printed = capsys.readouterr().out
    assert "layers have eight bits" in printed
    card = (target / "README.md").read_text()
    assert "by someone" in card
    assert "## Load this quantized model" in card
    assert 'SentenceTransformer("small", trust_remote_code=True)' in card
    assert any(isinstance(module, EightBitLinear) for module in AutoModel.from_pretrained(target).modules())
    with pytest.raises(SystemExit, match="--overwrite"):
        main(command)
    with pytest.raises(SystemExit, match=r"--text_file texts\.csv must be a text file with one text per line"):
        main([*command[:4], "--text_file", "texts.csv", "--overwrite"])
    main([*command, "--overwrite"])


def test_the_card_to_push_describes_the_weights(build: Build, tokenizer: Any) -> None:
    model = build()
    quantize(model, tokenizer, TEXTS, target=0.9)
    found = model.config.quantization_config.found
    assert f"eight bits in 9 layers; mean cosine to the outputs before: {found:.5f}" in str(model_card(model, "small"))


@pytest.mark.parametrize("eight_bits", [False, True])
def test_a_model_is_optimized_for_what_the_machine_has(build: Build, tokenizer: Any, eight_bits: bool) -> None:
    model = build().train()
    if eight_bits:
        quantize(model, tokenizer, TEXTS, target=0.99)
    before = vectors(model, tokenizer)
    said = optimize_for_inference(model)
    assert not model.training
    assert model.dtype == (torch.bfloat16 if faster_in_bfloat16("cpu") else torch.float32)
    assert f"computes in {str(model.dtype).removeprefix('torch.')}" in said
    assert ("eight bits" in said) == eight_bits
    assert cosine(vectors(model, tokenizer), before) > 0.999
    assert "as it was" in optimize_for_inference(model.to(torch.bfloat16))
    with pytest.raises(ValueError, match="got a Linear"):
        optimize_for_inference(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("vendor", "flags", "slow"),
    [
        ("GenuineIntel", "avx512_bf16 avx512_fp16", True),  # Sapphire Rapids in a virtual machine that hides AMX.
        ("GenuineIntel", "avx512_bf16", False),  # Cooper Lake.
        ("AuthenticAMD", "avx512_bf16 avx512_fp16", False),
    ],
)
def test_intels_processors_with_amx_are_slow_in_bfloat16_without_it(vendor: str, flags: str, slow: bool) -> None:
    processor = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu vme {flags}\n"
    assert relies_on_amx(processor) == slow


@needs_integers
def test_a_model_for_span_extraction_finds_almost_the_same_spans_in_eight_bits(tmp_path: Path) -> None:
    _, tokenizer = save_gliner(tmp_path / "gliner")
    model: Any = convert(tmp_path / "gliner")
    # Most scores of spans are the lowest number, where a text ends, and have no cosine.
    assert 0.9 < quantize(model, tokenizer, TEXTS, target=0.9).found < 1
    model.save_pretrained(tmp_path / "saved")
    again: Any = AutoModel.from_pretrained(tmp_path / "saved")
    assert again.is_quantized
    texts = ["a cat, a red-dog is of berlin"]
    expected = model.extract(texts, LABELS, tokenizer, threshold=0.2)
    assert len(expected[0]) > 2
    close = [{**span, "score": pytest.approx(span["score"], abs=1e-5)} for span in expected[0]]
    assert again.extract(texts, LABELS, tokenizer, threshold=0.2) == [close]

"""`sequence-encoder adapt`: tuning methods, separately saved adapters, and encoders of other families."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from sequence_encoder import TaskAdapter
from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.adaptation_runs import COUNTS, FAST, examples_of, run, save_encoder, write_examples
from sequence_encoder.training.adaptation.encoder import encoder_of


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.mark.parametrize("tuning", ["head", "adapter", "lora", "prompt"])
def test_every_tuning_method_trains_few_weights_and_keeps_the_encoder(
    encoder: Path, tmp_path: Path, tuning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_examples(tmp_path, "classification", COUNTS)
    options = {**FAST, "learning_rate": 0.02, "num_train_epochs": 8}
    results = run("classification", encoder, tmp_path / "out", tuning=tuning, **files, **options)
    assert results.trained < 0.35 * results.parameters
    assert results.best.metrics["test"]["accuracy"] > (0.6 if tuning == "prompt" else 0.75)
    if tuning == "prompt":
        import peft

        # The adapter stores the path of its encoder relative to its folder.
        monkeypatch.chdir(tmp_path / "out" / "adapter")
        model = peft.AutoPeftModelForSequenceClassification.from_pretrained(".")
    else:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    rows = [json.loads(line) for line in Path(files["test_file"]).read_text().splitlines()]
    batch = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        predicted = model.eval()(**batch).logits.argmax(-1).tolist()
    names = sorted({row["label"] for row in rows})
    right = sum(names[index] == row["label"] for index, row in zip(predicted, rows, strict=True)) / len(rows)
    assert right == pytest.approx(results.best.metrics["test"]["accuracy"], abs=0.03)
    before, after = load_file(encoder / "model.safetensors"), dict(model.state_dict())
    if tuning in ("head", "adapter"):
        kept = [name for name in before if not name.startswith("pooler.")]
        assert all(torch.equal(before[name], after[f"model.{name}"]) for name in kept)


def test_a_head_alone_starts_from_the_best_linear_one(encoder: Path, tmp_path: Path) -> None:
    files = write_examples(tmp_path, "classification", COUNTS)
    options = {**files, "num_train_epochs": 1, "learning_rate": 1e-9}
    results = run("classification", encoder, tmp_path / "out", tuning="head", **options)
    found, linear = results.best.metrics["validation"], results.baselines["linear_head"]["validation"]
    assert found["loss"] == pytest.approx(linear["loss"], abs=1e-5)


def test_a_saved_adapter_continues_training_with_the_same_encoder(encoder: Path, tmp_path: Path) -> None:
    files = write_examples(tmp_path, "classification", COUNTS)
    run("classification", encoder, tmp_path / "first", tuning="lora", **files, **FAST)
    options = {**files, **FAST, "tuning": "lora", "from_adapter": tmp_path / "first" / "adapter"}
    again = run(
        "classification", encoder, tmp_path / "second", **{**options, "num_train_epochs": 1, "learning_rate": 1e-6}
    )
    first = json.loads((tmp_path / "first" / "results.json").read_text())
    assert again.best.metrics["test"]["accuracy"] == first["metrics"]["test"]["accuracy"]["mean"]
    other = save_encoder(tmp_path / "other", num_hidden_layers=1)
    with pytest.raises(UsageError, match=r"is an adapter of .*, and does not work with .*other"):
        run("classification", other, tmp_path / "third", **options)
    with pytest.raises(UsageError, match="has type LORA with use_dora=False, which is not --tuning dora"):
        run("classification", encoder, tmp_path / "third", **{**options, "tuning": "dora"})
    rows = [{**row, "label": f"dark-{row['label']}"} for row in examples_of("classification", 24, 0)]
    (tmp_path / "dark.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UsageError, match="has the labels blue, green, red, but the examples have dark-blue"):
        run(
            "classification",
            encoder,
            tmp_path / "third",
            tuning="lora",
            from_adapter=tmp_path / "first" / "adapter",
            train_file=tmp_path / "dark.jsonl",
        )
    assert not (tmp_path / "third").exists()
    with pytest.raises(FileExistsError, match=r"contains .*adapter, which this command reads"):
        run("classification", encoder, tmp_path / "first", overwrite=True, **options)


def test_encoders_of_other_families_are_converted(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for task, tuning in (("classification", "full"), ("ner", "lora"), ("regression", "adapter")):
        files = write_examples(tmp_path, task, {"train": 24})
        run(task, bert_folder, tmp_path / task, tuning=tuning, max_length=16, **files, num_train_epochs=1)
        config = json.loads((tmp_path / task / "config.json").read_text())
        assert config["model_type"].startswith("sequence_encoder")
    monkeypatch.chdir(tmp_path / "ner" / "adapter")
    # Its encoder has the label names, so that the adapter loads without further arguments.
    import peft

    alone = peft.AutoPeftModelForTokenClassification.from_pretrained(".").eval()
    merged = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "ner").eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(alone(input_ids=ids).logits, merged(input_ids=ids).logits, atol=1e-5, rtol=1e-4)
    # Training continues with the encoder's original name.
    files = write_examples(tmp_path, "ner", {"train": 24})
    options = {"tuning": "lora", "from_adapter": tmp_path / "ner" / "adapter", "num_train_epochs": 1}
    run("ner", bert_folder, tmp_path / "again", **files, **options)


def test_texts_are_truncated_to_the_positions_of_the_encoder(tmp_path: Path) -> None:
    folder = save_encoder(
        tmp_path / "encoder", position_embedding="learned", rope_parameters=None, max_position_embeddings=24
    )
    rows = [{"text": "we saw it " * 30, "label": label} for label in ("a", "b") * 10]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for tuning in ("full", "prompt"):
        options = {"tuning": tuning, "train_file": tmp_path / "long.jsonl", "num_train_epochs": 1}
        options |= {"prompt_length": 8} if tuning == "prompt" else {}
        run("classification", folder, tmp_path / tuning, **options)
    run("classification", folder, tmp_path / "short", **options, max_length=12)
    for name, limit in {"full": 24, "prompt": 16, "short": 12}.items():
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
        assert len(tokenizer(rows[0]["text"], truncation=True).input_ids) == limit
    with pytest.raises(UsageError, match=r"--max_length must be at most 16, .* beside the 8 virtual tokens, got 24"):
        run("classification", folder, tmp_path / "out", max_length=24, **options)


def test_a_frozen_encoder_that_cannot_be_converted_keeps_its_family(
    tmp_path: Path, bert_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = transformers.SplinterConfig(
        vocab_size=90, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40
    )
    transformers.SplinterModel(config).save_pretrained(tmp_path / "splinter")
    transformers.AutoTokenizer.from_pretrained(bert_folder).save_pretrained(tmp_path / "splinter")
    files = write_examples(tmp_path, "classification", {"train": 40})
    run("classification", tmp_path / "splinter", tmp_path / "out", tuning="adapter", **files, num_train_epochs=2)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert isinstance(model, TaskAdapter)
    assert type(model.encoder) is transformers.SplinterModel
    assert "The result will be a TaskAdapter" in capsys.readouterr().out
    # A resumed run, or another process, finds the same encoder.
    assert encoder_of(str(tmp_path / "splinter"), tmp_path / "none", True, False)[0] == str(tmp_path / "splinter")
    with pytest.raises(UsageError, match="splinter"):
        run("classification", tmp_path / "splinter", tmp_path / "full", **files, num_train_epochs=2)


@pytest.mark.parametrize("family", ["ours", "bert"])
def test_saved_folders_contain_no_local_path_and_can_be_moved(
    encoder: Path, bert_folder: Path, tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft

    source = shutil.copytree(encoder if family == "ours" else bert_folder, tmp_path / "source")
    (source / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [en, de]\n---\nOf someone.")
    files = write_examples(tmp_path, "classification", {"train": 24})
    options = {**files, "tuning": "lora", "num_train_epochs": 1, "max_length": 16}
    run("classification", source, tmp_path / "out", **options)
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path
    moved = shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    for card in (moved / "README.md", moved / "adapter" / "README.md"):
        metadata = ModelCard.load(card).data
        assert (metadata.license, metadata.language) == ("apache-2.0", ["en", "de"])
    # The code on the adapter's card runs in its folder.
    monkeypatch.chdir(moved / "adapter")
    names: dict[str, Any] = {}
    (lines,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    exec(lines, names)
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(moved).eval()
    alone = peft.AutoPeftModelForSequenceClassification.from_pretrained(".").eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    for model in (names["model"].eval(), alone):
        torch.testing.assert_close(model(input_ids=ids).logits, merged(input_ids=ids).logits, atol=1e-5, rtol=1e-4)
    # The encoder is recognized by its weights.
    monkeypatch.chdir(tmp_path)
    source = shutil.move(source, tmp_path / "renamed")
    run("classification", source, tmp_path / "again", from_adapter=moved / "adapter", **options)


def test_user_files_in_the_output_folder_are_kept(encoder: Path, tmp_path: Path) -> None:
    files = write_examples(tmp_path, "classification", {"train": 24, "test": 8})
    options = {**files, "num_train_epochs": 1, "overwrite": True}
    out = tmp_path / "out"
    run("classification", encoder, out, tuning="lora", **options)
    (out / "my_research.py").write_text("mine")
    (out / "README.md").write_text("my own card")
    run("classification", encoder, out, **options)
    assert (out / "my_research.py").read_text() == "mine"
    assert (out / "README.md").read_text() == "my own card"
    assert "classification" in (out / "README.new.md").read_text()
    assert not (out / "adapter").exists()
    assert not (out / "base").exists()
    assert json.loads((out / "results.json").read_text())["tuning"] == "full"

"""Model cards are valid, describe the model and contain working code, and edited cards are never replaced."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import EvalResult, ModelCard
from transformers import BertConfig, BertModel, Trainer, TrainingArguments

import sequence_encoder
from sequence_encoder import (
    PRESETS,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderModel,
    SequenceEncoderTokenizer,
)
from sequence_encoder.hub.card.card import (
    TEMPLATE,
    Training,
    model_card,
)
from sequence_encoder.hub.card.rules import check_card
from sequence_encoder.saving.auto_classes import of_type
from sequence_encoder.training.hub_trainer import HubTrainer, training_of

Build = Callable[..., Any]
HEADS = of_type("sequence_encoder")
TEXTS = ["the quick brown fox jumps over the lazy dog", "packing leaves the padding out"]
TRAINING = Training(
    data="Read from a shelf.",
    hyperparameters={"steps": 17, "optimizer": "AdamW"},
    progress="| Epoch | Loss |\n|---|---|\n| 1 | 0.5 |\n",
    results=[
        EvalResult(
            task_type="text-classification",
            dataset_type="user/shelf",
            dataset_name="The shelf",
            metric_type="accuracy",
            metric_value=0.875,
        )
    ],
    hardware="CPU, 2 threads",
    seconds=600,
    energy=0.0123,
    emissions=0.0045,
)


@pytest.fixture(scope="module")
def tokenizer() -> SequenceEncoderTokenizer:
    return SequenceEncoderTokenizer.train_from_iterator(TEXTS * 2, vocab_size=97, show_progress=False)


def valid(card: ModelCard) -> ModelCard:
    assert check_card(card.content) == ([], [])
    assert not {"{{", "{%", "None", "\n\n\n"} & set(re.findall(r"\{\{|\{%|None\b(?! is)|\n\n\n", card.content))
    return card


def test_the_card_names_the_oldest_supported_versions() -> None:
    template = TEMPLATE.read_text()
    project = (TEMPLATE.parent / "pyproject.toml").read_text()
    for library in ("torch", "transformers"):
        oldest = re.search(rf'"{library}>=([\d.]+)', project)
        assert oldest is not None
        assert f"{library} {oldest[1]} " in template


@pytest.mark.parametrize(
    ("name", "preset"), [*zip(HEADS, PRESETS, strict=False), *((next(iter(HEADS)), preset) for preset in PRESETS)]
)
def test_the_card_of_every_head_and_preset_is_valid_and_names_its_task(
    tiny_config: Build, name: str, preset: str
) -> None:
    model, known = getattr(sequence_encoder, name)(tiny_config(preset)), HEADS[name]
    card = valid(model_card(model, "user/name"))
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", known.hub_task)
    assert f'{known.auto_classes[0]}.from_pretrained("user/name", trust_remote_code=True)' in card.text
    assert f"{sum(parameter.numel() for parameter in model.parameters()):,}" in card.text
    assert card.data.base_model is None


RUN_CARDS = """
import json, pathlib
for name in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    for block in (name / "blocks.txt").read_text().split("=====\\n"):
        names = {}
        exec(block, names)
        assert "pipe" in names or {"model", "tokenizer"} <= set(names)
print(json.dumps(True))
"""


def test_the_code_on_every_card_runs_without_the_package(
    tiny_config: Build, tokenizer: Any, without_package: Build, tmp_path: Path
) -> None:
    for name in HEADS:
        folder = tmp_path / name
        model = getattr(sequence_encoder, name)(tiny_config("bert"))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        blocks = re.findall(r"```python\n(.*?)```", model_card(model, str(folder)).text, re.DOTALL)
        assert len(blocks) == 1 + (HEADS[name].has_pipeline or name == "SequenceEncoderForSpanExtraction")
        (folder / "blocks.txt").write_text("=====\n".join(blocks))
    assert without_package(RUN_CARDS, tmp_path)


def test_the_card_describes_the_training(tiny_config: Build) -> None:
    model = SequenceEncoderForSequenceClassification(tiny_config("bert"))
    card = valid(
        model_card(
            model,
            "user/name",
            TRAINING,
            name="Shelves",
            summary="Sorts books.",
            license="apache-2.0",
            language="en",
            base_model="someone/base",
            datasets=["user/shelf"],
            tags=["books"],
            limits=["Not for films."],
        )
    )
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.875, "The shelf")
    metadata = card.data.to_dict()
    assert metadata["co2_eq_emissions"] == {
        "emissions": 4.5,
        "source": "codecarbon",
        "hardware_used": "CPU, 2 threads",
    }
    assert {"sequence-encoder", "books"} <= set(metadata["tags"])
    assert (metadata["license"], metadata["language"], metadata["base_model"]) == ("apache-2.0", "en", "someone/base")
    for expected in (
        *("# Shelves\n", "Sorts books. It was trained from someone/base.", "Read from a shelf.", "| steps | 17 |"),
        *("| 1 | 0.5 |", "| accuracy | 0.875 | The shelf |", "Trained for 10 minutes on CPU, 2 threads."),
        *("0.0123 kWh and emitted 4.5 g of CO₂", "- Not for films.", "## Licence\n\napache-2.0\n"),
    ):
        assert expected in card.text, expected


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        (
            "vanilla",
            ["sinusoidal", "layer norm, after each residual addition", "scaled by the square root", "with relu"],
        ),
        (
            "bert",
            ["for up to 64 tokens", "2 segment types", "at most 64 tokens", "the first token, followed by a dense"],
        ),
        ("mpnet", ["learned, for up to 64 tokens; a learned bias on the attention scores for each of 32"]),
        ("nomic", ["rotary, with base 1,000", "gated by silu (GLU), 40 channels", "2 segment types"]),
        (
            "eurobert",
            ["24 channels and 3 heads |", "RMS norm", "the mean of all tokens after a dense layer with gelu for"],
        ),
        ("modernbert", ["rotary, with base 10,000 or 160,000", "gated by gelu", "at most 3 tokens away in 2 of"]),
    ],
)
def test_the_card_describes_the_architecture_in_words(tiny_config: Build, preset: str, expected: list[str]) -> None:
    text = model_card(SequenceEncoderModel(tiny_config(preset)), "user/name").text
    assert [words for words in expected if words not in text] == []


def test_the_embedding_of_a_task_is_described(tiny_config: Build) -> None:
    text = model_card(SequenceEncoderModel(tiny_config("bert", task_type_vocab_size=4)), "user/name").text
    assert "4 task types, of which task 0 is used" in text


def test_a_local_folder_is_not_named_as_the_base_model(
    tiny_config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SequenceEncoderModel(tiny_config()).save_pretrained(tmp_path / "some" / "folder")
    monkeypatch.chdir(tmp_path)
    model = SequenceEncoderModel.from_pretrained("some/folder")
    monkeypatch.chdir(tmp_path / "some")
    assert valid(model_card(model, "user/name")).data.base_model is None


def test_a_card_of_another_model_is_rejected() -> None:
    theirs = BertModel(BertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=3, intermediate_size=40))
    with pytest.raises(ValueError, match="must be a model of sequence_encoder, got a BertModel"):
        model_card(theirs, "user/name")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"license": ["mit"]}, '"license" must be a string'),
        ({"base_model": "my base"}, r'"base_model\[0\]" with value "my base" is not valid'),
        ({"datasets": ["/data/mine.csv"]}, r'"datasets\[0\]" with value "/data/mine.csv"'),
        ({"tags": [1]}, r'"tags\[1\]" must be a string'),
    ],
)
def test_metadata_that_the_hub_rejects_is_an_error(tiny_config: Build, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"would reject this model card: {message}"):
        model_card(SequenceEncoderModel(tiny_config()), "user/name", **options)


# With `Trainer`


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def trained(
    trainer_class: type[Trainer],
    config: Any,
    tokenizer: Any,
    folder: Path,
    metrics: Any = accuracy,
    evaluated: Any = None,
    **options: Any,
) -> Trainer:
    rows = [{**tokenizer(text), "labels": label} for label, text in enumerate(TEXTS)]
    trainer = trainer_class(
        SequenceEncoderForSequenceClassification(config),
        TrainingArguments(
            str(folder),
            max_steps=4,
            eval_strategy="steps",
            eval_steps=2,
            logging_steps=1,
            learning_rate=3e-4,
            per_device_train_batch_size=2,
            use_cpu=True,
            disable_tqdm=True,
            **options,
        ),
        train_dataset=rows,
        eval_dataset=evaluated or rows,
        processing_class=tokenizer,
        compute_metrics=metrics,
    )
    trainer.train()
    return trainer


def test_the_card_of_a_hub_trainer_describes_its_run(tiny_config: Build, tokenizer: Any, tmp_path: Path) -> None:
    trainer = trained(HubTrainer, tiny_config("bert"), tokenizer, tmp_path, report_to="codecarbon")
    trainer.create_model_card(model_name="Foxes", license="mit", tasks="text-classification", dataset="Two texts")
    card = valid(ModelCard.load(tmp_path / "README.md"))
    measured = trainer.state.log_history[-2]["eval_accuracy"]
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", measured, "Two texts")
    assert {"sequence-encoder", "generated_from_trainer"} <= set(card.data.tags)
    energy = next(callback for callback in trainer.callback_handler.callbacks if hasattr(callback, "tracker"))
    grams = energy.tracker.final_emissions_data.emissions * 1000
    assert card.data.to_dict()["co2_eq_emissions"]["emissions"] == pytest.approx(grams)
    for expected in (
        *(
            "# Foxes\n",
            "| steps | 4 |",
            "| examples a step | 2 |",
            "| optimizer | AdamW |",
            "| learning rate | 0.0003 |",
        ),
        *("| schedule | linear |", "| precision | float32 |", "kWh", " on CPU, 1 thread.", "\n\nmit\n"),
    ):
        assert expected in card.text, expected
    assert re.search(r"Trained for \d+ s on", card.text)
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) == 2
    assert all(f"{loss:.4f}" in card.text for loss in losses)


def test_training_facts_come_from_a_plain_trainer_too(tiny_config: Build, tokenizer: Any, tmp_path: Path) -> None:
    trainer = trained(Trainer, tiny_config("bert"), tokenizer, tmp_path, report_to=[])
    training = training_of(trainer, "Two texts")
    assert training.hyperparameters["steps"] == 4
    assert (training.energy, training.emissions) == (None, None)
    valid(model_card(trainer.model, "user/name", training))


def test_the_metrics_are_those_of_the_restored_best_model(tiny_config: Build, tokenizer: Any, tmp_path: Path) -> None:
    scores = iter([0.25, 0.125])
    trainer = trained(
        Trainer,
        tiny_config("bert"),
        tokenizer,
        tmp_path,
        metrics=lambda prediction: {"score": next(scores), "count": 7, "nothing": math.nan},
        load_best_model_at_end=True,
        metric_for_best_model="score",
        save_strategy="steps",
        save_steps=2,
        report_to=[],
    )
    results = {result.metric_type: result.metric_value for result in training_of(trainer).results}
    assert results == {"score": 0.25, "count": 7}


def test_training_does_not_replace_an_edited_card(tiny_config: Build, tokenizer: Any, tmp_path: Path) -> None:
    trainer = trained(HubTrainer, tiny_config("bert"), tokenizer, tmp_path, report_to=[])
    trainer.create_model_card(model_name="first")
    trainer.create_model_card(model_name="second")
    assert "# second\n" in (tmp_path / "README.md").read_text()
    for mine in ("---\nlicense: mit\ntags: [generated_from_trainer]\n---\nMine.", "---\n: [\n---\nNot valid."):
        (tmp_path / "README.md").write_text(mine)
        trainer.create_model_card(model_name="third")
        assert (tmp_path / "README.md").read_text() == mine

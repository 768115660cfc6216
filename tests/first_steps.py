"""The first five minutes of a user, with tiny models that have random weights.

    python tests/first_steps.py

Prints a JSON object that says for each step whether it is ok or failed, and the errors. `make compatibility
ENVIRONMENTS=minors` runs this script with every minor release of transformers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Read when huggingface_hub is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
    pipeline,
)

from sequence_encoder import SequenceEncoderTokenizer, convert, describe, optimize

TEXTS = ["A short text.", "A rather longer text than that, which is about models of texts.", "Models of a text."]
LABELS = [0, 1, 0]
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 50,
}
MODERNBERT = {"local_attention": 4, "global_attn_every_n_layers": 2}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}
# The prefix of the classes of each family, the head, and the fields of the configuration.
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("Bert", "ForMaskedLM", {}),
    "roberta": ("Roberta", "ForMaskedLM", {}),
    "modernbert": ("ModernBert", "ForMaskedLM", MODERNBERT),
    "deberta": ("DebertaV2", "Model", DEBERTA),
}
SPECIAL_TOKENS = ("pad", "bos", "eos", "cls", "sep")
WITHOUT_PACKAGE = """
import sys
sys.modules["sequence_encoder"] = None  # as if it were not installed
import torch
import transformers
for folder, auto_class in zip(sys.argv[1::2], sys.argv[2::2]):
    model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules"), type(model)
    batch, expected = torch.load(f"{folder}/batch.pt"), torch.load(f"{folder}/outputs.pt")
    with torch.no_grad():
        assert torch.equal(model.eval()(**batch)[0], expected), f"{folder} has other outputs"
"""


def outputs(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the first output of a model for a batch."""
    with torch.no_grad():
        return model.eval()(**batch)[0]


def auto_class(family: str) -> Any:
    """Return the Auto class of a family."""
    return AutoModel if FAMILIES[family][1] == "Model" else AutoModelForMaskedLM


def convert_and_save(folder: Path) -> None:
    """Convert each family, and save the model with its tokenizer and its outputs for a batch."""
    tokenizer = SequenceEncoderTokenizer.train_from_iterator(TEXTS * 3, vocab_size=90, show_progress=False)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in SPECIAL_TOKENS}
    batch = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    real = batch["attention_mask"].bool()
    for family, (prefix, head, fields) in FAMILIES.items():
        config = getattr(transformers, f"{prefix}Config")(vocab_size=len(tokenizer), **SIZES, **ids, **fields)
        theirs = getattr(transformers, f"{prefix}{head}")(config)
        theirs.save_pretrained(folder / "theirs" / family)
        ours = convert(folder / "theirs" / family)
        found = outputs(ours, batch)
        torch.testing.assert_close(found[real], outputs(theirs, batch)[real], rtol=1e-4, atol=1e-5)
        ours.save_pretrained(folder / family)
        tokenizer.save_pretrained(folder / family)
        torch.save(batch, folder / family / "batch.pt")
        torch.save(found, folder / family / "outputs.pt")


def optimize_in_place(folder: Path) -> None:
    """Let the model that each family was converted from compute without padding."""
    for family, (prefix, head, _) in FAMILIES.items():
        model = getattr(transformers, f"{prefix}{head}").from_pretrained(folder / "theirs" / family)
        batch = torch.load(folder / family / "batch.pt")
        real, expected = batch["attention_mask"].bool(), outputs(model, batch)
        found = outputs(optimize(model), batch)
        assert "without padding" in describe(model), describe(model)
        torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=1e-5)


def load(folder: Path) -> None:
    """Load each family with the package."""
    for family in FAMILIES:
        model = auto_class(family).from_pretrained(folder / family)
        assert type(model).__module__.startswith("sequence_encoder"), type(model)
        batch = dict(AutoTokenizer.from_pretrained(folder / family)(TEXTS, padding=True, return_tensors="pt"))
        assert torch.equal(outputs(model, batch), torch.load(folder / family / "outputs.pt"))


def load_without_package(folder: Path) -> None:
    """Load each family in a process that cannot import the package."""
    arguments = [text for family in FAMILIES for text in (str(folder / family), auto_class(family).__name__)]
    environment = {**os.environ, "HF_MODULES_CACHE": str(folder / "modules")}
    run = [sys.executable, "-c", WITHOUT_PACKAGE, *arguments]
    finished = subprocess.run(run, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def classifier_and_rows(folder: Path) -> tuple[Any, Any, list[dict[str, Any]]]:
    """Return a new classifier around the converted BERT, its tokenizer, and rows to train it with."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "bert")
    model = AutoModelForSequenceClassification.from_pretrained(folder / "bert", num_labels=2)
    return model, tokenizer, [{**tokenizer(text), "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]


def trainer_for(model: Any, tokenizer: Any, rows: list[dict[str, Any]], folder: Path) -> Trainer:
    """Return an unmodified `Trainer` that takes three steps."""
    settings: dict[str, Any] = {"max_steps": 3, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    arguments = TrainingArguments(str(folder), **settings)
    return Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)


def train(folder: Path) -> None:
    """Train a classifier, save it and load it again."""
    model, tokenizer, rows = classifier_and_rows(folder)
    before = model.classifier.weight.detach().clone()
    trainer = trainer_for(model, tokenizer, rows, folder / "trained")
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    assert not torch.equal(model.classifier.weight, before)
    trainer.save_model()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    again = AutoModelForSequenceClassification.from_pretrained(folder / "trained")
    assert torch.equal(outputs(again, batch), outputs(model, batch))


def run_pipelines(folder: Path) -> None:
    """Run a pipeline with the trained classifier and one with the converted masked language model."""
    assert [result["label"] for result in pipeline("text-classification", str(folder / "trained"))(TEXTS)]
    fill = pipeline("fill-mask", str(folder / "bert"))
    assert len(fill(f"A {fill.tokenizer.mask_token} text.", top_k=3)) == 3


def encode(folder: Path) -> None:
    """Compute the vectors of texts."""
    model, tokenizer = AutoModel.from_pretrained(folder / "bert"), AutoTokenizer.from_pretrained(folder / "bert")
    vectors = model.encode(TEXTS, tokenizer)
    assert vectors.shape == (3, 24)
    torch.testing.assert_close(vectors[:1], model.encode(TEXTS[:1], tokenizer))


def train_lora(folder: Path) -> None:
    """Train a LoRA adapter, save it, load it again and merge it."""
    from peft import LoraConfig, PeftModel, get_peft_model

    model, tokenizer, rows = classifier_and_rows(folder)
    base = folder / "base"
    model.save_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS"))
    trainer_for(adapted, tokenizer, rows, folder / "adapter").train()
    adapted.save_pretrained(folder / "adapter")
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    expected = outputs(adapted, batch)
    again = PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(base), folder / "adapter")
    torch.testing.assert_close(outputs(again, batch), expected)
    torch.testing.assert_close(outputs(again.merge_and_unload(), batch), expected, rtol=1e-4, atol=1e-5)


def use_sentence_transformers(folder: Path) -> None:
    """Compute the same vectors with sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    model, tokenizer = AutoModel.from_pretrained(folder / "bert"), AutoTokenizer.from_pretrained(folder / "bert")
    vectors = SentenceTransformer(str(folder / "bert"), device="cpu").encode(TEXTS)
    torch.testing.assert_close(vectors, model.encode(TEXTS, tokenizer), rtol=1e-4, atol=1e-5)


# By the names of the columns in the table of `make compatibility`.
STEPS: dict[str, Callable[[Path], None]] = {
    "convert": convert_and_save,
    "optimize": optimize_in_place,
    "load": load,
    "remote code": load_without_package,
    "Trainer": train,
    "pipeline": run_pipelines,
    "encode": encode,
    "peft": train_lora,
    "sentence-transformers": use_sentence_transformers,
}


def main() -> int:
    """Take all steps, print which of them failed, and return their number."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    results = {"transformers": transformers.__version__, **dict.fromkeys(STEPS, "ok")}
    with tempfile.TemporaryDirectory() as folder:
        for name, step in STEPS.items():
            try:
                step(Path(folder))
            except Exception:
                traceback.print_exc()
                results[name] = "failed"
    print(json.dumps(results))
    return list(results.values()).count("failed")


if __name__ == "__main__":
    sys.exit(main())

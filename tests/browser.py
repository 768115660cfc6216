"""Run the JavaScript of docs/browser.md with transformers.js in Node and in Chromium, and compare it with Python.

    python tests/browser.py NODE_MODULES [CHROMIUM]

Every block of the page is a program. It runs with the two newest releases, and what it logs must be what the model
computes here, within 1e-4. Models are tiny, and have tokenizers of all kinds.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, pipeline

import sequence_encoder
from sequence_encoder import export, static_encoder
from sequence_encoder.modeling.text_encoding.embedding_recipe import Dense, EmbeddingRecipe, Normalize
from sequence_encoder.tests.exports import configuration, randomised
from sequence_encoder.tests.fixtures.guides import ROOT, blocks_of
from sequence_encoder.tests.fixtures.texts import TEXTS, tokenizer_of

RELEASES = ("@huggingface/transformers", "transformers-previous")
TOLERANCE = 1e-4
PAIR = ["A short text.", "Another one."]
SPECIAL = ("pad", "cls", "sep", "mask")


def unigram_tokenizer() -> PreTrainedTokenizerFast:
    """Train a tokenizer like XLM-RoBERTa's."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    ends = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", ends)
    names = {"pad": "<pad>", "cls": "<s>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
    options = {f"{name}_token": token for name, token in names.items()}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **options)


def model_of(name: str, tokenizer: Any, preset: str = "bert", **fields: Any) -> Any:
    """Return a model with random weights for a tokenizer."""
    special = {f"{token}_token_id": getattr(tokenizer, f"{token}_token_id") for token in SPECIAL}
    config = configuration(preset, vocab_size=len(tokenizer), **special, **fields)
    return randomised(getattr(sequence_encoder, f"SequenceEncoder{name}")(config))


def labels(*names: str) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def encoder(preset: str, recipe: EmbeddingRecipe) -> Callable[[Any], Any]:
    def build(tokenizer: Any) -> Any:
        model = model_of("Model", tokenizer, preset)
        model.embedding_recipe = recipe
        return model

    return build


def calibrated_classifier(tokenizer: Any) -> Any:
    fields = labels("red", "green", "blue")
    model = model_of("ForSequenceClassification", tokenizer, "roberta", **fields)
    model.config.logit_calibration = [{"scale": [0.5, 0.5, 0.5], "offset": [0.2, 0.0, -0.3]}]
    return model


def dense() -> Dense:
    generator = torch.Generator().manual_seed(0)
    return Dense(torch.randn(20, 48, generator=generator), None, "torch.nn.modules.activation.Tanh")


WORDPIECE, BYTES, UNIGRAM = tokenizer_of, lambda: tokenizer_of("byte_level_bpe"), unigram_tokenizer
# The models of the page by their folders: how they are built, and their tokenizers.
MODELS: dict[str, tuple[Callable[[Any], Any], Callable[[], Any]]] = {
    "minilm-js": (encoder("bert", EmbeddingRecipe(after=(Normalize(),))), WORDPIECE),
    "cls-js": (encoder("modernbert", EmbeddingRecipe(pooling=("cls",), after=(Normalize(),))), BYTES),
    "dense-js": (encoder("mpnet", EmbeddingRecipe(pooling=("cls", "mean"), after=(dense(),))), WORDPIECE),
    "classifier-js": (calibrated_classifier, UNIGRAM),
    "reranker-js": (lambda tokenizer: model_of("ForSequenceClassification", tokenizer, num_labels=1), WORDPIECE),
    "tagger-js": (
        lambda tokenizer: model_of("ForTokenClassification", tokenizer, "deberta-v3", **labels("O", "B-PER", "B-LOC")),
        BYTES,
    ),
    "answerer-js": (lambda tokenizer: model_of("ForQuestionAnswering", tokenizer), WORDPIECE),
    "masked-js": (lambda tokenizer: model_of("ForMaskedLM", tokenizer), WORDPIECE),
    "entailment-js": (
        lambda tokenizer: model_of(
            "ForSequenceClassification", tokenizer, "roberta", **labels("contradiction", "neutral", "entailment")
        ),
        UNIGRAM,
    ),
    "retrieval-js": (lambda tokenizer: model_of("ForRetrieval", tokenizer, "roberta"), UNIGRAM),
    "static-js": (lambda tokenizer: static_encoder(torch.randn(len(tokenizer), 16)), WORDPIECE),
}


def javascript_answer(model: Any, tokenizer: Any, question: str, context: str) -> dict[str, Any]:
    """Return the answer that transformers.js finds, which counts the first token among the possible answers."""
    inputs = tokenizer(question, context, return_tensors="pt")
    special = tokenizer.get_special_tokens_mask(inputs["input_ids"][0], already_has_special_tokens=True)
    inside = (inputs["token_type_ids"][0] == 1) & ~torch.tensor(special).bool()
    outputs = model(**inputs)
    chosen = inside.index_fill(0, torch.tensor(0), True)
    start, end = (
        logits[0].masked_fill(~chosen, -torch.inf).softmax(0) * inside
        for logits in (outputs.start_logits, outputs.end_logits)
    )
    scores = (start[:, None] * end).triu()
    first, last = divmod(int(scores.argmax()), len(start))
    answer = tokenizer.decode(inputs["input_ids"][0, first : last + 1], skip_special_tokens=True)
    return {"score": float(scores.max()), "answer": answer}


def logged_by(task: str, model: Any, tokenizer: Any) -> Any:
    """Return what the program for a task should log.

    Args:
        task: The heading of its section.
        model: The model.
        tokenizer: Its tokenizer.
    """
    if task in ("Run in the browser and in Node", "Embed texts", "Static embeddings"):
        return model.encode(PAIR, tokenizer).tolist()
    if task == "Classify texts":
        return pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=3)(PAIR)
    if task == "Rerank texts":
        texts = ["Open the file and call its method read.", "A short text."]
        inputs = tokenizer(["How do I read a file?"] * 2, texts, padding=True, return_tensors="pt")
        return model(**inputs).logits.sigmoid().tolist()
    if task == "Find entities":
        found = pipeline("token-classification", model=model, tokenizer=tokenizer)("Ada Lovelace lived in London.")
        return [{"entity": each["entity"], "score": float(each["score"]), "index": each["index"]} for each in found]
    if task == "Answer questions":
        return javascript_answer(model, tokenizer, "Where did Ada Lovelace live?", "Ada Lovelace lived in London.")
    if task == "Fill masks":
        found = pipeline("fill-mask", model=model, tokenizer=tokenizer)("A short [MASK].")
        return [{name: choice[name] for name in ("score", "token")} for choice in found]
    if task == "Classify with any labels":
        classify = pipeline("zero-shot-classification", model=model, tokenizer=tokenizer)
        return classify("The train to Berlin is late.", ["travel", "cooking"])
    if task == "Sparse vectors":
        logits = model(**tokenizer("A short text.", return_tensors="pt")).logits
        weights = logits[0].amax(0).relu().log1p()
        return {str(int(entry)): float(weights[entry]) for entry in weights.nonzero()[:, 0]}
    assert task == "Several vectors for a text", task
    question, text = (
        model(**tokenizer(each, return_tensors="pt")).colbert_vecs[0, 1:]
        for each in ("How do I read a file?", "Open the file and call its method read.")
    )
    return float((question @ text.T).amax(1).mean())


def difference(expected: Any, found: Any) -> float:
    """Return the largest difference between numbers; infinity if anything else differs.

    Keys that only `found` has are ignored.
    """
    if isinstance(expected, dict):
        return max((difference(value, found.get(name)) for name, value in expected.items()), default=0.0)
    if isinstance(expected, list):
        if not isinstance(found, list) or len(expected) != len(found):
            return float("inf")
        return max((difference(*pair) for pair in zip(expected, found, strict=True)), default=0.0)
    if isinstance(expected, float) and isinstance(found, int | float):
        return abs(expected - found)
    return 0.0 if expected == found else float("inf")


def programs() -> list[tuple[str, str]]:
    """Return the heading and the code of each program of the page."""
    page = ROOT / "docs" / "browser.md"
    lines = page.read_text(encoding="utf-8").splitlines()
    blocks = [block for block in blocks_of(page) if block.language == "js"]
    headings = [[line.lstrip("# ") for line in lines[: block.line] if line.startswith("#")][-1] for block in blocks]
    return list(zip(headings, (block.code for block in blocks), strict=True))


def export_models(folder: Path) -> dict[str, tuple[Any, Any]]:
    """Export the models of the page into a folder, and return each with its tokenizer."""
    made = {}
    for name, (build, tokenizer_of_kind) in MODELS.items():
        torch.manual_seed(0)
        tokenizer = tokenizer_of_kind()
        made[name] = (build(tokenizer).eval(), tokenizer)
        export(*made[name], folder / name, "transformers.js", dtypes=["fp32"])
        print(f"exported {name}", flush=True)
    return made


@torch.no_grad()
def main(packages: str, chromium: str | None, folder: Path) -> int:
    """Run all programs, and return the number of those that are wrong."""
    made, cases, wrong = export_models(folder / "models"), {}, 0
    (folder / "programs").mkdir(exist_ok=True)
    for number, (task, code) in enumerate(programs()):
        (used,) = {name for name in MODELS if f'"{name}"' in code}
        cases[f"{number}.mjs"] = (task, logged_by(task, *made[used]))
        (folder / "programs" / f"{number}.mjs").write_text(code, encoding="utf-8")
    node = shutil.which("node") or sys.exit("node is not installed.")
    runner = [node, str(ROOT / "tests" / "javascript" / "run.mjs"), str(Path(packages).resolve())]
    for release in RELEASES:
        version = json.loads(Path(packages, release, "package.json").read_text(encoding="utf-8"))["version"]
        for place in ("node", *([chromium] if chromium else [])):
            command = [*runner, release, place, str(folder / "models"), str(folder / "programs")]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            for name, result in json.loads(output).items():
                task, expected = cases[name]
                largest = difference(expected, (result["logged"] or [None])[0])
                problems = [result.get("error"), *result["warnings"], *result.get("elsewhere", [])]
                problems = [str(problem) for problem in problems if problem]
                is_wrong = not largest <= TOLERANCE or bool(problems)
                wrong += is_wrong
                verdict = "WRONG" if is_wrong else "ok"
                print(f"{verdict:5} {largest:8.1e} {version} {Path(place).name:9} {task}", *problems, flush=True)
                if is_wrong:
                    print(f"      expected {expected}\n      found {result['logged']}")
    return wrong


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(1 if main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None, Path(temporary)) else 0)

"""Worked example: classify a question and find the text that answers it, with one frozen encoder.

    python answer_questions.py --model_name_or_path MODEL \
        --questions "how do I draw a histogram" "solve a system of linear equations"

The texts are the first paragraphs of the docstrings on this disk, which are as short as questions. A `TaskAdapter`
learns which library a text is about: the intent. A search finds the answer among the texts of that library, or among
all texts if the intent is uncertain. The first run takes minutes and saves its index in `--index_dir`. Later runs only
answer.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from common import read_arguments
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer, DataCollatorWithPadding, PreTrainedTokenizerBase, pipeline

from sequence_encoder import (
    Docstring,
    SequenceEncoderConfig,
    SequenceEncoderModel,
    TaskAdapter,
    convert,
    read_documentation,
    train_adapted_model,
)


@dataclass
class QuestionArguments:
    """The model, the questions and the index."""

    model_name_or_path: str = field(
        metadata={"help": "Sentence encoder of this package, or of a family that can be converted."}
    )
    questions: list[str] = field(metadata={"help": "Questions in plain words."})
    index_dir: str = field(
        default="answers-index",
        metadata={"help": "Folder of the index; delete it to read the disk again."},
    )
    libraries: int = field(default=8, metadata={"help": "Number of libraries: those with the most docstrings."})
    texts_per_library: int = field(default=1000, metadata={"help": "Number of texts from each library."})
    epochs: int = field(
        default=10, metadata={"help": "Epochs of the adapter, which runs the encoder in the first only."}
    )
    least_score: float = field(
        default=0.5, metadata={"help": "Minimum score of the intent to restrict the search to it."}
    )

    def settings(self) -> dict[str, Any]:
        """Return the arguments that the index depends on."""
        return {name: value for name, value in asdict(self).items() if name not in _OF_A_RUN}


_OF_A_RUN = ("questions", "index_dir", "least_score")


def say(what: str) -> None:
    """Print and flush, so that a pipe shows the progress too."""
    print(what, flush=True)


def texts_of(docs: list[Docstring], libraries: int, count: int) -> list[Docstring]:
    """Draw the same number of docstrings from each of the largest libraries."""
    largest = [name for name, _ in Counter(doc.library for doc in docs).most_common(libraries)]
    drawn = random.Random(0).sample(docs, len(docs))
    return [doc for name in largest for doc in [doc for doc in drawn if doc.library == name][:count]]


def summary(text: str) -> str:
    """Return the first paragraph on one line."""
    return " ".join(text.partition("\n\n")[0].split())


def load_encoder(name: str) -> SequenceEncoderModel:
    """Load an encoder without its head, and convert it if it is of another family."""
    if isinstance(AutoConfig.from_pretrained(name), SequenceEncoderConfig):
        return SequenceEncoderModel.from_pretrained(name)
    return cast(SequenceEncoderModel, convert(name, base_model=True))


def train_intents(
    encoder: SequenceEncoderModel, tokenizer: PreTrainedTokenizerBase, docs: list[Docstring], epochs: int
) -> TaskAdapter:
    """Train the intent classifier on texts that hide the names of libraries."""
    labels = sorted({doc.library for doc in docs})
    adapter = TaskAdapter(encoder, len(labels), id2label=dict(enumerate(labels)))
    items = [
        {**tokenizer(summary(doc.hidden), truncation=True, max_length=128), "labels": labels.index(doc.library)}
        for doc in docs
    ]
    loader: torch.utils.data.DataLoader[dict[str, torch.Tensor]] = torch.utils.data.DataLoader(
        items,  # type: ignore[arg-type]
        batch_size=32,
        shuffle=True,
        collate_fn=DataCollatorWithPadding(tokenizer),
    )
    train_adapted_model(adapter, loader, epochs, learning_rate=3e-3)
    return adapter


def build_index(arguments: QuestionArguments, folder: Path) -> None:
    """Build the index. `index.json` gets its settings last, so that an interrupted build is not used."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").write_text('{"settings": null}', encoding="utf-8")
    say(f"1 of 4: loading the encoder {arguments.model_name_or_path}")
    encoder = load_encoder(arguments.model_name_or_path)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)
    say("2 of 4: reading the docstrings on this disk")
    docs = texts_of(read_documentation(), arguments.libraries, arguments.texts_per_library)
    say(f"3 of 4: learning which library each of {len(docs):,} texts is about")
    adapter = train_intents(encoder, tokenizer, docs, arguments.epochs)
    adapter.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    say(f"4 of 4: encoding {len(docs):,} texts for the search")
    vectors = encoder.encode(
        [summary(doc.text) for doc in docs],
        tokenizer,
        max_length=128,
        normalize_embeddings=True,
        convert_to_tensor=True,
        show_progress_bar=True,
    )
    save_file({"vectors": vectors.cpu()}, folder / "vectors.safetensors")
    index = {"settings": arguments.settings(), "texts": [[doc.library, summary(doc.text), doc.path] for doc in docs]}
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


def load_index(arguments: QuestionArguments) -> tuple[Path, list[list[str]]]:
    """Return the folder of the index, built if necessary, and (library, text, path) of its texts."""
    folder = Path(arguments.index_dir)
    file = folder / "index.json"
    if file.exists() and json.loads(file.read_text(encoding="utf-8"))["settings"] == arguments.settings():
        say(f"Answering from {folder}; delete it to read the disk again.")
    else:
        if not file.exists() and folder.exists() and any(folder.iterdir()):
            raise SystemExit(f"--index_dir {folder} holds other files; name a new folder.")
        say(f"Building the index in {folder}, which takes minutes; later runs use it.")
        build_index(arguments, folder)
    return folder, json.loads(file.read_text(encoding="utf-8"))["texts"]


def main() -> None:
    """Answer the questions."""
    (arguments,) = read_arguments(QuestionArguments)
    folder, texts = load_index(arguments)
    vectors = load_file(folder / "vectors.safetensors")["vectors"]
    adapter, tokenizer = TaskAdapter.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    intent = pipeline("text-classification", model=adapter, tokenizer=tokenizer, device="cpu")
    for question in arguments.questions:
        about = intent(question)[0]
        asked = adapter.encoder.encode(question, tokenizer, normalize_embeddings=True, convert_to_tensor=True)
        sure = about["score"] >= arguments.least_score
        among = torch.tensor([not sure or library == about["label"] for library, _, _ in texts])
        _, answer, path = texts[int((vectors @ asked).masked_fill(~among, -torch.inf).argmax())]
        say(f"\n{question}\n  about {about['label']} ({about['score']:.2f})\n  {answer}\n  {path}")


if __name__ == "__main__":
    main()

"""The models in the table of what works: each kind, as each command leaves it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import transformers

from sequence_encoder.evaluation.calibration.arguments import CALIBRATED_TASKS
from sequence_encoder.tests.fixtures.adaptation_runs import examples_of
from sequence_encoder.tests.fixtures.forked_python import forked_python
from sequence_encoder.tests.matrix.command_line import run
from sequence_encoder.tests.matrix.kinds import KINDS, Kind, class_of, save_fresh

FRESH, CALIBRATED, EIGHT_BITS, ONNX, OPENVINO = "fresh", "calibrated", "eight bits", "ONNX", "OpenVINO"
TRAINER, WITHOUT_PACKAGE, PEFT = "saved by Trainer", "saved without the package", "unmerged peft folder"
_TUNINGS = {name: f"adapt --tuning {name}" for name in ("full", "head", "lora", "dora", "ia3", "prompt", "adapter")}
EXPORTED = (ONNX, OPENVINO)
_SAVE_AGAIN = """
import sys; sys.modules["sequence_encoder"] = None
import transformers
auto, source, target = sys.argv[1:]
getattr(transformers, auto).from_pretrained(source, trust_remote_code=True).save_pretrained(target)
transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=True).save_pretrained(target)
"""


@dataclass(frozen=True)
class Model:
    """A model in the table.

    Attributes:
        kind: Its kind.
        state: How it was made.
        folder: Its folder.
    """

    kind: Kind
    state: str
    folder: Path

    @cached_property
    def labels(self) -> list[str]:
        """The names of its labels."""
        fields = json.loads((self._configured / "config.json").read_text())
        return [fields["id2label"][index] for index in sorted(fields.get("id2label", {}), key=int)]

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds an adapter of peft."""
        return (self.folder / "adapter_config.json").is_file()

    @property
    def _configured(self) -> Path:
        """The folder of its configuration: that of its base model if it is an adapter."""
        if not self.is_adapter:
            return self.folder
        base = json.loads((self.folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        return self.folder / base


def auto_class(kind: Kind) -> str:
    """Return the name of the Auto class that loads the models of a kind."""
    # Transformers has no Auto class for these heads.
    others = {
        "Model": "AutoModel",
        "ForSpanExtraction": "AutoModel",
        "ForRetrieval": "AutoModelForTextEncoding",
        "ForZeroShotClassification": "AutoModelForSequenceClassification",
    }
    return others.get(kind.head, f"AutoModel{kind.head}")


def rows() -> Iterator[tuple[str, str]]:
    """Yield the kind and the state of each row of the table."""
    for name, kind in KINDS.items():
        if name != "writer":
            yield name, FRESH
        yield from ((name, _TUNINGS[tuning]) for tuning in _tunings_of(name))
        if kind.task in CALIBRATED_TASKS and kind.markers is None:
            yield name, CALIBRATED
        # A table has no linear layers.
        has_layers = name != "static"
        yield from ((name, state) for state in (EIGHT_BITS, ONNX, OPENVINO) if has_layers or state != EIGHT_BITS)
        if name not in ("ranker", "encoder", "static", "retrieval", "writer"):
            yield name, TRAINER
        yield from ((name, state) for state in (WITHOUT_PACKAGE, PEFT) if has_layers or state != PEFT)


def _tunings_of(kind: str) -> tuple[str, ...]:
    """Return the tunings of `adapt` to try for a kind. They save other heads as they save classifiers."""
    if kind == "classifier":
        return tuple(_TUNINGS)
    if kind in ("ranker", "encoder"):
        return ("full",)
    return () if kind in ("unnamed", "retrieval", "static", "masked", "extractor", "zeroshot") else ("full", "lora")


class Workshop:
    """Makes the models of the table, each once.

    Args:
        root: The folder for all of them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._made: dict[tuple[str, str], Path] = {}

    def model(self, kind: str, state: str) -> Model:
        """Return a model, after making it and those that it is made of."""
        return Model(KINDS[kind], state, self._folder(kind, state))

    def _folder(self, kind: str, state: str) -> Path:
        if (kind, state) not in self._made:
            target = self.root / f"{kind}-{state.replace(' ', '-').replace('--', '')}"
            self._made[kind, state] = self._make(kind, state, target) or target
        return self._made[kind, state]

    def source(self, kind: str) -> Path:
        """Return the folder that the other states of a kind are made of."""
        return self._folder(kind, _TUNINGS["full"] if kind == "writer" else FRESH)

    def examples(self, kind: Kind, count: int = 24, seed: int = 0) -> Path:
        """Return a file of examples for a kind."""
        unnamed = kind is KINDS["unnamed"]
        file = self.root / f"{kind.task}-{'numbers-' if unnamed else ''}{count}-{seed}.jsonl"
        if not file.exists():
            found = examples_of(kind.task, count, seed)
            if unnamed:
                numbers = KINDS["classifier"].fields["label2id"]
                found = [{**row, "label": numbers[row["label"]]} for row in found]
            file.write_text("".join(json.dumps(row) + "\n" for row in found))
        return file

    def _make(self, name: str, state: str, target: Path) -> Path | None:
        kind = KINDS[name]
        if state == FRESH:
            save_fresh(kind, target)
        elif state.startswith("adapt"):
            tuning = state.split()[-1]
            base = self.source("masked" if name == "writer" else "encoder")
            adapt(kind, base, self, target, tuning)
            # Virtual tokens cannot be merged.
            return target / "adapter" if tuning == "prompt" else None
        else:
            self._makers[state](self, kind, self.source(name), target)
        return None

    def _calibrate(self, kind: Kind, source: Path, target: Path) -> None:
        run("calibrate", source, "--calibration_file", self.examples(kind, 60, 3), "--output_dir", target)

    def _quantize(self, kind: Kind, source: Path, target: Path) -> None:
        run("quantize", source, "--output_dir", target, "--text_file", self.texts, "--cosine", 0.9)

    def _export(self, kind: Kind, source: Path, target: Path, to: str) -> None:
        run("export", source, "--output_dir", target, "--format", to, *(["--pooled"] if kind.head == "Model" else []))

    def _train(self, kind: Kind, source: Path, target: Path) -> None:
        model = getattr(transformers, auto_class(kind)).from_pretrained(source)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        arguments = transformers.TrainingArguments(target, use_cpu=True, report_to=[])
        transformers.Trainer(model, arguments, processing_class=tokenizer).save_model(str(target))

    def _save_without_package(self, kind: Kind, source: Path, target: Path) -> None:
        command = [forked_python(), "-c", _SAVE_AGAIN, auto_class(kind), source, target]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise RuntimeError(done.stderr)

    def _save_adapter(self, kind: Kind, source: Path, target: Path) -> None:
        from peft import LoraConfig, get_peft_model

        model = class_of(kind).from_pretrained(source)
        get_peft_model(model, LoraConfig(task_type=kind.peft or None)).save_pretrained(str(target))
        transformers.AutoTokenizer.from_pretrained(source).save_pretrained(target)

    @cached_property
    def texts(self) -> Path:
        """Return a file of texts."""
        file = self.root / "texts.txt"
        file.write_text("".join(f"{row['text']}\n" for row in examples_of("classification", 24, 1)))
        return file

    _makers: ClassVar[dict[str, Callable[..., Any]]] = {
        CALIBRATED: _calibrate,
        EIGHT_BITS: _quantize,
        ONNX: lambda self, *given: self._export(*given, "onnx"),
        OPENVINO: lambda self, *given: self._export(*given, "openvino"),
        TRAINER: _train,
        WITHOUT_PACKAGE: _save_without_package,
        PEFT: _save_adapter,
    }


def adapt(kind: Kind, source: Path, shop: Workshop, target: Path, tuning: str = "full") -> None:
    """Fine-tune a model with `sequence-encoder adapt`, for two steps."""
    files = {"train": 16, "validation": 8}
    run(
        *("adapt", "--task", kind.task, "--tuning", tuning, "--model", source, "--output_dir", target),
        *(part for name, count in files.items() for part in (f"--{name}_file", shop.examples(kind, count))),
        *("--max_steps", 2, "--per_device_train_batch_size", 8, "--bf16", "False", "--use_cpu", "True"),
        *("--disable_tqdm", "True", "--save_strategy", "no", "--logging_strategy", "no"),
    )

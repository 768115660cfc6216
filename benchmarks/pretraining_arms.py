"""What the comparisons of pretraining train: the texts, the clock, and the `Trainer` of each arm.

The peers are transformers' BERT with the recipe of its example `run_mlm.py`, and transformers' ModernBERT with a modern
recipe. Ours is the `Trainer` that `sequence-encoder pretrain` builds.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from sequence_encoder import SequenceEncoderTokenizer
from sequence_encoder.data.packs import EvaluationWindows
from sequence_encoder.data.windows import segment_windows
from sequence_encoder.inference.bfloat16 import faster_in_bfloat16
from sequence_encoder.training.pretraining.objectives import Objectives, PretrainingCollator
from sequence_encoder.training.pretraining.pretrain import prepare
from sequence_encoder.training.pretraining.run import parse

LENGTH, ROWS, VOCABULARY = 128, 32, 8192
PACKS = ["--max_length", str(LENGTH), "--max_tokens", str(ROWS * LENGTH)]
# The size "mini", which our encoder has, too.
MINI: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": LENGTH,
}
# The number of steps to measure.
CALIBRATION = 12


class Clock(TrainerCallback):
    """Callback that records the held-out loss over the seconds of training, without the time of evaluations.

    A second is one of CPU time on each of torch's threads, so that other work on the machine takes nothing away.
    """

    def __init__(self, steps: int, evaluate: Callable[[PreTrainedModel], float], evaluations: int) -> None:
        self.steps, self.evaluate, self.evaluations = steps, evaluate, evaluations
        self.curve: list[tuple[float, float]] = []
        self.times: list[float] = []

    @staticmethod
    def now() -> float:
        """Return the seconds of CPU time so far."""
        return time.process_time() / torch.get_num_threads()

    @property
    def passed(self) -> float:
        """The seconds of training so far."""
        return sum(self.times)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.last = self.now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the time of the step, and evaluate if an evaluation is due."""
        self.times.append(self.now() - self.last)
        if state.global_step * self.evaluations % self.steps < self.evaluations:
            self.curve.append((self.passed, self.evaluate(kwargs["model"])))
            print(f"  {self.passed:6.0f} s  step {state.global_step:5}  loss {self.curve[-1][1]:.3f}", flush=True)
        self.last = self.now()


class Held:
    """The documents to train on, a tokenizer for all new models, and masked tokens of held-out documents.

    Args:
        scratch: The folder to write to.
        files: JSON Lines with the documents to train on, and with the held-out documents.
    """

    def __init__(self, scratch: Path, files: Sequence[Path]) -> None:
        self.scratch, self.corpus = scratch, files[0]
        # Two processes can share the other folder.
        self._runs = tempfile.TemporaryDirectory()
        self.runs = Path(self._runs.name)
        self.train, self.others = ([json.loads(line)["text"] for line in file.open(encoding="utf-8")] for file in files)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, which is trained once for a folder."""
        folder = self.scratch / "tokenizer"
        if not folder.exists():
            SequenceEncoderTokenizer.train_from_iterator(
                self.train, VOCABULARY, lowercase=True, model_max_length=LENGTH, show_progress=False
            ).save_pretrained(folder)
        return SequenceEncoderTokenizer.from_pretrained(folder)

    def rows(self, concatenated: bool) -> list[dict[str, list[int]]]:
        """Return rows of tokens as `run_mlm.py` makes them: full ones, or one for each document."""
        ids = self.tokenizer(
            self.train, return_special_tokens_mask=True, truncation=not concatenated, max_length=LENGTH, verbose=False
        )
        names = ("input_ids", "special_tokens_mask")
        if not concatenated:
            return [{name: ids[name][i] for name in names} for i in range(len(self.train))]
        joined = {name: [x for row in ids[name] for x in row] for name in names}
        total = len(joined["input_ids"]) // LENGTH * LENGTH
        return [{name: x[i : i + LENGTH] for name, x in joined.items()} for i in range(0, total, LENGTH)]

    def batches(self, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
        """Return the masked tokens of the held-out documents."""
        windows = EvaluationWindows(list(segment_windows(self.others, tokenizer, LENGTH, pairs=False)))
        collate = PretrainingCollator(tokenizer, Objectives(sop_weight=0, bow_weight=0, mlm_probability=0.15))
        items = [windows[i] for i in range(len(windows))]
        return [collate(items[i : i + ROWS]) for i in range(0, len(items), ROWS)]

    def loss(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[PreTrainedModel], float]:
        """Return what computes the loss of a model with this tokenizer, in nats per masked token."""
        batches = self.batches(tokenizer)

        @torch.no_grad()
        def loss_of(model: PreTrainedModel) -> float:
            model.eval()
            total, count = 0.0, 0
            for batch in batches:
                with torch.autocast("cpu", torch.bfloat16, enabled=faster_in_bfloat16()):
                    loss = model(**batch)[0]
                masked = int((batch["labels"] != -100).sum())
                total, count = total + float(loss) * masked, count + masked
            model.train()
            return total / count

        return loss_of


def bert_trainer(held: Held, rate: float, steps: int, concatenated: bool = True) -> Trainer:
    """Build a `Trainer` for BERT of the size "mini", with the data of transformers' `run_mlm.py`."""
    set_seed(0)
    config = BertConfig(
        vocab_size=len(held.tokenizer),
        intermediate_size=1024,
        **MINI,
    )
    return _peer_trainer(held, BertForMaskedLM(config), 0.15, concatenated, max_steps=steps, learning_rate=rate)


def modernbert_trainer(held: Held, rate: float, steps: int) -> Trainer:
    """Build a `Trainer` for ModernBERT of the size "mini", with the recipe of Warner et al. (2024).

    Its rows are full, 30 % of the tokens are masked, only these are multiplied with the vocabulary, and the learning
    rate warms up, stays, and decays as one minus a square root.
    """
    set_seed(0)
    tokens: Any = {name: getattr(held.tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep")}
    config = ModernBertConfig(
        vocab_size=len(held.tokenizer),
        intermediate_size=704,
        **MINI,
        sparse_prediction=True,
        attn_implementation="sdpa",
        bos_token_id=tokens["cls"],
        eos_token_id=tokens["sep"],
        **{f"{name}_token_id": token for name, token in tokens.items()},
    )
    return _peer_trainer(
        held,
        ModernBertForMaskedLM(config),
        0.3,
        True,
        max_steps=steps,
        learning_rate=rate,
        warmup_steps=0.05,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": round(0.3 * steps), "decay_type": "1-sqrt"},
        adam_beta2=0.98,
        adam_epsilon=1e-6,
    )


def _peer_trainer(held: Held, model: PreTrainedModel, share: float, concatenated: bool, **options: Any) -> Trainer:
    """Build a `Trainer` for a model of transformers, on full rows or on one padded row for each document."""
    arguments = TrainingArguments(
        **{
            "output_dir": str(held.runs / "peer"),
            "per_device_train_batch_size": ROWS,
            "warmup_steps": 0.1,
            "weight_decay": 0.01,
            "use_cpu": True,
            "bf16": faster_in_bfloat16(),
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            **options,
        }
    )
    collate = DataCollatorForLanguageModeling(held.tokenizer, mlm_probability=share, seed=0)
    rows = held.rows(concatenated)
    return Trainer(model, arguments, train_dataset=rows, data_collator=collate, processing_class=held.tokenizer)


def our_trainer(held: Held, options: Sequence[str], steps: int) -> Trainer:
    """Build the `Trainer` that `sequence-encoder pretrain --size mini` builds."""
    folder = Path(held.tokenizer.name_or_path)
    return _our_trainer(held, ["--size", "mini", "--tokenizer", str(folder), *options], steps)


def continued_trainer(held: Held, options: Sequence[str], steps: int) -> Trainer:
    """Build the `Trainer` that `sequence-encoder pretrain` builds to continue from all-MiniLM-L6-v2."""
    from minilm import MINILM

    return _our_trainer(held, ["--model", str(MINILM), *options], steps)


def _our_trainer(held: Held, options: Sequence[str], steps: int) -> Trainer:
    fixed = ["--output_dir", str(held.runs / "ours"), "--overwrite", "--max_steps", str(steps), *PACKS]
    fixed += ["--corpus", str(held.corpus), "--num_proc", "1"]
    fixed += ["--save_strategy", "no", "--report_to", "none", "--disable_tqdm", "True"]
    return prepare(parse([*fixed, *options]), time.perf_counter())


def step_times(make: Callable[[int], Trainer]) -> list[float]:
    """Measure the seconds of single steps, without the first ones, which are slower."""
    clock = Clock(CALIBRATION, lambda model: 0.0, 0)
    trainer = make(CALIBRATION)
    trainer.add_callback(clock)
    trainer.train()
    return clock.times[2:]


def train_for(
    name: str, make: Callable[[int], Trainer], minutes: float, seconds: float, held: Held, evaluations: int
) -> tuple[Trainer, Clock]:
    """Train for as many steps of `seconds` each as fit into `minutes`."""
    steps = max(20, round(60 * minutes / seconds))
    trainer = make(steps)
    clock = Clock(steps, held.loss(trainer.processing_class), evaluations)
    size = sum(weight.numel() for weight in trainer.model.parameters())
    print(f"{name}: {size:,} parameters, {steps:,} steps", flush=True)
    trainer.add_callback(clock)
    trainer.train()
    return trainer, clock

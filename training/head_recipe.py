"""The recipe for tasks with a head of transformers: examples, model, `Trainer`, and what is written in the end."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn import functional as F
from transformers import (
    AutoModel,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    default_data_collator,
    set_seed,
)
from transformers.utils import logging

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..hub.model_card import TASKS as CARD_TASKS
from ..hub.model_card import model_card
from ..modeling.losses import IGNORED
from ..modeling.task_adapter import TaskAdapter
from . import UsageError
from .adaptation_arguments import Adaptation, AdaptationArguments
from .adaptation_report import Results, complete, metrics_of
from .best_weights import BestWeights
from .hub_trainer import HubTrainer, training_of
from .tasks import HEAD_TASKS
from .tuning import TUNINGS, check_adapter, tuned


class HeadRecipe:
    """One task with a head, from examples to a trained model.

    Args:
        run: what was asked for.
        examples: of each split.

    Raises:
        UsageError: for examples that are not as the task needs them.
    """

    def __init__(self, run: Adaptation, examples: dict[str, Any]) -> None:
        self.run = run
        self.task = HEAD_TASKS[run.model.task](run.data, run.model.max_length)
        self.rows = self.task.read(examples)
        if run.args.class_weights != "none" and run.model.task not in ("classification", "ner"):
            raise UsageError(f"--class_weights are for classification and ner, got --task {run.model.task}.")
        if run.model.from_adapter is not None:
            check_adapter(run.model.from_adapter, run.model.from_checkpoint)

    def prepare(self, checkpoint: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """Tokenises, and for a frozen encoder computes all vectors.

        Args:
            checkpoint: of an encoder.
            tokenizer: that of it.
        """
        self.checkpoint, self.tokenizer = checkpoint, tokenizer
        self.inputs = {split: self.task.encode(rows, tokenizer) for split, rows in self.rows.items()}
        self.collator = self.task.collator(tokenizer)
        self.weights = self._class_weights()
        if self.run.model.tuning == "adapter":
            encoder: Any = AutoModel.from_pretrained(checkpoint, dtype=torch.float32)
            self.encoder: PreTrainedModel = encoder.to(self.run.args.device)
            self.inputs = {split: self._features(inputs) for split, inputs in self.inputs.items()}
            self.collator = default_data_collator

    def model(self, seed: int) -> Any:
        """The encoder with a new head, tuned as asked for."""
        set_seed(seed)
        asked, labels = self.run.model, self.task.label_fields
        if asked.tuning == "adapter":
            adapter = TaskAdapter(self.encoder, len(labels["id2label"]), asked.pooling, labels["id2label"])
            adapter.config.problem_type = labels["problem_type"]
            return adapter
        fields: dict[str, Any] = {**labels}
        if asked.pooling is not None:
            fields["pooling"] = asked.pooling
            if asked.pooling == "mean":
                # The dense layer of a pooler has learned from the first token.
                fields["pooler_act"] = None
        model_class = getattr(transformers, self.task.auto_class)
        level = logging.get_verbosity()
        # That a head is new goes without saying.
        logging.set_verbosity_error()
        try:
            config = SequenceEncoderConfig.from_pretrained(self.checkpoint, **fields)
            model = model_class.from_pretrained(
                self.checkpoint, config=config, dtype=torch.float32, ignore_mismatched_sizes=True
            )
        finally:
            logging.set_verbosity(level)
        return tuned(model, asked, self.task.peft_task)

    def trainer(self, args: AdaptationArguments, with_model: bool = True) -> HubTrainer:
        """A `Trainer` for the model of a seed, or with `with_model=False` for those of a search."""
        callbacks: list[TrainerCallback] = [BestWeights()] if args.keep_best else []
        if args.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
        model: dict[str, Any] = {"model": self.model(args.seed)}
        if not with_model:
            model = {"model_init": lambda trial=None: self.model(args.seed)}
        try:
            return HubTrainer(
                **model,
                args=args,
                train_dataset=self.inputs["train"],
                eval_dataset=self.inputs["validation"],
                data_collator=self.collator,
                processing_class=self.tokenizer,
                compute_metrics=self.task.metrics(self.rows["validation"], self.inputs["validation"]),
                compute_loss_func=None if self.weights is None else weighted_loss(self.weights),
                callbacks=callbacks,
            )
        # What `Trainer` and Accelerate say of arguments that they cannot follow.
        except (ValueError, ImportError) as error:
            raise UsageError(error) from error

    def metrics(self, trainer: Any, split: str) -> dict[str, float]:
        """Of a split."""
        prefix = "eval" if split == "validation" else split
        trainer.compute_metrics = self.task.metrics(self.rows[split], self.inputs[split])
        return metrics_of(trainer.evaluate(self.inputs[split], metric_key_prefix=prefix), prefix)

    def score(self, metrics: dict[str, float]) -> float:
        """What is to be large."""
        name = str(self.run.args.metric_for_best_model or "loss").removeprefix("eval_")
        if name not in metrics:
            raise UsageError(f"--metric_for_best_model must be one of {', '.join(metrics)}, got {name}.")
        return metrics[name] if self.run.args.greater_is_better else -metrics[name]

    def write(self, trainer: Any, results: Results, folder: Path) -> None:
        """The model, its tokenizer and its card; what peft has trained also alone, in `adapter`.

        Prompts are no weights of the model, and stand in the folder themselves, with the encoder in `base`.
        """
        model: Any = trainer.accelerator.unwrap_model(trainer.model)
        training = training_of(trainer, task=CARD_TASKS[self.task.auto_class][0])
        tuning = TUNINGS[self.run.model.tuning]
        limits = []
        if tuning.is_peft:
            # Where peft finds what it was trained on.
            carried_over = self.checkpoint != self.run.model.from_checkpoint
            named = str(self.run.output.resolve() / "base") if carried_over else self.checkpoint
            model.peft_config["default"].base_model_name_or_path = named
            if carried_over:
                shutil.copytree(self.checkpoint, folder / "base")
            model.save_pretrained(folder / "adapter" if tuning.can_be_merged else folder)
            model = model.merge_and_unload() if tuning.can_be_merged else model.get_base_model()
        if tuning.can_be_merged:
            model.save_pretrained(folder)
        else:
            limits.append("Its prompts are an adapter of peft: load it with AutoPeftModelForSequenceClassification.")
        self.tokenizer.save_pretrained(folder)
        dataset = self.run.data.dataset_name or Path(str(self.run.data.train_file)).name
        card = model_card(
            model,
            self.run.args.hub_model_id or str(self.run.output),
            complete(training, results, dataset, CARD_TASKS[self.task.auto_class][0]),
            base_model=_of_the_hub(self.run.model.from_checkpoint),
            datasets=self.run.data.dataset_name,
            limits=limits,
        )
        card.save(folder / "README.md")

    def _features(self, inputs: Any) -> Any:
        """The vectors of texts instead of their tokens."""
        from datasets import Dataset
        from torch.utils.data import DataLoader

        adapter = TaskAdapter(self.encoder, 1, self.run.model.pooling)
        device, parts = self.run.args.device, []
        texts = inputs.remove_columns("labels")
        loader: Any = DataLoader(texts, batch_size=self.run.args.per_device_eval_batch_size, collate_fn=self.collator)
        for batch in logging.tqdm(loader, desc="Encoding"):
            with self._autocast():
                vectors = adapter.features(**{name: tensor.to(device) for name, tensor in batch.items()})
            parts.append(vectors.float().cpu())
        rows = {"features": torch.cat(parts).numpy(), "labels": inputs["labels"]}
        return Dataset.from_dict(rows).with_format("torch")

    def _autocast(self) -> Any:
        args = self.run.args
        return torch.autocast(args.device.type, torch.bfloat16, enabled=bool(args.bf16))

    def _class_weights(self) -> torch.Tensor | None:
        """(C,), the rarer a class the more, with the mean 1 over examples."""
        if self.run.args.class_weights == "none":
            return None
        names = self.task.label_fields["id2label"]
        column = [
            label for cell in self.inputs["train"]["labels"] for label in (cell if isinstance(cell, list) else [cell])
        ]
        counts = torch.bincount(torch.tensor([label for label in column if label != IGNORED]), minlength=len(names))
        return counts.sum() / (len(names) * counts.clamp(min=1))


def weighted_loss(weights: torch.Tensor) -> Callable[..., torch.Tensor]:
    """The cross entropy with a weight for each class (C,), as `Trainer` calls it."""

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        logits = outputs["logits"].flatten(0, -2).float()
        labels = labels.flatten().to(logits.device)
        total = F.cross_entropy(logits, labels, weights.to(logits), ignore_index=IGNORED, reduction="sum")
        return total / (
            num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum().clamp(min=1)
        )

    return loss


def _of_the_hub(checkpoint: str) -> str | None:
    return None if Path(checkpoint).exists() else checkpoint

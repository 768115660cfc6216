"""The recipe for tasks with a head of transformers: examples, model, `Trainer`, and what is written in the end."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModel,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    default_data_collator,
    set_seed,
)
from transformers.utils import logging

from ...command_line import UsageError
from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ...hub.card import TASKS as CARD_TASKS
from ...hub.card import Training, model_card
from ...modeling.checks import IGNORED
from ...modeling.heads.task_adapter import TaskAdapter
from ...modeling.modeling_sequence_encoder import SequenceEncoderModel
from ...saving.model_files import save_card
from ..encoders import card_fields_of, pooling_fields
from ..hub_trainer import HubTrainer, training_of
from .adapters import check_adapter, record_adapter, tuned
from .best_weights import BestWeights, callbacks_of
from .report import Judgement, Results, adapter_card, complete, metrics_of
from .run import Adaptation, AdaptationArguments
from .tasks import HEAD_TASKS
from .tasks.task import Cut
from .tuning import TUNINGS

# Tokens that texts are cut to, if nothing else is asked for.
_LENGTH = 256
# Heads whose last layer has a row for each label.
_CLASSIFIERS = ("SequenceClassification", "TokenClassification", "MultipleChoice")
# Heads that take one vector for each text.
_POOLING = ("SequenceClassification", "MultipleChoice")


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
        self.task = HEAD_TASKS[run.model.task](run.data)
        self.rows = self.task.read(examples)
        if run.args.class_weights != "none" and run.model.task not in ("classification", "ner"):
            raise UsageError(f"--class_weights are for classification and ner, got --task {run.model.task}.")
        if self.metric not in (allowed := (*self.task.metric_names, "loss")):
            raise UsageError(f"--metric_for_best_model must be one of {', '.join(allowed)}, got {self.metric}.")
        if run.model.from_adapter is not None:
            self.task.follow(check_adapter(run.model, self.task.labels))

    def prepare(self, checkpoint: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """Tokenises, and for a frozen encoder computes all vectors.

        Args:
            checkpoint: of an encoder.
            tokenizer: that of it.
        """
        self.checkpoint, self.tokenizer = checkpoint, tokenizer
        config = AutoConfig.from_pretrained(checkpoint)
        prompts = self.run.model.prompt_length if self.run.model.tuning == "prompt" else 0
        self.task.max_length = text_length(self.run.model.max_length, config, prompts)
        # A trained head goes on with its labels in its order, if they are those of the examples.
        trained = (config.architectures or [""])[0].rpartition("For")[2]
        same_head = trained == self.task.auto_class.rpartition("For")[2]
        known = [config.id2label[index] for index in sorted(config.id2label or {})]
        self.drops_head = trained in _CLASSIFIERS and not (same_head and self._may_follow(known))
        self.inputs, self.cut = {}, {}
        for split, rows in self.rows.items():
            self.task.cut = self.cut[split] = Cut()
            self.inputs[split] = self.task.encode(rows, tokenizer)
        self.collator = self.task.collator(tokenizer)
        self.weights = self._class_weights()
        if self.run.model.tuning == "adapter":
            with new_head():
                encoder: Any = AutoModel.from_pretrained(checkpoint, dtype=torch.float32)
            self.encoder: PreTrainedModel = encoder.to(self.run.args.device)
            try:
                TaskAdapter(self.encoder, 1, self.run.model.pooling)
            except ValueError as error:
                raise UsageError(f"--from {self.run.model.from_checkpoint}: {error}") from error
            self.inputs = {split: self._features(inputs) for split, inputs in self.inputs.items()}
            self.collator = default_data_collator

    def _may_follow(self, labels: list[str]) -> bool:
        """Whether the labels of a trained head are those of the examples, whose order is then that of the head."""
        if self.run.model.from_adapter is not None:
            return labels == self.task.labels
        return not self.task.labels or self.task.follow(labels)

    @property
    def _pooling_fields(self) -> dict[str, Any]:
        """How texts are pooled for a head, where that is not as the configuration of the checkpoint says."""
        if self.task.auto_class.rpartition("For")[2] not in _POOLING:
            return {}
        return pooling_fields(self.checkpoint, self.run.model.pooling)

    def model(self, seed: int) -> Any:
        """The encoder with a new head, tuned as asked for."""
        set_seed(seed)
        asked, labels = self.run.model, self.task.label_fields
        if asked.tuning == "adapter":
            adapter = TaskAdapter(self.encoder, len(labels["id2label"]), asked.pooling, labels["id2label"])
            adapter.config.problem_type = labels["problem_type"]
            return adapter
        fields = labels | self._pooling_fields
        model_class = getattr(transformers, self.task.auto_class)
        with new_head():
            config = SequenceEncoderConfig.from_pretrained(self.checkpoint, **fields)
            if self.drops_head:
                model = model_class.from_config(config)
                encoder = SequenceEncoderModel.from_pretrained(self.checkpoint, dtype=torch.float32)
                model.base_model.load_state_dict(encoder.state_dict(), strict=False)
            else:
                model = model_class.from_pretrained(
                    self.checkpoint, config=config, dtype=torch.float32, ignore_mismatched_sizes=True
                )
            return tuned(model, asked, self.task.peft_task)

    def trainer(
        self, args: AdaptationArguments, resume_from: Path | None = None, with_model: bool = True
    ) -> HubTrainer:
        """A `Trainer` for the model of a seed, or with `with_model=False` for those of a search.

        Args:
            args: of the `Trainer`.
            resume_from: the checkpoint that it will resume from.
            with_model: whether it has a model, or makes one for each trial.
        """
        if with_model:
            model: dict[str, Any] = {"model": self.model(args.seed)}
        else:
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
                callbacks=callbacks_of(args, args.keep_best, args.early_stopping_patience, resume_from),
            )
        # What `Trainer` and Accelerate say of arguments that they cannot follow.
        except (ValueError, ImportError) as error:
            raise UsageError(error) from error

    @property
    def max_length(self) -> int:
        """Tokens that texts are cut to."""
        return self.task.max_length

    @property
    def labels(self) -> list[str]:
        """The names of the classes, if there are any."""
        return self.task.labels

    @property
    def metric(self) -> str:
        """The metric by which the best weights are chosen."""
        return str(self.run.args.metric_for_best_model).removeprefix("eval_")

    @property
    def logged(self) -> tuple[str, ...]:
        """What a trainer logs that is worth a column on the console."""
        return tuple(dict.fromkeys(("loss", "eval_loss", f"eval_{self.metric}")))

    def judge(self, trainer: Any, split: str) -> Judgement:
        """What the model of a trainer answers to the examples of a split, and how good that is."""
        rows, inputs = self.rows[split], self.inputs[split]
        while_training = trainer.compute_metrics
        trainer.compute_metrics = self.task.metrics(rows, inputs)
        found = trainer.predict(inputs, metric_key_prefix="eval")
        trainer.compute_metrics = while_training
        outputs = EvalPrediction(found.predictions, found.label_ids)
        return Judgement(
            metrics_of(found.metrics, "eval"), self.task.answers(rows, inputs, outputs), self.task.confusion(outputs)
        )

    def constant(self, split: str) -> dict[str, float] | None:
        """The metrics of always giving the same answer; None if the task has no such answer."""
        inputs = self.inputs[split]
        outputs = self.task.constant(self.inputs["train"], inputs)
        return None if outputs is None else self.task.metrics(self.rows[split], inputs)(outputs)

    def score(self, metrics: dict[str, float]) -> float:
        """What is to be large."""
        value = metrics[self.metric]
        return value if self.run.args.greater_is_better else -value

    def write(self, trainer: Any, folder: Path) -> None:
        """The model and its tokenizer; what peft has trained also alone, in `adapter`.

        Prompts are no weights of the model: where these are trained, the folder holds no other model than `base`.
        """
        model: Any = trainer.accelerator.unwrap_model(trainer.model)
        tuning = TUNINGS[self.run.model.tuning]
        self.tokenizer.save_pretrained(folder)
        if tuning.is_peft:
            self._write_adapter(model, folder)
            if not tuning.can_be_merged:
                return
            model = model.merge_and_unload()
        model.save_pretrained(folder)

    def write_cards(self, results: Results, folder: Path) -> None:
        """The cards of the model and of its adapter, into their folder."""
        training, tuning = self._training(results), TUNINGS[self.run.model.tuning]
        fields = card_fields_of(self.run.model.from_checkpoint)
        if tuning.is_peft:
            with_base = (folder / "base").exists()
            # What cannot be merged is all that there is.
            for inside in (True,) if tuning.can_be_merged else (True, False):
                card = adapter_card(
                    self.task.auto_class, self.run.model, self.task.labels, with_base, inside, training, fields
                )
                save_card(folder / "adapter" / "README.md" if inside else folder / "README.md", card.content)
            if not tuning.can_be_merged:
                return
        card = model_card(
            getattr(transformers, self.task.auto_class).from_pretrained(folder),
            # Not the path: that is of this disk, and the card will be read elsewhere.
            self.run.args.hub_model_id or self.run.output.resolve().name,
            training,
            **fields,
            base_model=_of_the_hub(self.run.model.from_checkpoint),
            datasets=_of_the_hub(self.run.data.dataset_name),
            limits=[f"It was trained on texts of at most {self.task.max_length} tokens; longer ones were cut."],
        )
        save_card(folder / "README.md", card.content)

    def training(self, trainer: Any) -> Training:
        """What a trainer knows of the training that it has done."""
        training = training_of(trainer, task=CARD_TASKS[self.task.auto_class][0])
        # The metrics are those of all trainings.
        training.progress, training.results = None, []
        kept = next((each for each in trainer.callback_handler.callbacks if isinstance(each, BestWeights)), None)
        if kept is not None and kept.epoch is not None:
            training.hyperparameters = {**training.hyperparameters, "weights kept": f"of epoch {kept.epoch:.4g}"}
        return training

    def _training(self, results: Results) -> Training:
        """What the card says of the training whose model is kept."""
        data = self.run.data
        files = {"train": data.train_file, "validation": data.validation_file, "test": data.test_file}
        datasets = {split: Path(file).name for split, file in files.items() if file is not None}
        datasets.setdefault("train", _name(str(data.dataset_name)))
        origin, kind = _name(self.run.model.from_checkpoint), CARD_TASKS[self.task.auto_class][0]
        return complete(Training(**results.best.training), results, origin, datasets, kind)

    def _write_adapter(self, model: Any, folder: Path) -> None:
        """The adapter with its record, and the encoder that it stands on, unless the Hub has just that."""
        adapter, base, origin = folder / "adapter", folder / "base", self.checkpoint
        pooling = self._pooling_fields
        if _of_the_hub(origin) is None or pooling:
            with new_head():
                encoder = SequenceEncoderModel.from_pretrained(origin, dtype="auto")
            # The head of the adapter then fits without further arguments.
            encoder.config = SequenceEncoderConfig.from_pretrained(origin, **self.task.label_fields, **pooling)
            encoder.save_pretrained(base)
            origin = "../base"
        # While it saves, peft looks there for the size of the vocabulary.
        model.peft_config["default"].base_model_name_or_path = self.checkpoint
        model.save_pretrained(adapter)
        record_adapter(adapter, origin, self.run.model.from_checkpoint, self.task.labels)

    def _features(self, inputs: Any) -> Any:
        """The vectors of texts instead of their tokens."""
        from datasets import Dataset
        from torch.utils.data import DataLoader

        adapter = TaskAdapter(self.encoder, 1, self.run.model.pooling)
        device, parts = self.run.args.device, []
        texts = inputs.remove_columns("labels")
        loader: Any = DataLoader(texts, batch_size=self.run.args.per_device_eval_batch_size, collate_fn=self.collator)
        for batch in tqdm(loader, desc="Encoding", leave=False, disable=self.run.args.disable_tqdm or None):
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
        names = self.task.labels
        column = [
            label for cell in self.inputs["train"]["labels"] for label in (cell if isinstance(cell, list) else [cell])
        ]
        counts = torch.bincount(torch.tensor([label for label in column if label != IGNORED]), minlength=len(names))
        return counts.sum() / (len(names) * counts.clamp(min=1))


@contextmanager
def new_head() -> Iterator[None]:
    """Silence the reports of weights that are new or left over, as those of a head are, and of deprecated calls."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            yield
    finally:
        logging.set_verbosity(level)


def text_length(asked: int | None, config: Any, prompts: int = 0, default: int | None = None) -> int:
    """Tokens that texts are cut to: what was asked for, or else a default, if the encoder has positions for it.

    Args:
        asked: what was asked for.
        config: of the encoder.
        prompts: positions that virtual tokens take.
        default: what the folder of the encoder says.

    Raises:
        UsageError: if more was asked for than there are positions.
    """
    positions = getattr(config, "max_position_embeddings", None)
    limited = positions is not None and getattr(config, "position_embedding", "learned") == "learned"
    room = int(positions or 0) - prompts if limited else None
    if asked is not None and room is not None and asked > room:
        beside = f" beside {prompts} of the prompts" if prompts else ""
        raise UsageError(
            f"--max_length must be at most {room}, what the encoder has positions for{beside}, got {asked}."
        )
    default = default or _LENGTH
    return asked or min(default, room or default)


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


def _of_the_hub(name: str | None) -> str | None:
    return None if name is None or Path(name).exists() else name


def _name(checkpoint: str) -> str:
    """What to call a checkpoint or a dataset: an id of the Hub, or the last part of a path."""
    return _of_the_hub(checkpoint) or Path(checkpoint).resolve().name

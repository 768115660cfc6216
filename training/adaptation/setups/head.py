"""The setup of tasks with a head of transformers: prepare examples, build the model and `Trainer`, and save."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    default_data_collator,
    set_seed,
)

from ....command_line import UsageError
from ....command_line.progress import Progress
from ....command_line.quiet import new_head
from ....configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ....evaluation.tasks import HEAD_TASKS, HeadTask
from ....evaluation.tasks.classification import Classification
from ....evaluation.tasks.task import TruncationCounts
from ....modeling.heads.losses import cross_entropy_per_label, divided_by_count
from ....modeling.heads.task_adapter import TaskAdapter
from ....modeling.label_checks import IGNORED
from ....modeling.modeling_sequence_encoder import SequenceEncoderModel
from ...hub_trainer import HubTrainer
from ...sparse_embeddings import with_sparse_embeddings
from ..adapters import apply_tuning, check_adapter
from ..arguments import is_better_if_greater
from ..baselines import simple_baselines
from ..encoder import CLASSIFIERS, say_new_head, text_length
from ..linear_head import MOST_EXAMPLES, KeptHead, LinearFit, LinearHead, examples_within, frozen_vectors, loss_of
from ..report import Evaluation, metrics_of
from ..run import Adaptation, AdaptationArguments
from ..runs.callbacks import callbacks_of
from .batches import CurrentEpoch, Draws, RandomMasks
from .head_files import HeadFiles

# Tuning methods that save all trained weights with the model.
_AVERAGED = ("auto", "full", "head")
# With fewer validation examples, a share such as the accuracy is too coarse to choose weights by.
ENOUGH_TO_CHOOSE = 200
# Auto classes would load the class that the checkpoint names.
_NO_OTHER_HEAD: dict[str, Any] = {"architectures": None, "span_extraction": None, "zero_shot_classification": None}


class HeadSetup(HeadFiles):
    """The steps from examples to a trained model, for one task with a head.

    Raises:
        UsageError: If the task cannot use the examples or the arguments.
    """

    trainer_class: type[HubTrainer] = HubTrainer
    # The class of the model that an adapter is trained on, without the weights that the adapter contains.
    base_class: type[PreTrainedModel] = SequenceEncoderModel
    searched = None  # Only evaluations of embeddings search.
    is_of_sentence_transformers = False

    def __init__(self, run: Adaptation, examples: dict[str, Any]) -> None:
        self.run = run
        self.task = self._task()
        self.rows = self.task.read(examples)
        # The held-out training examples of each fold, if models are judged by cross-validation.
        self.folds: list[Any] = []
        self.unlabelled: Any = None  # more texts, without labels
        self.class_names: Any = None  # those of `--label_names_file`
        self.made_pairs: dict[str, dict[str, int]] = {}  # only texts for embeddings have any
        self.labelling: dict[str, Any] = {}  # what is known about labels that were found by names
        # The evaluations of the linear head, until it is clear whether it is kept, and they need not be repeated.
        self.judged_linear: dict[str, Evaluation] = {}
        # The numbers of the training examples in their source.
        self.positions: Any = np.arange(len(self.rows["train"]))
        self.chosen_by_loss = run.args.metric_for_best_model is None
        if run.args.metric_for_best_model is None:
            metric = str(self.task.best_metric)
            run.args.metric_for_best_model, run.args.greater_is_better = metric, is_better_if_greater(metric)
        if run.args.class_weights != "none" and run.model.task not in ("classification", "ner"):
            raise UsageError(f"--class_weights only supports classification and ner, got --task {run.model.task}.")
        if run.args.masked_tuning and run.model.tuning == "adapter":
            raise UsageError("--masked_tuning trains the encoder, which --tuning adapter does not.")
        if self.metric not in (allowed := (*self.task.metric_names, "loss")):
            raise UsageError(f"--metric_for_best_model must be one of {', '.join(allowed)}, got {self.metric}.")
        if run.args.average_seeds and run.model.tuning not in _AVERAGED:
            raise UsageError(f"--average_seeds needs --tuning {' or '.join(_AVERAGED)}, got {run.model.tuning}.")
        if run.model.from_adapter is not None:
            self.task.follow(check_adapter(run.model, self.task.labels))

    def _task(self) -> HeadTask:
        return HEAD_TASKS[self.run.model.task](self.run.data)

    def prepare(self, checkpoint: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """Tokenise the examples, and compute all text vectors if the encoder is frozen."""
        self.checkpoint, self.tokenizer = checkpoint, tokenizer
        config = AutoConfig.from_pretrained(checkpoint)
        self.hidden_size: int = config.hidden_size
        prompts = self.run.model.prompt_length if self.run.model.tuning == "prompt" else 0
        self.task.max_length = text_length(self.run.model.max_length, config, prompts)
        # A trained head is kept, with the order of its labels, if the examples have the same labels.
        trained = (config.architectures or [""])[0].rpartition("For")[2]
        same_head = trained == self.task.auto_class.rpartition("For")[2]
        known = [config.id2label[index] for index in sorted(config.id2label or {})]
        self.drops_head = trained in CLASSIFIERS and not (same_head and self._may_follow(known))
        self.keeps_head = same_head and not self.drops_head and self.run.model.tuning != "adapter"
        self.keeps_head = self.keeps_head and not self.run.data.finds_labels
        if self.drops_head and self.run.args.process_index == 0:
            say_new_head(self.run.model.model, config)
        self.inputs, self.cut = {}, {}
        for split, rows in self.rows.items():
            self.task.cut = self.cut[split] = TruncationCounts()
            self.inputs[split] = self.task.encode(rows, tokenizer)
        if self.is_pooled:
            # Without `--max_length`, other commands and pipelines read as much of a text as the training.
            tokenizer.model_max_length = self.task.max_length
        self.encoded = self.inputs
        self.collator = self.task.collator(tokenizer)
        self.weights = self._class_weights()
        if self.run.model.tuning == "adapter":
            with new_head():
                encoder: Any = AutoModel.from_pretrained(checkpoint, dtype=torch.float32)
            self.encoder: PreTrainedModel = encoder.to(self.run.args.device)
            try:
                TaskAdapter(self.encoder, 1, self.run.model.pooling)
            except ValueError as error:
                raise UsageError(f"{self.run.model.model}: {error}") from error
            self.inputs = {split: self._features(inputs) for split, inputs in self.inputs.items()}
            self.collator = default_data_collator
        self.linear: Any = self._linear()

    def _linear(self) -> LinearFit | KeptHead | None:
        """Fit the head to frozen vectors, or keep the head of the checkpoint. Some heads start from random weights."""
        task, asked, inputs = self.task, self.run.model, self.inputs["train"]
        token_labels = task.auto_class == "AutoModelForTokenClassification"
        kind = "single_label_classification" if token_labels else getattr(task, "problem_type", None)
        # Prompts change the vectors, and a trained adapter comes with its head.
        if kind is None or asked.tuning == "prompt" or asked.from_adapter is not None:
            return None
        if self.keeps_head and not self.folds:
            return None
        most = MOST_EXAMPLES
        if token_labels:
            # All vectors of long texts would not fit into memory.
            tokens = sum(label != IGNORED for labels in inputs["labels"] for label in labels)
            most = math.ceil(MOST_EXAMPLES * len(inputs) / max(tokens, 1))
        if asked.tuning != "adapter":
            set_seed(self.run.args.seed)  # as in `model`
            model = self.with_head()
            if self.run.args.seconds and not self.folds:
                most = min(most, examples_within(self.run, model, inputs, self.collator))
        self.fitted = np.random.default_rng(0).permutation(len(inputs))[:most] if len(inputs) > most else None
        if self.fitted is not None:
            if self.run.args.process_index == 0:
                print(f"The linear head is fitted to {most:,} of {len(inputs):,} examples.")
            inputs = inputs.select(self.fitted)
        if asked.tuning == "adapter":
            vectors, labels = inputs.with_format("numpy")[:].values()
        else:
            vectors, labels = frozen_vectors(model, inputs, self.collator, self.run.args)
        if self.keeps_head:
            layer = model.classifier
            return KeptHead(vectors, LinearHead(layer.weight.detach().cpu().numpy(), layer.bias.detach().cpu().numpy()))
        with Progress("Fitting the head", show=self.run.args.process_index == 0 and not self.run.args.disable_tqdm):
            return LinearFit(kind, vectors, labels, len(task.labels), self.run.args.class_weights != "none")

    def _may_follow(self, labels: list[str]) -> bool:
        """Return whether the examples have the labels of a trained head; if so, take over their order."""
        if self.run.model.from_adapter is not None:
            return labels == self.task.labels
        return not self.task.labels or self.task.follow(labels)

    def model(self, seed: int, rows: Any = None) -> Any:
        """Build the encoder with its head, prepared for the way of tuning.

        The head starts from the training examples `rows`, by default all. The seed is for random weights.
        """
        # A linear fit is for the dense layers that it was made with, and the average of weights is only a good model if
        # all training runs start from the same ones.
        same_start = self.linear is not None or self.run.args.average_seeds
        set_seed(self.run.args.seed if same_start else seed)
        model = self.with_head()
        if self.linear is not None:
            trains_encoder = self.run.model.tuning not in ("adapter", "head")
            _set_head(model, self.linear.head(rows, to_train=trains_encoder))
        return model if self.run.model.tuning == "adapter" else apply_tuning(model, self.run.model, self.task.peft_task)

    def set_linear(self, model: Any) -> None:
        """Give a model before training the linear head that is best without training."""
        if self.linear is not None and type(model.classifier) is torch.nn.Linear:
            _set_head(model, self.linear.head())

    def with_head(self) -> Any:
        """Build the encoder with a head, which is new unless the checkpoint has one for the same labels."""
        asked, labels = self.run.model, self.task.label_fields
        if asked.tuning == "adapter":
            adapter = TaskAdapter(self.encoder, len(labels["id2label"]), asked.pooling, labels["id2label"])
            adapter.config.problem_type = labels["problem_type"]
            return adapter
        fields = labels | self._encoder_fields
        model_class = getattr(transformers, self.task.auto_class)
        with new_head():
            config = SequenceEncoderConfig.from_pretrained(self.checkpoint, **_NO_OTHER_HEAD, **fields)
            if not self.drops_head:
                return model_class.from_pretrained(
                    self.checkpoint, config=config, dtype=torch.float32, ignore_mismatched_sizes=True
                )
            model = model_class.from_config(config)
            encoder = SequenceEncoderModel.from_pretrained(self.checkpoint, dtype=torch.float32)
            model.base_model.load_state_dict(encoder.state_dict(), strict=False)
            return model

    def trainer(
        self,
        args: AdaptationArguments,
        resume_from: Path | None = None,
        with_model: bool = True,
        rows: Any = None,
    ) -> HubTrainer:
        """Build a `Trainer` for the model of one seed, or for the models of a search.

        Args:
            args: The arguments of the `Trainer`.
            resume_from: The checkpoint that the training will resume from.
            with_model: Whether the `Trainer` gets a model. If not, it builds one for each trial of a search.
            rows: The training examples to train on, by default all.

        Raises:
            UsageError: If `Trainer` refuses the arguments.
        """
        if with_model:
            model: dict[str, Any] = {"model": self.model(args.seed, rows)}
        else:
            model = {"model_init": lambda trial=None: self.model(args.seed)}
        by_loss = self.chosen_by_loss and len(self.rows["validation"]) < ENOUGH_TO_CHOOSE
        train = self._training_inputs(args, rows)
        callbacks = callbacks_of(args, args.keep_best, args.early_stopping_patience, resume_from, by_loss)
        if isinstance(train, Draws):
            callbacks.append(CurrentEpoch(train))
        try:
            return with_sparse_embeddings(self.trainer_class)(
                **model,
                args=args,
                train_dataset=train,
                eval_dataset=self.inputs["validation"],
                data_collator=self.collator,
                processing_class=self.tokenizer,
                compute_metrics=self.task.metrics(self.rows["validation"], self.inputs["validation"]),
                compute_loss_func=None if self.weights is None else weighted_loss(self.weights),
                callbacks=callbacks,
            )
        # `Trainer` and Accelerate raise these for arguments that they do not support.
        except (ValueError, ImportError) as error:
            raise UsageError(error) from error

    def _training_inputs(self, args: AdaptationArguments, rows: Any = None) -> Any:
        """Return the training examples, which get masks as they are read if the user wants masked tuning."""
        inputs = self.inputs["train"] if rows is None else self.inputs["train"].select(rows)
        return Draws(inputs, RandomMasks(self.tokenizer), args.seed) if self.run.args.masked_tuning else inputs

    @property
    def max_length(self) -> int:
        """The number of tokens that texts are truncated to."""
        return self.task.max_length

    @property
    def labels(self) -> list[str]:
        """The names of the classes, empty for tasks without classes."""
        return self.task.labels

    @property
    def metric(self) -> str:
        """The metric that selects the best weights."""
        return str(self.run.args.metric_for_best_model).removeprefix("eval_")

    @property
    def logged(self) -> tuple[str, ...]:
        """The logged values that the console shows as columns."""
        return tuple(dict.fromkeys(("loss", *(() if self.folds else ("eval_loss", f"eval_{self.metric}")))))

    def judge(self, trainer: Any, split: str) -> Evaluation:
        """Evaluate the model of a trainer on the examples of a split."""
        rows, inputs = self.rows[split], self.inputs[split]
        while_training = trainer.compute_metrics
        trainer.compute_metrics = self.task.metrics(rows, inputs)
        found = trainer.predict(inputs, metric_key_prefix="eval")
        trainer.compute_metrics = while_training
        return self._evaluation(split, EvalPrediction(found.predictions, found.label_ids), found.metrics)

    def judge_outputs(self, split: str, logits: Any) -> Evaluation:
        """Evaluate logits (N, C) for the examples of a split."""
        labels = np.asarray(list(self.inputs[split]["labels"]))
        outputs = EvalPrediction(logits, labels)
        metrics = self.task.metrics(self.rows[split], self.inputs[split])(outputs)
        loss = loss_of(cast(Classification, self.task).problem_type, logits, labels)
        return self._evaluation(split, outputs, {"eval_loss": loss, **{f"eval_{k}": v for k, v in metrics.items()}})

    def _evaluation(self, split: str, outputs: EvalPrediction, metrics: Any) -> Evaluation:
        rows, inputs = self.rows[split], self.inputs[split]
        # Only the answers to test examples are written. The outputs of others would take memory.
        answers = partial(self.task.answers, rows, inputs, outputs) if split == "test" else list
        return Evaluation(metrics_of(metrics, "eval"), answers, self.task.confusion(outputs))

    @property
    def can_start_linear(self) -> bool:
        """Whether each example has one vector, to which a head can be fitted in every fold."""
        return isinstance(self.task, Classification)

    @property
    def cross_validated(self) -> tuple[str, ...]:
        """The splits whose examples are training examples, judged by models that were not trained on them."""
        return ("validation",) if self.folds else ()

    @property
    def classes(self) -> list[str] | None:
        """The class of each training example, or None if the task has no single class per example."""
        if not isinstance(self.task, Classification) or self.task.problem_type != "single_label_classification":
            return None
        return list(map(str, self.rows["train"][self.task.label]))

    def baselines(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return the metrics of each split, for each baseline that the task has and that needs no encoder."""
        return simple_baselines(self)

    def score(self, metrics: dict[str, float]) -> float:
        """Return the value of the metric, negated if smaller is better."""
        value = metrics[self.metric]
        return value if self.run.args.greater_is_better else -value

    def _features(self, inputs: Any) -> Any:
        """Encode the texts, and return their vectors in place of their tokens."""
        from datasets import Dataset

        vectors, labels = frozen_vectors(self.with_head(), inputs, self.collator, self.run.args)
        return Dataset.from_dict({"features": vectors, "labels": labels}).with_format("torch")

    def _class_weights(self) -> torch.Tensor | None:
        """Compute class weights (C,) that are inverse to the class frequencies, with mean 1 over the examples."""
        if self.run.args.class_weights == "none":
            return None
        names = self.task.labels
        column = [
            label for cell in self.inputs["train"]["labels"] for label in (cell if isinstance(cell, list) else [cell])
        ]
        counts = torch.bincount(torch.tensor([label for label in column if label != IGNORED]), minlength=len(names))
        return counts.sum() / (len(names) * counts.clamp(min=1))


@torch.no_grad()
def _set_head(model: Any, head: LinearHead) -> None:
    model.classifier.weight.copy_(torch.from_numpy(head.weight))
    model.classifier.bias.copy_(torch.from_numpy(head.bias))


def weighted_loss(weights: torch.Tensor) -> Callable[..., torch.Tensor]:
    """Return a cross entropy with class weights (C,), with the signature that `Trainer` calls."""

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        total = cross_entropy_per_label(outputs["logits"], labels, weights).sum()
        return divided_by_count(total, (labels != IGNORED).sum(), num_items_in_batch)

    return loss

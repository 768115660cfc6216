"""The recipe for tasks that write: masks drawn anew in each epoch, and a `Trainer` that evaluates the bound.

Shapes: B examples of a batch, L tokens of an example, n masks, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from ...hub.card import Training
from ...modeling.heads.losses import cross_entropy_per_label
from ...modeling.heads.pretraining_heads import SequenceEncoderForMaskedLM
from ...modeling.label_checks import IGNORED
from ..arguments import check_fixed
from ..hub_trainer import HubTrainer
from .encoder import text_length
from .head_recipe import HeadRecipe
from .run import Adaptation, AdaptationArguments
from .tasks import WRITING_TASKS, WritingTask


class WritingTrainer(HubTrainer):
    """A `Trainer` whose evaluations only project masked tokens to the vocabulary, and return sums."""

    pad_id: int

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        # The model takes it without naming it as an argument, so `Trainer` would remove this column.
        columns = cast(list[str], self._signature_columns)
        if "label_weights" not in columns:
            columns.append("label_weights")

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Evaluate a batch.

        Args:
            model: The model.
            inputs: The columns of `WritingTask.evaluation_rows` as (B, L) tensors.
            prediction_loss_only: Whether only the loss is needed.
            ignore_keys: Not used.

        Returns:
            The loss, the sums of `SUMS` (B, 3), and the numbers of tokens to write (B,).
        """
        inputs = self._prepare_inputs(inputs)
        labels, weights = inputs.pop("labels"), inputs.pop("label_weights")
        model = self.accelerator.unwrap_model(model)
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        masked = weights > 0
        with torch.no_grad(), self.compute_loss_context_manager():
            hidden_states = model.model(**inputs, needed=masked).last_hidden_state
            logits = model.decoder(model.head(hidden_states[masked]))  # (n, V)
        wanted = labels[masked]
        nats = cross_entropy_per_label(logits, wanted) * weights[masked]
        # Positions that are left over are easy, and any number of them may be.
        text = (wanted != self.pad_id).to(nats.dtype)
        found = torch.stack([nats, (logits.argmax(-1) == wanted) * text, text], dim=1)
        sums = torch.zeros(len(labels), found.shape[1], device=found.device, dtype=found.dtype)
        sums.index_add_(0, masked.nonzero()[:, 0], found)
        loss = nats.sum() / (labels != IGNORED).sum()
        counts = ((labels != IGNORED) & (labels != self.pad_id)).sum(1)
        return (loss, None, None) if prediction_loss_only else (loss, sums, counts)


class Draws(Dataset[dict[str, Any]]):
    """Training examples with masks, which depend on the seed, the epoch and the batch.

    They do not depend on the state of random numbers, so that a run that resumes within an epoch has the same masks.

    Args:
        inputs: The examples, as `WritingTask.encode` returns them.
        task: The task.
        seed: The seed of the training.
    """

    def __init__(self, inputs: Any, task: WritingTask, seed: int) -> None:
        self.inputs, self.task, self.seed = inputs, task, seed
        # Workers of a `DataLoader` that live for several epochs also see it.
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Return the examples of a batch."""
        rng = np.random.default_rng([self.seed, int(self.epoch), *indices])
        return self.task.training_rows(self.inputs[indices], rng)


class _CurrentEpoch(TrainerCallback):
    """A callback that tells `Draws` the epoch."""

    def __init__(self, draws: Draws) -> None:
        self.draws = draws

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.draws.epoch.fill_(int(state.epoch or 0))


class WritingRecipe(HeadRecipe):
    """The steps from examples to a model that writes; see `HeadRecipe`.

    Args:
        run: The arguments of the run.
        examples: The examples of each split.

    Raises:
        UsageError: If the task cannot use the examples or the arguments.
    """

    task: WritingTask
    trainer_class = WritingTrainer
    base_class: type[PreTrainedModel] = SequenceEncoderForMaskedLM

    def __init__(self, run: Adaptation, examples: dict[str, Any]) -> None:
        check_fixed(run.args, label_smoothing_factor=0)
        super().__init__(run, examples)

    def _task(self) -> WritingTask:
        asked, task = self.run.model, WRITING_TASKS[self.run.model.task]
        return task(self.run.data, block=getattr(asked, task.block_argument))

    def prepare(self, checkpoint: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """Tokenise the examples, and mask those of evaluations.

        Args:
            checkpoint: The checkpoint of the encoder.
            tokenizer: The tokenizer of the encoder.
        """
        self.checkpoint, self.tokenizer = checkpoint, tokenizer
        self.task.max_length = text_length(self.run.model.max_length, AutoConfig.from_pretrained(checkpoint))
        self.task.use(tokenizer)
        self.inputs, self.cut = {}, {}
        for split, rows in self.rows.items():
            self.task.cut = self.cut[split] = type(self.task.cut)()
            encoded = self.task.encode(rows, tokenizer)
            self.inputs[split] = encoded if split == "train" else self.task.evaluation_rows(encoded)
        self.collator = self.task.collator(tokenizer)
        self.drops_head, self.weights = False, None

    def _training_inputs(self, args: AdaptationArguments) -> Draws:
        return Draws(self.inputs["train"], self.task, args.seed)

    def trainer(
        self, args: AdaptationArguments, resume_from: Path | None = None, with_model: bool = True
    ) -> WritingTrainer:
        """See `HeadRecipe`."""
        trainer = super().trainer(args, resume_from, with_model)
        assert isinstance(trainer, WritingTrainer)
        trainer.pad_id = self.task.pad_id
        trainer.add_callback(_CurrentEpoch(cast("Draws", trainer.train_dataset)))
        return trainer

    def model(self, seed: int) -> Any:
        """See `HeadRecipe`."""
        model = super().model(seed)
        set_generation_defaults(model, self.task)
        return model

    def training(self, trainer: Any) -> Training:
        """See `HeadRecipe`."""
        training, block = super().training(trainer), self.task.block_argument.replace("_", " ")
        masks = {block: self.task.block, "masking rate": "uniform from 0 to 1; losses weighted by its inverse"}
        training.hyperparameters = {**training.hyperparameters, **masks}
        return training

    def _usage(self, model: Any) -> str | None:
        return self.task.usage(self.tokenizer) if hasattr(model, "infill") else None


def set_generation_defaults(model: Any, task: WritingTask) -> None:
    """Set the options that `generate` and `infill` use by default to those of the training.

    Args:
        model: The model.
        task: The task.
    """
    options = {"mask_token_id": task.mask_id, "pad_token_id": task.pad_id, "eos_token_id": task.end_id}
    for name, value in (options | {"fill_token_id": task.pad_id, task.block_argument: task.block}).items():
        setattr(model.generation_config, name, value)

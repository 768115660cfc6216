"""The setup of tasks that write: masks drawn anew in each epoch, and a `Trainer` that evaluates the bound."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from ....hub.card.card import Training
from ....modeling.heads.pretraining_heads import SequenceEncoderForMaskedLM
from ...arguments import check_fixed
from ...diffusion_trainer import DiffusionTrainer
from ...encoders import set_special_tokens
from ..encoder import text_length
from ..run import Adaptation, AdaptationArguments
from ..tasks import WRITING_TASKS, WritingTask
from .batches import Draws
from .head import HeadSetup


class WritingSetup(HeadSetup):
    """The steps from examples to a model that writes; see `HeadSetup`."""

    task: WritingTask
    trainer_class = DiffusionTrainer
    base_class: type[PreTrainedModel] = SequenceEncoderForMaskedLM

    def __init__(self, run: Adaptation, examples: dict[str, Any]) -> None:
        check_fixed(run.args, label_smoothing_factor=0)
        super().__init__(run, examples)

    def _task(self) -> WritingTask:
        asked, task = self.run.model, WRITING_TASKS[self.run.model.task]
        return task(self.run.data, block=getattr(asked, task.block_argument))

    def prepare(self, checkpoint: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """Tokenise the examples, and mask those of evaluations."""
        self.checkpoint, self.tokenizer = checkpoint, tokenizer
        config = AutoConfig.from_pretrained(checkpoint)
        self.hidden_size = config.hidden_size
        self.task.max_length = text_length(self.run.model.max_length, config)
        self.task.use(tokenizer)
        self.inputs, self.cut = {}, {}
        for split, rows in self.rows.items():
            self.task.cut = self.cut[split] = type(self.task.cut)()
            encoded = self.task.encode(rows, tokenizer)
            self.inputs[split] = encoded if split == "train" else self.task.evaluation_rows(encoded)
        self.collator = self.task.collator(tokenizer)
        self.drops_head, self.linear, self.weights = False, None, None

    def _training_inputs(self, args: AdaptationArguments, rows: Any = None) -> Draws:
        return Draws(self.inputs["train"], self.task.training_rows, args.seed)

    def model(self, seed: int, rows: Any = None) -> Any:
        """See `HeadSetup`."""
        model = super().model(seed, rows)
        set_generation_defaults(model, self.task)
        return model

    def training(self, trainer: Any) -> Training:
        """See `HeadSetup`."""
        training, block = super().training(trainer), self.task.block_argument.replace("_", " ")
        masks = {block: self.task.block, "masking rate": "uniform from 0 to 1; losses weighted by its inverse"}
        training.hyperparameters = {**training.hyperparameters, **masks}
        return training

    def _usage(self) -> str:
        return self.task.usage(self.tokenizer)


def set_generation_defaults(model: Any, task: WritingTask) -> None:
    """Set the options that `generate` and `infill` use by default, and the special tokens, to those of the training."""
    options: dict[str, Any] = {"mask_token_id": task.mask_id, "pad_token_id": task.pad_id, "eos_token_id": task.end_id}
    if task.unknown_id is not None:
        options["bad_words_ids"] = [[task.unknown_id]]
    for name, value in (options | {"fill_token_id": task.pad_id, task.block_argument: task.block}).items():
        setattr(model.generation_config, name, value)
    set_special_tokens(model.config, cls=task.start_id, sep=task.end_id, mask=task.mask_id)

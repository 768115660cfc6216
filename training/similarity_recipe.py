"""The recipe for embeddings and for ranking: models, losses and trainers of sentence-transformers on our encoder."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerBase, TrainingArguments, set_seed

from ..modeling.recipe_files import read_recipe
from . import UsageError
from .adaptation_arguments import Adaptation, AdaptationArguments
from .adaptation_report import Results, metrics_of
from .best_weights import callbacks_of
from .head_recipe import text_length
from .tasks import SIMILARITY_TASKS


class SimilarityRecipe:
    """One task of sentence-transformers, from examples to a trained model; as `HeadRecipe`.

    Args:
        run: what was asked for.
        examples: of each split.

    Raises:
        UsageError: for examples that are not as the task needs them, or if sentence-transformers is not installed.
    """

    def __init__(self, run: Adaptation, examples: dict[str, Any]) -> None:
        try:
            import sentence_transformers
        except ImportError as error:
            needed = "sentence-transformers: pip install 'sequence-encoder[adapt]'"
            raise UsageError(f"--task {run.model.task} needs {needed}.") from error
        self.library: Any = sentence_transformers
        self.run = run
        self.task = SIMILARITY_TASKS[run.model.task](run.data)
        self.rows = self.task.read(examples)
        if run.args.class_weights != "none":
            raise UsageError(f"--class_weights are for classification and ner, got --task {run.model.task}.")
        if run.args.metric_for_best_model is not None:
            raise UsageError(f"--metric_for_best_model is not for --task {run.model.task}: its evaluator has one.")
        if run.args.search_trials:
            raise UsageError(f"--search_trials are for tasks with a head, got --task {run.model.task}.")

    def prepare(self, checkpoint: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """Makes the evaluators; the trainers tokenise by themselves."""
        self.checkpoint = checkpoint
        config, recipe = AutoConfig.from_pretrained(checkpoint), read_recipe(checkpoint)
        # What the folder says is for single texts; a cross-encoder reads pairs.
        said = recipe.max_length if recipe is not None and self.task.kind == "SentenceTransformer" else None
        self.length = text_length(self.run.model.max_length, config, default=said)
        self.evaluators = {split: self.task.evaluator(rows) for split, rows in self.rows.items() if split != "train"}

    def trainer(self, args: AdaptationArguments) -> Any:
        """A `Trainer` of sentence-transformers for the model of a seed."""
        set_seed(args.seed)
        model = self.task.model(self.checkpoint, self.run.model.pooling, self.length)
        given = {each.name: getattr(args, each.name) for each in fields(TrainingArguments) if each.init}
        given |= {"metric_for_best_model": self._primary_metric(model), "greater_is_better": True}
        if self.task.kind == "SentenceTransformer":
            # A text must not be among the wrong ones of its own.
            given["batch_sampler"] = "no_duplicates"
        arguments_class = getattr(self.library, f"{self.task.kind}TrainingArguments")
        trainer_class = getattr(self.library, f"{self.task.kind}Trainer")
        try:
            return trainer_class(
                model=model,
                args=arguments_class(**given),
                train_dataset=self.rows["train"],
                evaluator=self.evaluators["validation"],
                loss=self.task.loss(model, self.run.model),
                callbacks=callbacks_of(args.keep_best, args.early_stopping_patience),
            )
        except (ValueError, ImportError) as error:
            raise UsageError(error) from error

    def metrics(self, trainer: Any, split: str) -> dict[str, float]:
        """Of a split."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        return metrics_of({f"eval_{name}": value for name, value in self.evaluators[split](model).items()}, "eval")

    def score(self, metrics: dict[str, float]) -> float:
        """What is to be large."""
        return metrics[self.evaluators["validation"].primary_metric]

    def write(self, trainer: Any, results: Results, folder: Path) -> None:
        """The model with its tokenizer, and the card of sentence-transformers, which loads it where ours is not."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        name = self.run.args.hub_model_id or self.run.output.name
        model.model_card_data.set_model_id(name)
        model.save_pretrained(str(folder), model_name=name)
        card = folder / "README.md"
        text = card.read_text(encoding="utf-8")
        loads = f'{self.task.kind}("{name}"'
        card.write_text(text.replace(f"{loads})", f"{loads}, trust_remote_code=True)"), encoding="utf-8")

    def _primary_metric(self, model: Any) -> str:
        """The name that the evaluator has for what matters most; some know it only once they were called."""
        evaluator = self.evaluators["validation"]
        if getattr(evaluator, "primary_metric", None) is None:
            evaluator(model)
        return str(evaluator.primary_metric)

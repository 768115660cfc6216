"""The recipe for embeddings and for ranking: models, losses and trainers of sentence-transformers on our encoder."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerBase, TrainingArguments, set_seed

from ...command_line import UsageError
from ...hub.card import Training
from ...modeling.text_encoding.recipe_files import read_recipe
from ...saving.model_files import save_card
from ..encoders import card_fields_of
from .best_weights import callbacks_of
from .head_recipe import new_head, text_length
from .report import Judgement, Results, metrics_of
from .run import Adaptation, AdaptationArguments
from .tasks import SIMILARITY_TASKS


class SimilarityRecipe:
    """One task of sentence-transformers, from examples to a trained model; as `HeadRecipe`.

    Args:
        run: what was asked for.
        examples: of each split.

    Raises:
        UsageError: for examples that are not as the task needs them.
    """

    def __init__(self, run: Adaptation, examples: dict[str, Any]) -> None:
        import sentence_transformers

        self.library: Any = sentence_transformers
        self.run = run
        self.task = SIMILARITY_TASKS[run.model.task](run.data)
        self.rows = self.task.read(examples)
        if run.args.class_weights != "none":
            raise UsageError(f"--class_weights only supports classification and ner, got --task {run.model.task}.")
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
        self.max_length = text_length(self.run.model.max_length, config, default=said)
        self.cut = {split: self.task.cut(rows, tokenizer, self.max_length) for split, rows in self.rows.items()}
        self.evaluators = {split: self.task.evaluator(rows) for split, rows in self.rows.items() if split != "train"}

    def trainer(self, args: AdaptationArguments, resume_from: Path | None = None) -> Any:
        """A `Trainer` of sentence-transformers for the model of a seed.

        Args:
            args: of the `Trainer`.
            resume_from: the checkpoint that it will resume from.
        """
        set_seed(args.seed)
        with new_head():
            model = self.task.model(self.checkpoint, self.run.model.pooling, self.max_length)
        given = {each.name: getattr(args, each.name) for each in fields(TrainingArguments) if each.init}
        given |= {"metric_for_best_model": self._primary_metric(model), "greater_is_better": True}
        if self.task.kind == "SentenceTransformer":
            # A text must not be among the wrong ones of its own.
            given["batch_sampler"] = "no_duplicates"
        arguments_class = getattr(self.library, f"{self.task.kind}TrainingArguments")
        trainer_class = getattr(self.library, f"{self.task.kind}Trainer")
        try:
            own = arguments_class(**given)
            return trainer_class(
                model=model,
                args=own,
                train_dataset=self.rows["train"],
                evaluator=self.evaluators["validation"],
                loss=self.task.loss(model, self.run.model.matryoshka_dims),
                callbacks=callbacks_of(own, args.keep_best, args.early_stopping_patience, resume_from),
            )
        except (ValueError, ImportError) as error:
            raise UsageError(error) from error

    @property
    def labels(self) -> list[str]:
        """None: there are no classes."""
        return []

    @property
    def metric(self) -> str:
        """The metric by which the best weights are chosen; known once an evaluator was called."""
        return str(self.evaluators["validation"].primary_metric)

    @property
    def logged(self) -> tuple[str, ...]:
        """What a trainer logs that is worth a column on the console."""
        return "loss", f"eval_{self.metric}"

    def judge(self, trainer: Any, split: str) -> Judgement:
        """What the model of a trainer gives for the pairs of a split, and how good that is."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        found = {f"eval_{name}": value for name, value in self.evaluators[split](model).items()}
        return Judgement(metrics_of(found, "eval"), self.task.answers(model, self.rows[split]))

    def constant(self, split: str) -> dict[str, float] | None:
        """None: a model that gives each pair the same ranks nothing."""
        return None

    def score(self, metrics: dict[str, float]) -> float:
        """What is to be large."""
        return metrics[self.metric]

    def write(self, trainer: Any, folder: Path) -> None:
        """The model with its tokenizer, and the card of sentence-transformers, which loads it where ours is not."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        name = self.run.args.hub_model_id or self.run.output.name
        card_data = model.model_card_data
        card_data.set_model_id(name)
        fields = card_fields_of(self.run.model.from_checkpoint)
        card_data.license = card_data.license or fields.get("license")
        card_data.language = card_data.language or fields.get("language") or []
        model.save_pretrained(str(folder), model_name=name)
        card = folder / "README.md"
        # Where sentence-transformers fails to write a card, it says so, and goes on.
        if not card.exists():
            return
        text = card.read_text(encoding="utf-8")
        loads = f'{self.task.kind}("{name}"'
        save_card(card, text.replace(f"{loads})", f"{loads}, trust_remote_code=True)"))

    def write_cards(self, results: Results, folder: Path) -> None:
        """Nothing: sentence-transformers writes its card with the model."""

    def training(self, trainer: Any) -> Training:
        """Nothing that the card of sentence-transformers does not say already."""
        return Training()

    def _primary_metric(self, model: Any) -> str:
        """The name that the evaluator has for what matters most; some know it only once they were called."""
        evaluator = self.evaluators["validation"]
        if getattr(evaluator, "primary_metric", None) is None:
            evaluator(model)
        return str(evaluator.primary_metric)

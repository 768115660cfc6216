"""The setup of embedding and ranking: sentence-transformers models, losses and trainers around the encoder."""

from __future__ import annotations

import copy
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, cast

from transformers import AutoConfig, PreTrainedTokenizerBase, TrainingArguments, set_seed
from transformers.trainer_utils import IntervalStrategy

from ....command_line import UsageError
from ....command_line.counts import counted
from ....command_line.progress import Progress
from ....command_line.quiet import new_head, without_bars_of
from ....hub.card.card import Training
from ....modeling.text_encoding.recipe_files import read_recipe
from ....saving.card_mark import save_card
from ...encoders import card_fields_of
from ...sparse_embeddings import with_sparse_embeddings
from ...weight_averages import TowardsStart
from ..encoder import text_length
from ..report import Evaluation, Results, metrics_of
from ..run import Adaptation, AdaptationArguments
from ..runs.callbacks import callbacks_of
from ..tasks import SIMILARITY_TASKS
from ..tasks.similarity import POOL
from .batches import with_near_batches

# The share of the weights before the training in a sentence encoder that learns from pairs made of texts.
_START_SHARE = 0.3


class SimilaritySetup:
    """The steps from examples to a trained model, for one task of sentence-transformers; see `HeadSetup`.

    Attributes:
        made_pairs: The counts of pairs that were made from texts; see `Results`.

    Raises:
        UsageError: If the task cannot use the examples or the arguments.
    """

    def __init__(self, run: Adaptation, examples: dict[str, Any]) -> None:
        import sentence_transformers

        self.library: Any = sentence_transformers
        self.run = run
        self.task = SIMILARITY_TASKS[run.model.task](run.data)
        self.rows = self.task.read(examples)
        self.made_pairs: dict[str, dict[str, int]] = {}
        self.labelling: dict[str, Any] = {}  # only classes have names
        self.judged_linear: dict[str, Evaluation] = {}  # only heads start from a linear fit
        if run.args.class_weights != "none":
            raise UsageError(f"--class_weights only supports classification and ner, got --task {run.model.task}.")
        if run.args.metric_for_best_model is not None:
            raise UsageError(
                f"--metric_for_best_model does not support --task {run.model.task}, whose evaluator sets the metric."
            )
        if run.args.search_trials:
            raise UsageError(f"--search_trials does not support --task {run.model.task}.")

    # Judged on a validation split; see `HeadSetup`.
    folds: tuple[Any, ...] = ()
    cross_validated: tuple[str, ...] = ()
    linear = classes = positions = unlabelled = class_names = None
    can_start_linear = False
    is_of_sentence_transformers = True

    def prepare(self, checkpoint: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """Build the evaluators. The trainers tokenise the texts themselves."""
        self.checkpoint = checkpoint
        config, recipe = AutoConfig.from_pretrained(checkpoint), read_recipe(checkpoint)
        self.hidden_size: int = config.hidden_size
        self.is_sentence_encoder = recipe is not None
        # The folder's maximum length applies to single texts, while a cross-encoder reads pairs.
        said = recipe.max_length if recipe is not None and self.task.kind == "SentenceTransformer" else None
        self.max_length = text_length(self.run.model.max_length, config, default=said)
        self.cut = {split: self.task.cut(rows, tokenizer, self.max_length) for split, rows in self.rows.items()}
        self.search_among(POOL)

    def search_among(self, texts: int) -> None:
        """Build the evaluators, which search for the second text of each pair among at most this number of texts.

        The second texts of the pairs of a split are always among them.
        """
        train = self.rows["train"]
        self.evaluators = {
            split: self.task.evaluator(rows, train, texts) for split, rows in self.rows.items() if split != "train"
        }

    def trainer(self, args: AdaptationArguments, resume_from: Path | None = None) -> Any:
        """Build a `Trainer` of sentence-transformers for the model of one seed.

        Raises:
            UsageError: If `Trainer` refuses the arguments.
        """
        # The average of weights is only a good model if all training runs start from the same ones.
        set_seed(self.run.args.seed if self.run.args.average_seeds else args.seed)
        with new_head():
            model = self.task.model(self.checkpoint, self.run.model.pooling, self.max_length)
        given = {each.name: getattr(args, each.name) for each in fields(TrainingArguments) if each.init}
        given |= {"metric_for_best_model": self.metric, "greater_is_better": True}
        at_most_one = args.max_steps <= 0 and cast(float, args.num_train_epochs) <= 1
        if args.eval_strategy == IntervalStrategy.EPOCH and at_most_one:
            # There is nothing to choose from, and an evaluation embeds thousands of texts.
            given["eval_strategy"] = IntervalStrategy.NO
        if self.task.kind == "SentenceTransformer":
            # A duplicate of a text's pair would count as a negative.
            given["batch_sampler"] = "no_duplicates"
        arguments_class = getattr(self.library, f"{self.task.kind}TrainingArguments")
        trainer_class = with_sparse_embeddings(getattr(self.library, f"{self.task.kind}Trainer"))
        try:
            own = arguments_class(**given)
            callbacks = callbacks_of(own, args.keep_best, args.early_stopping_patience, resume_from)
            if self.made_pairs and self.is_sentence_encoder:
                start = copy.deepcopy(model)
                callbacks.append(TowardsStart(start.parameters(), _START_SHARE))
                trainer_class = with_near_batches(trainer_class, start)
            # It chooses examples for the card.
            with without_bars_of(model.model_card_data.set_widget_examples):
                return trainer_class(
                    model=model,
                    args=own,
                    train_dataset=self.rows["train"],
                    evaluator=self.evaluators["validation"],
                    loss=self.task.loss(model, self.run.model.matryoshka_dims),
                    callbacks=callbacks,
                )
        except (ValueError, ImportError) as error:
            raise UsageError(error) from error

    @property
    def searched(self) -> int | None:
        """The number of texts among which the evaluations search, or None if they do not."""
        return max(len(each.corpus) for each in self.evaluators.values()) if self.task.searches else None

    @property
    def labels(self) -> list[str]:
        """An empty list, because there are no classes."""
        return []

    @property
    def metric(self) -> str:
        """The metric that selects the best weights."""
        return str(self.evaluators["validation"].primary_metric)

    @property
    def logged(self) -> tuple[str, ...]:
        """The logged values that the console shows as columns."""
        return "loss", f"eval_{self.metric}"

    def judge(self, trainer: Any, split: str) -> Evaluation:
        """Evaluate the model of a trainer on the pairs of a split."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        if not hasattr(model, "_original_forward"):
            # `Trainer` prepares a model before it evaluates it, too: an untrained model then also runs in bfloat16.
            trainer.accelerator.prepare_model(model, evaluation_mode=True)
        with Progress(f"Evaluating on the {split} examples", show=not self.run.args.disable_tqdm):
            found = {f"eval_{name}": value for name, value in self.evaluators[split](model).items()}
        return Evaluation(metrics_of(found, "eval"), partial(self.task.answers, model, self.rows[split]))

    def baselines(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return none, because a model that scores all pairs the same ranks nothing."""
        return {}

    def score(self, metrics: dict[str, float]) -> float:
        """Return the value of the metric, which is better if larger."""
        return metrics[self.metric]

    def write(self, trainer: Any, folder: Path) -> None:
        """Save the model, its tokenizer, and the card of sentence-transformers with `trust_remote_code=True`."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        name = self.run.args.hub_model_id or self.run.output.name
        card_data = model.model_card_data
        card_data.set_model_id(name)
        # Otherwise, sentence-transformers looks up the name of the folder on the Hub.
        card_data.local_files_only = Path(self.run.model.model).exists()
        fields = card_fields_of(self.run.model.model)
        card_data.license = card_data.license or fields.get("license")
        card_data.language = card_data.language or fields.get("language") or []
        model.save_pretrained(str(folder), model_name=name)
        card = folder / "README.md"
        # If sentence-transformers cannot write the card, it only logs an error.
        if not card.exists():
            return
        text = card.read_text(encoding="utf-8")
        loads = f'{self.task.kind}("{name}"'
        save_card(card, text.replace(f"{loads})", f"{loads}, trust_remote_code=True)"))

    def write_cards(self, results: Results, folder: Path) -> None:
        """Say in the card, which sentence-transformers writes with the model, that the weights are averages."""
        card = folder / "README.md"
        if results.average and card.exists():
            runs = counted(len(results.trainings), "training run")
            text = card.read_text(encoding="utf-8").rstrip()
            save_card(card, f"{text}\n\n## Averaged weights\n\nThe weights are the averages of those of {runs}.\n")

    def training(self, trainer: Any) -> Training:
        """Return an empty record, because sentence-transformers describes the training in its card."""
        return Training()

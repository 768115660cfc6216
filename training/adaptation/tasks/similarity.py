"""Text embeddings and pair scores, with models, losses and evaluators of sentence-transformers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from ....command_line import UsageError
from ....evaluation.tasks.columns import check_columns, check_texts, check_varies, with_numbers
from ....evaluation.tasks.task import TruncationCounts

if TYPE_CHECKING:
    from ....evaluation.tasks.example_arguments import ExampleArguments

# The number of texts that a text's pair is searched among. More take longer, and hardly change the order of models.
POOL = 5_000


class SimilarityTask(ABC):
    """A task of sentence-transformers on pairs of texts.

    Args:
        data: The source of the examples, and the names of their columns.

    Attributes:
        tunings: The tuning methods that the task supports.
        kind: The prefix of the classes that train it.
        reads_pairs: Whether the model reads the texts of a pair together.
        scores: The allowed scores, as arguments of `with_numbers`.
        scored: Whether the pairs have scores.
        texts: The text columns that `read` returns.
    """

    tunings: ClassVar[tuple[str, ...]] = ("full",)
    best_metric: ClassVar[str | None] = None
    libraries: ClassVar[tuple[str, ...]] = ("sentence_transformers",)
    kind: ClassVar[str]
    reads_pairs: ClassVar[bool] = False
    scores: ClassVar[dict[str, Any]] = {}
    texts: ClassVar[tuple[str, ...]] = ("text", "text_pair")

    def __init__(self, data: ExampleArguments) -> None:
        self.data = data
        self.text, self.pair = data.text_column or "text", data.text_pair_column or "text_pair"
        self.scored = True

    def read(self, examples: Mapping[str, Any]) -> dict[str, Any]:
        """Check the examples of each split, and keep two texts and, if there are scores, a label.

        Raises:
            UsageError: If the task cannot use the columns, texts or scores.
        """
        label = self._label_column(examples)
        check_columns(examples, {"text_column": self.text, "text_pair_column": self.pair, "label_column": label})
        check_texts(self.data, examples, "text_column", self.text)
        check_texts(self.data, examples, "text_pair_column", self.pair)
        self.scored = label is not None
        if label is not None:
            examples = with_numbers(self.data, examples, label, **self.scores)
            check_varies(examples, label)
        names = {self.text: "text", self.pair: "text_pair", **({label: "label"} if label else {})}
        return {split: _renamed(rows, names) for split, rows in examples.items()}

    @property
    def searches(self) -> bool:
        """Whether evaluations search for the second texts of pairs among other texts."""
        return False

    @abstractmethod
    def _label_column(self, examples: Mapping[str, Any]) -> str | None:
        """Return the column with the scores, or None if all pairs are positive pairs."""

    @abstractmethod
    def model(self, checkpoint: str, pooling: str | None, max_length: int) -> Any:
        """Build a sentence-transformers model around an encoder. Without a pooling, it is that of the checkpoint.

        Raises:
            UsageError: If the checkpoint has modules that are not supported.
        """

    @abstractmethod
    def answers(self, model: Any, rows: Any) -> list[float]:
        """Return the model's score of each pair of texts."""

    def cut(self, rows: Any, tokenizer: Any, max_length: int) -> TruncationCounts:
        """Count the texts and tokens of a split that `max_length` truncates."""
        cut = TruncationCounts()
        for batch in rows.iter(1000):
            first, second = batch["text"], batch["text_pair"]
            for texts in ((first, second),) if self.reads_pairs else ((first,), (second,)):
                cut.tokenise(tokenizer, max_length, *texts)
        return cut

    @abstractmethod
    def loss(self, model: Any, matryoshka_dims: list[int] | None) -> Any:
        """Build the loss of the training."""

    @abstractmethod
    def evaluator(self, rows: Any, others: Any, pool: int) -> Any:
        """Build an evaluator of pairs, whose `primary_metric` selects the best weights.

        Args:
            rows: The pairs.
            others: The training pairs.
            pool: The number of texts to search among, if the evaluator searches and the pairs have fewer.
        """


class Embedding(SimilarityTask):
    """Embeddings that are close for the texts of a pair, or as similar as the pair's score."""

    kind = "SentenceTransformer"

    @property
    def searches(self) -> bool:
        """See `SimilarityTask`. With scores, evaluations compare these with similarities instead."""
        return not self.scored

    def _label_column(self, examples: Mapping[str, Any]) -> str | None:
        given = self.data.label_column
        return given or ("score" if "score" in examples["train"].column_names else None)

    def model(self, checkpoint: str, pooling: str | None, max_length: int) -> Any:
        """See `SimilarityTask`. The modules are those in the encoder's folder, or else mean pooling."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

        from ....modeling.text_encoding.embedding_recipe import ACTIVATIONS, EmbeddingRecipe
        from ....modeling.text_encoding.embedding_recipe import Dense as Projection
        from ....modeling.text_encoding.recipe_files import read_recipe

        recipe = read_recipe(checkpoint) or EmbeddingRecipe()
        if pooling is not None:
            recipe = replace(recipe, pooling=(pooling,), obstacle=None)
        try:
            recipe.check()
        except ValueError as error:
            raise UsageError(error) from error
        transformer: Any = Transformer(checkpoint, max_seq_length=max_length, do_lower_case=recipe.lowercase)
        channels = transformer.auto_model.config.hidden_size
        modes = recipe.pooling if len(recipe.pooling) > 1 else recipe.pooling[0]
        modules = [transformer, Pooling(channels, pooling_mode=modes, include_prompt=recipe.include_prompt)]
        for step in recipe.after:
            if isinstance(step, Projection):
                (outputs, inputs), biased = step.weight.shape, step.bias is not None
                activation = ACTIVATIONS[step.activation]()
                modules.append(Dense(inputs, outputs, biased, activation, step.weight.clone(), step.bias))
            else:
                modules.append(Normalize())
        given: dict[str, Any] = {
            name: recipe.settings.get(name)
            for name in ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
        }
        return SentenceTransformer(modules=modules, **given)

    def answers(self, model: Any, rows: Any) -> list[float]:
        """See `SimilarityTask`. The score is the similarity of the two embeddings."""
        one, other = (model.encode(list(rows[name]), show_progress_bar=False) for name in ("text", "text_pair"))
        return model.similarity_pairwise(one, other).tolist()

    def loss(self, model: Any, matryoshka_dims: list[int] | None) -> Any:
        """See `SimilarityTask`. The loss is CoSENT for scores, else multiple negatives ranking, also as Matryoshka."""
        from sentence_transformers.sentence_transformer import losses

        loss: Any = losses.CoSENTLoss(model) if self.scored else losses.MultipleNegativesRankingLoss(model)
        if not matryoshka_dims:
            return loss
        return losses.MatryoshkaLoss(model, loss, matryoshka_dims=matryoshka_dims)

    def evaluator(self, rows: Any, others: Any, pool: int) -> Any:
        """See `SimilarityTask`. It computes the rank correlation with scores, or retrieval metrics without them.

        Without scores, the model must find the second text of a pair among those of all pairs, training pairs included.
        Among the few texts of a small split, every model would find it.
        """
        from sentence_transformers.sentence_transformer import evaluation

        if self.scored:
            similarity = evaluation.EmbeddingSimilarityEvaluator(
                rows["text"], rows["text_pair"], rows["label"], main_similarity="cosine", write_csv=False
            )
            return _selecting_by("spearman_cosine", similarity)
        queries = {text: f"q{index}" for index, text in enumerate(dict.fromkeys(rows["text"]))}
        # The training pairs of a text that is searched for are right, too, but have been learned.
        pairs = zip(others["text"], others["text_pair"], strict=True)
        found = dict.fromkeys((*rows["text_pair"], *(pair for text, pair in pairs if text not in queries)))
        documents = {text: f"d{index}" for index, text in enumerate(found) if index < max(pool, len(rows))}
        relevant: dict[str, set[str]] = {}
        for text, pair in zip(rows["text"], rows["text_pair"], strict=True):
            relevant.setdefault(queries[text], set()).add(documents[pair])
        retrieval = evaluation.InformationRetrievalEvaluator(
            {name: text for text, name in queries.items()},
            {name: text for text, name in documents.items()},
            relevant,
            main_score_function="cosine",
            write_csv=False,
        )
        return _selecting_by(f"cosine_ndcg@{max(retrieval.ndcg_at_k)}", retrieval)


class Ranking(SimilarityTask):
    """Scores of text pairs that the model reads together, such as a passage's relevance to a query."""

    kind = "CrossEncoder"
    reads_pairs = True
    scores: ClassVar[dict[str, Any]] = {
        "is_allowed": lambda score: 0 <= score <= 1,
        "allowed": "numbers from 0 to 1",
    }

    def _label_column(self, examples: Mapping[str, Any]) -> str | None:
        return self.data.label_column or "label"

    def model(self, checkpoint: str, pooling: str | None, max_length: int) -> Any:
        """See `SimilarityTask`. The model is the encoder with a classifier of one output."""
        from sentence_transformers import CrossEncoder

        from ...encoders import pooling_fields

        return CrossEncoder(
            checkpoint, num_labels=1, max_length=max_length, config_kwargs=pooling_fields(checkpoint, pooling)
        )

    def answers(self, model: Any, rows: Any) -> list[float]:
        """See `SimilarityTask`."""
        pairs = list(zip(rows["text"], rows["text_pair"], strict=True))
        return model.predict(pairs, show_progress_bar=False).tolist()

    def loss(self, model: Any, matryoshka_dims: list[int] | None) -> Any:
        """See `SimilarityTask`. The loss is binary cross entropy with labels from 0 to 1."""
        from sentence_transformers.cross_encoder import losses

        return losses.BinaryCrossEntropyLoss(model)

    def evaluator(self, rows: Any, others: Any, pool: int) -> Any:
        """See `SimilarityTask`. It computes average precision for labels of 0 and 1, else the rank correlation."""
        from sentence_transformers.cross_encoder import evaluation

        pairs = [list(pair) for pair in zip(rows["text"], rows["text_pair"], strict=True)]
        labels = list(rows["label"])
        if len(set(labels)) < 2:
            raise UsageError(
                "the validation or test examples all have the same label, so the model cannot be evaluated."
            )
        if set(labels) == {0, 1}:
            whole = [int(label) for label in labels]
            classification = evaluation.CrossEncoderClassificationEvaluator(pairs, whole, write_csv=False)
            return _selecting_by("average_precision", classification)
        return evaluation.CrossEncoderCorrelationEvaluator(pairs, labels, write_csv=False)


def _selecting_by(metric: str, evaluator: Any) -> Any:
    """Set the main metric of an evaluator, which otherwise sets it when it has evaluated a model."""
    evaluator.primary_metric = metric
    return evaluator


def _renamed(rows: Any, names: dict[str, str]) -> Any:
    """Select and rename the columns of `names`, in that order."""
    rows = rows.select_columns(list(names))
    return rows.rename_columns({old: new for old, new in names.items() if old != new})

"""The model card: `hub_card.md` at the root of the package, filled with what a model is and how it came to be."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedModel

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..saving.auto_classes import ADAPTER_MODELS, AUTO_MODELS
from .architecture_in_words import architecture_in_words
from .card_rules import check_card

TEMPLATE = Path(__file__).parent.parent / "hub_card.md"
# In cards that say nothing but what the model does.
MARKER = "Rendered by sequence-encoder, which renders it again when the model is pushed; without this line it does not."

# The Hub's name for what a model does, and whether there is a pipeline for it.
TASKS = {
    "AutoModel": ("feature-extraction", True),
    "AutoModelForPreTraining": ("fill-mask", False),
    "AutoModelForMaskedLM": ("fill-mask", True),
    "AutoModelForSequenceClassification": ("text-classification", True),
    "AutoModelForTokenClassification": ("token-classification", True),
    "AutoModelForQuestionAnswering": ("question-answering", True),
    "AutoModelForMultipleChoice": ("multiple-choice", False),
}


@dataclass
class Training:
    """How a model came to be, as far as it is known.

    Args:
        data: sentences about the texts.
        hyperparameters: by their names.
        progress: a table in Markdown, of losses and metrics as they changed.
        results: metrics on texts that were held out.
        remarks: sentences about the results.
        hardware: what it ran on.
        seconds: how long it took.
        energy: in kWh.
        emissions: of CO₂ equivalents, in kg.
    """

    data: str | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    progress: str | None = None
    results: list[EvalResult] = field(default_factory=list)
    remarks: str | None = None
    hardware: str | None = None
    seconds: float | None = None
    energy: float | None = None
    emissions: float | None = None

    def paragraphs(self) -> list[str]:
        """What there is to say, in words."""
        said = [self.data or "The training data is not on record."]
        if self.seconds is not None or self.hardware is not None:
            time = "" if self.seconds is None else f" for {_duration(self.seconds)}"
            said.append(f"Trained{time} on {self.hardware or 'hardware that is not on record'}.")
        if self.energy is not None:
            carbon = "" if self.emissions is None else f", {self.emissions * 1000:.3g} g of CO₂ equivalents"
            said.append(f"It took {self.energy:.3g} kWh{carbon}, by the estimate of codecarbon.")
        return said


def model_card(
    model: PreTrainedModel,
    model_id: str,
    training: Training | None = None,
    *,
    name: str | None = None,
    summary: str | None = None,
    license: str | None = None,
    language: str | list[str] | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    base_model: str | None = None,
    datasets: str | list[str] | None = None,
    tags: Iterable[str] = (),
    limits: Iterable[str] = (),
) -> ModelCard:
    """The card of one of the package's models.

    Args:
        model: whose class, configuration and parameters it tells of.
        model_id: what `from_pretrained` is to be given: a repository `user/name`, or a folder.
        training: what is known of the training.
        name: the title; by default the last part of `model_id`.
        summary: the first sentences, what the model is for.
        license: the Hub's identifier of it, such as `apache-2.0`.
        language: of the texts, such as `en`.
        license_name: of a licence that the Hub has no identifier for, whose `license` is `other`.
        license_link: where that can be read.
        base_model: the repository of the model that this one was trained from; by default the one that it was loaded
            from, if that was no folder.
        datasets: ids of the Hub.
        tags: more of them, for the search of the Hub.
        limits: sentences about what not to use it for.

    Raises:
        ValueError: if the model is none of the package's, or the Hub would not take the card.
    """
    auto_class = auto_class_of(model)
    bare = not (training or name or summary or license or language or base_model or datasets or limits)
    training = training or Training()
    name = name or Path(model_id).name or type(model).__name__
    task, has_pipeline = TASKS[auto_class]
    config = getattr(model.config, "encoder_config", model.config)
    loaded_from = model.config._name_or_path
    if base_model is None and loaded_from != model_id and _is_of_the_hub(loaded_from):
        base_model = loaded_from
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        language=language,
        license=license,
        license_name=license_name,
        license_link=license_link,
        base_model=base_model,
        datasets=datasets,
        tags=list(dict.fromkeys(["sequence-encoder", *tags])),
        model_name=name if training.results else None,
        eval_results=training.results or None,
        **_emissions(training),
    )
    origin = f" It was trained from {base_model}." if base_model else ""
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        model_name=name,
        quoted_id=json.dumps(model_id, ensure_ascii=False),
        summary=(summary or f"A {type(model).__name__} with {model.num_parameters():,} parameters.") + origin,
        task=task if has_pipeline else None,
        auto_class=auto_class,
        packs=isinstance(config, SequenceEncoderConfig),
        architecture=[(name, _cell(value)) for name, value in architecture_in_words(model)],
        training=training.paragraphs(),
        hyperparameters={_cell(name): _cell(value) for name, value in training.hyperparameters.items()},
        progress=training.progress,
        results=_results(training),
        metrics=[tuple(map(_cell, _shown(result))) for result in training.results],
        limits=[*limits, *_limits(model, training)],
        licence=" ".join(str(part) for part in (license, license_name, license_link) if part)
        or "None is given. Ask who published this model before you use it.",
        marker=MARKER if bare else None,
    )
    errors, _ = check_card(card.content)
    if errors:
        raise ValueError(f"The Hub would not take this model card: {'; '.join(errors)}.")
    return card


def card_to_push(
    model: PreTrainedModel, api: HfApi, repo_id: str, revision: str | None, tags: Iterable[str] | None
) -> ModelCard:
    """The card that goes to a repository with a model: a new one, unless the one there says more than the model does.

    Raises:
        OSError: if it cannot be known, since the Hub does not answer.
    """
    try:
        # Not from the cache: someone may have written another one since.
        path = api.hf_hub_download(repo_id, "README.md", revision=revision, force_download=True)
    except (LocalEntryNotFoundError, ValueError) as error:
        raise OSError(f"Whether {repo_id} has a model card that someone wrote cannot be known: {error}") from error
    except EntryNotFoundError:
        return model_card(model, repo_id, tags=tags or ())
    card = ModelCard.load(path)
    tags = [*(card.data.to_dict().get("tags") or []), *(tags or ())]
    if MARKER in card.text:
        return model_card(model, repo_id, tags=tags)
    card.data.tags = list(dict.fromkeys(tags))
    return card


def auto_class_of(model: PreTrainedModel) -> str:
    """The Auto class of a model, be it one that extends ours.

    Raises:
        ValueError: if it is none of the package's.
    """
    names = {kind.__name__ for kind in type(model).__mro__}
    for auto_class, kind in (*AUTO_MODELS.items(), *ADAPTER_MODELS.items()):
        if kind in names:
            return auto_class
    raise ValueError(f"model must be one of the package's, got a {type(model).__name__}.")


def _is_of_the_hub(name: str) -> bool:
    """Whether that is a repository of which there are files here, and no folder, whose name may look like one."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return bool(name) and not os.path.isdir(name) and isinstance(try_to_load_from_cache(name, "config.json"), str)


def _cell(value: Any) -> str:
    """As a cell of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _shown(result: EvalResult) -> tuple[Any, ...]:
    return result.metric_name or result.metric_type, result.metric_value, result.dataset_name


def _emissions(training: Training) -> dict[str, Any]:
    """As the Hub wants them: in grams, and with where the number is from."""
    if training.emissions is None:
        return {}
    told = {"emissions": training.emissions * 1000, "source": "codecarbon", "hardware_used": training.hardware}
    return {"co2_eq_emissions": {name: value for name, value in told.items() if value is not None}}


def _results(training: Training) -> list[str]:
    said = [training.remarks] if training.remarks else []
    return said or ([] if training.results else ["None is on record."])


def _limits(model: PreTrainedModel, training: Training) -> list[str]:
    config = getattr(model.config, "encoder_config", model.config)
    said = []
    if getattr(config, "position_embedding", None) == "learned":
        said.append(f"A text has at most {config.max_position_embeddings:,} tokens; longer ones are to be cut.")
    if not training.results and not training.remarks:
        said.append("How good it is has not been measured, or is not on record.")
    said.append("It knows what its training texts say, errors and prejudices included, and of nothing else.")
    return said


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} minutes" if hours < 2 else f"{hours:.1f} hours"

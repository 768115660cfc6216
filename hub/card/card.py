"""The model card: `hub_card.md` at the root of the package, filled in with the model and its training."""

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

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ...modeling.calibration.calibration import calibration_of
from ...saving.auto_classes import model_class_of
from ...saving.card_mark import is_unedited, marked
from ...saving.registered_pipelines import own_task
from .architecture_in_words import describe_architecture
from .calibration_section import card_section
from .rules import check_card
from .section_marks import section_marks, without_section

TEMPLATE = Path(__file__).parents[2] / "hub_card.md"


@dataclass
class Training:
    """What is known about the training of a model.

    Args:
        data: Sentences about the training texts.
        hyperparameters: The hyperparameters by name.
        progress: A Markdown table of losses and metrics over the training.
        results: Metrics on held-out texts.
        remarks: Sentences about the results.
        hardware: The hardware that the training ran on.
        seconds: The duration of the training.
        energy: The energy used, in kWh.
        emissions: The emissions, in kg of CO₂ equivalents.
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
        """Return sentences that describe the training."""
        sentences = [self.data or "The training data is not recorded."]
        if self.seconds is not None or self.hardware is not None:
            time = "" if self.seconds is None else f" for {_duration(self.seconds)}"
            sentences.append(f"Trained{time} on {self.hardware or 'unrecorded hardware'}.")
        if self.energy is not None:
            carbon = "" if self.emissions is None else f" and emitted {self.emissions * 1000:.3g} g of CO₂ equivalents"
            sentences.append(f"codecarbon estimates that the training used {self.energy:.3g} kWh{carbon}.")
        return sentences


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
    usage: str | None = None,
    task: str | None = None,
) -> ModelCard:
    """Render the card of a model of this package.

    Args:
        model: The model. The card describes its class, configuration and parameters.
        model_id: The argument for `from_pretrained` in the code examples: a repository `user/name`, or a folder.
        training: What is known about the training.
        name: The title. Defaults to the last part of `model_id`.
        summary: The first sentences, which say what the model is for.
        license: The Hub's identifier of the licence, such as `apache-2.0`.
        language: The language of the texts, such as `en`.
        license_name: The name of a licence without an identifier on the Hub. `license` is then `other`.
        license_link: The link to that licence.
        base_model: The Hub repository of the model that this one was trained from. Defaults to the repository that
            the model was loaded from, if there is one.
        datasets: Ids of datasets on the Hub.
        tags: Further tags for the Hub's search.
        limits: Sentences about what the model must not be used for.
        usage: Markdown about the use of the loaded model and tokenizer.
        task: The task of a pipeline, under which the Hub lists the model. Defaults to the task of the model's head.

    Raises:
        ValueError: If the model is not from this package, or if the Hub would reject the card.
    """
    model_class = model_class_of(model)
    bare = not (training or name or summary or license or language or base_model or datasets or limits)
    training = training or Training()
    name = name or Path(model_id).name or type(model).__name__
    has_pipeline = model_class.has_pipeline or task not in (None, model_class.hub_task)
    task = task or model_class.hub_task
    config = getattr(model.config, "encoder_config", model.config)
    loaded_from = model.config._name_or_path
    if base_model is None and loaded_from != model_id and _is_hub_repository(loaded_from):
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
        task=task if has_pipeline else own_task(model_class.name),
        auto_class=model_class.auto_classes[0],
        packs=isinstance(config, SequenceEncoderConfig),
        architecture=[(name, _cell(value)) for name, value in describe_architecture(model)],
        training=training.paragraphs(),
        hyperparameters={_cell(name): _cell(value) for name, value in training.hyperparameters.items()},
        progress=training.progress,
        results=_results(training),
        metrics=[tuple(map(_cell, _shown(result))) for result in training.results],
        usage=usage,
        limits=[*limits, *_limits(model, training)],
        licence=" ".join(str(part) for part in (license, license_name, license_link) if part)
        or "No licence is stated. Ask the publisher before you use this model.",
    )
    if (calibration := calibration_of(model)) is not None:
        start, end = section_marks("calibration")
        card = ModelCard(f"{card.content.rstrip()}\n\n{start}\n{card_section(calibration)}{end}\n")
    errors, _ = check_card(card.content)
    if errors:
        raise ValueError(f"The Hub would reject this model card: {'; '.join(errors)}.")
    return ModelCard(marked(card.content, alone=True)) if bare else card


def card_to_push(
    model: PreTrainedModel, api: HfApi, repo_id: str, revision: str | None, tags: Iterable[str] | None
) -> ModelCard:
    """Return the card to push: the repository's card if it contains more than a rendered one, or else a new one.

    Args:
        model: The model to push.
        api: The client of the Hub.
        repo_id: The repository to push to.
        revision: The branch to push to.
        tags: Tags to add to the card.

    Raises:
        OSError: If the Hub does not answer, so that the current card is unknown.
    """
    try:
        # Bypass the cache: somebody may have edited the card since.
        path = api.hf_hub_download(repo_id, "README.md", revision=revision, force_download=True)
    except (LocalEntryNotFoundError, ValueError) as error:
        raise OSError(f"Could not check whether somebody has edited the model card of {repo_id}: {error}") from error
    except EntryNotFoundError:
        return model_card(model, repo_id, tags=tags or ())
    card = ModelCard.load(path)
    tags = [*(card.data.to_dict().get("tags") or []), *(tags or ())]
    if is_unedited(Path(path), alone=True):
        return model_card(model, repo_id, tags=tags)
    if calibration_of(model) is None:
        card = ModelCard(without_section(card.content, "calibration"))
    card.data.tags = list(dict.fromkeys(tags))
    return card


def _is_hub_repository(name: str) -> bool:
    """Return whether a name is a Hub repository with files in the local cache, and not a folder of that name."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return bool(name) and not os.path.isdir(name) and isinstance(try_to_load_from_cache(name, "config.json"), str)


def _cell(value: Any) -> str:
    """Format a value as a cell of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _shown(result: EvalResult) -> tuple[Any, ...]:
    return result.metric_name or result.metric_type, result.metric_value, result.dataset_name


def _emissions(training: Training) -> dict[str, Any]:
    """Return the emissions in the Hub's format: in grams, with their source."""
    if training.emissions is None:
        return {}
    fields = {"emissions": training.emissions * 1000, "source": "codecarbon", "hardware_used": training.hardware}
    return {"co2_eq_emissions": {name: value for name, value in fields.items() if value is not None}}


def _results(training: Training) -> list[str]:
    sentences = [training.remarks] if training.remarks else []
    return sentences or ([] if training.results else ["No results are recorded."])


def _limits(model: PreTrainedModel, training: Training) -> list[str]:
    config = getattr(model.config, "encoder_config", model.config)
    sentences = []
    if getattr(config, "position_embedding", None) == "learned":
        sentences.append(f"Texts can have at most {config.max_position_embeddings:,} tokens; truncate longer ones.")
    if not training.results and not training.remarks:
        sentences.append("No evaluation is recorded, so the quality of the model is unknown.")
    sentences.append("May reproduce errors and biases of its training data.")
    return sentences


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} minutes" if hours < 2 else f"{hours:.1f} hours"

"""Writes the model of a task with a head, its adapter, and their cards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ....command_line.counts import counted
from ....command_line.quiet import new_head
from ....configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ....conversion.converting import classifier_of
from ....conversion.peft_adapters import merge_adapter
from ....evaluation.tasks import HeadTask
from ....hub.card.card import Training, model_card
from ....modeling.modeling_sequence_encoder import SequenceEncoderModel
from ....saving.auto_classes import auto_classes, model_classes
from ....saving.card_mark import save_card
from ...encoders import card_fields_of, pooling_fields
from ...hub_trainer import training_of
from ..adapters import record_adapter
from ..arguments import TUNINGS, AdaptedModelArguments
from ..baselines import BASELINES
from ..report import Results
from ..run import Adaptation
from ..runs.callbacks import BestWeights

# Heads that use one vector per text.
_POOLING = ("SequenceClassification", "MultipleChoice")


class HeadFiles:
    """The part of `HeadSetup` that writes a trained model with its adapter and their cards."""

    run: Adaptation
    task: HeadTask
    tokenizer: PreTrainedTokenizerBase
    checkpoint: str
    base_class: type[PreTrainedModel]
    encoder: PreTrainedModel

    @property
    def is_other_family(self) -> bool:
        """Whether the encoder stays of another family, so that the model is saved as a `TaskAdapter`."""
        return self.run.model.tuning == "adapter" and not isinstance(self.encoder, SequenceEncoderModel)

    @property
    def is_pooled(self) -> bool:
        """Whether the head reads one vector for each text."""
        return self.task.auto_class.rpartition("For")[2] in _POOLING

    @property
    def _encoder_fields(self) -> dict[str, Any]:
        """The configuration fields that replace the checkpoint's: its calibration does not fit another head."""
        return {
            **(pooling_fields(self.checkpoint, self.run.model.pooling) if self.is_pooled else {}),
            "logit_calibration": None,
        }

    def write(self, trainer: Any, folder: Path) -> None:
        """Save the model and its tokenizer, and a PEFT adapter also separately in `adapter`.

        Trained prompts cannot be merged into the model. The folder then has no model besides the encoder in `base`.
        """
        model: Any = trainer.accelerator.unwrap_model(trainer.model)
        tuning = TUNINGS[self.run.model.tuning]
        self.tokenizer.save_pretrained(folder)
        if tuning.is_peft:
            self._write_adapter(model, folder)
            if not tuning.can_be_merged:
                return
            model = merge_adapter(model)
        if self.run.model.tuning == "adapter" and not self.is_other_family:
            model = classifier_of(model, model.encoder)
        model.save_pretrained(folder)

    def write_cards(self, results: Results, folder: Path) -> None:
        """Write the cards of the model and of its adapter into their folders."""
        training, tuning = self._training(results), TUNINGS[self.run.model.tuning]
        fields = card_fields_of(self.run.model.model)
        if tuning.is_peft:
            with_base = (folder / "base").exists()
            # Without a merged model, the adapter's card is also the card of the whole folder.
            for inside in (True,) if tuning.can_be_merged else (True, False):
                card = adapter_card(
                    self.task.auto_class, self.run.model, self.task.labels, with_base, inside, training, fields
                )
                save_card(folder / "adapter" / "README.md" if inside else folder / "README.md", card.content)
            if not tuning.can_be_merged:
                return
        model = getattr(transformers, self.task.auto_class).from_pretrained(folder)
        card = model_card(
            model,
            # The name alone, because the local path means nothing to readers of the card.
            self.run.args.hub_model_id or self.run.output.resolve().name,
            training,
            **fields,
            base_model=_of_the_hub(self.run.model.model),
            datasets=_of_the_hub(self.run.data.dataset_name),
            limits=[self._limit()],
            usage=self._usage(),
            task=self.task.hub_task,
        )
        save_card(folder / "README.md", card.content)

    def _limit(self) -> str:
        """Return what the card says about the length of the training texts."""
        return f"Trained on texts of at most {self.task.max_length} tokens; longer texts were truncated."

    def _usage(self) -> str | None:
        """Return what the card adds about the use of the model, in Markdown."""
        return None

    def training(self, trainer: Any) -> Training:
        """Return what the card says about the training of a trainer."""
        training = training_of(trainer, task=self._listed_as)
        # `complete` adds the metrics of all trainings.
        training.progress, training.results = None, []
        kept = next((each for each in trainer.callback_handler.callbacks if isinstance(each, BestWeights)), None)
        if kept is not None and kept.epoch is not None:
            training.hyperparameters = {**training.hyperparameters, "weights kept": f"of epoch {kept.epoch:.4g}"}
        if self.run.args.masked_tuning:
            training.hyperparameters = {**training.hyperparameters, "masked tuning": "half of the texts"}
        return training

    def _training(self, results: Results) -> Training:
        """Return what the card says about the training whose model is kept."""
        data = self.run.data
        files = {"train": data.train_file, "validation": data.validation_file, "test": data.test_file}
        datasets = {split: Path(file).name for split, file in files.items() if file is not None}
        datasets.setdefault("train", _name(str(data.dataset_name)))
        origin = _name(self.run.model.model)
        return complete(Training(**results.best.training), results, origin, datasets, self._listed_as)

    @property
    def _listed_as(self) -> str:
        """The task under which the Hub lists the model."""
        return self.task.hub_task or model_classes()[auto_classes("sequence_encoder")[self.task.auto_class]].hub_task

    def _write_adapter(self, model: Any, folder: Path) -> None:
        """Save the adapter with its record, and its base encoder unless the Hub has exactly that encoder."""
        adapter, base, origin = folder / "adapter", folder / "base", self.checkpoint
        fields, config = self._encoder_fields, SequenceEncoderConfig.from_pretrained(origin)
        if _of_the_hub(origin) is None or any(getattr(config, name) != value for name, value in fields.items()):
            with new_head():
                encoder = self.base_class.from_pretrained(origin, dtype="auto")
            # With these fields, the adapter's head fits without further arguments.
            encoder.config = SequenceEncoderConfig.from_pretrained(origin, **self.task.label_fields, **fields)
            encoder.save_pretrained(base)
            self.tokenizer.save_pretrained(base)
            origin = "../base"
        # When PEFT saves, it looks up the vocabulary size at this path.
        model.peft_config["default"].base_model_name_or_path = self.checkpoint
        model.save_pretrained(adapter)
        record_adapter(adapter, origin, self.run.model.model, self.task.labels)


def complete(
    training: Training, results: Results, origin: str, datasets: Mapping[str, str], task_type: str
) -> Training:
    """Complete what the `Trainer` knows, in place, with the metrics of the test or else the validation split."""
    split = results.reported_split
    without = ", without a label," if results.labelling else ""
    training.data = f"Adapted to {results.task} on {datasets['train']}{without or ','} from {origin}."
    training.progress = None
    training.hyperparameters = {
        **training.hyperparameters,
        **results.found,
        "tuning": results.tuning,
        "trained parameters": f"{results.trained:,} of {results.parameters:,}",
    }
    training.results = [
        EvalResult(
            task_type=task_type,
            dataset_type="local",
            dataset_name=f"{datasets.get(split, datasets['train'])}, {split}",
            metric_type=name,
            metric_value=round(value, 4),
        )
        for name, value in results.kept.metrics[split].items()
        if name != "loss" and results.reported_splits
    ]
    remarks = [str(found["summary"]) for found in (results.labelling, results.unlabelled) if found]
    remarks += [results.choice] if results.choice else []
    remarks += [f"{warning[0].upper()}{warning[1:]}" for warning in results.warnings()]
    if results.label_errors.get("suspicious"):
        checked = counted(results.label_errors["checked"], "label")
        remarks.append(f"{results.label_errors['suspicious']:,} of {checked} of the training examples look wrong.")
    compared = [
        f"{BASELINES[name].head} {found[split][results.metric]:.4g}"
        for name, found in results.baselines.items()
        if results.metric in found.get(split, {}) and results.reported_splits
    ]
    if compared:
        remarks.append(f"Baselines, by {results.metric} on the {split} examples: {'; '.join(compared)}.")
    if len(results.trainings) > 1 and results.reported_splits:
        summary = ", ".join(f"{name} {mean:.4f} ± {sd:.4f}" for name, (mean, sd) in results.spread()[split].items())
        kept = "the best of" if results.average is None else "the average of the weights of"
        selected = "" if results.average else ", selected on the validation examples"
        remarks.append(
            f"This is {kept} {len(results.trainings)} training runs with different seeds{selected}. Mean and standard "
            f"deviation of all: {summary}."
        )
    training.remarks = " ".join(remarks) or None
    return training


def adapter_card(
    auto_class: str,
    arguments: AdaptedModelArguments,
    labels: list[str],
    with_base: bool,
    inside: bool,
    training: Training,
    fields: Mapping[str, Any],
) -> ModelCard:
    """Build the card of a PEFT adapter, for the adapter's folder or, if not `inside`, for its parent.

    `fields` are those of the encoder's card that also apply to the adapter.
    """
    origin, adapter = "../base" if inside else "base", "." if inside else "adapter"
    if not with_base:
        origin = arguments.model
    of_the_hub = not Path(arguments.model).exists()
    data = ModelCardData(
        library_name="peft",
        base_model=arguments.model if of_the_hub else None,
        tags=["sequence-encoder", arguments.tuning],
        **fields,
    )
    options = f", id2label={dict(enumerate(labels))!r}" if labels else ""
    subfolders = "subfolder='base' and subfolder='adapter'" if with_base else "subfolder='adapter'"
    rows = "\n".join(f"| {result.metric_type} | {result.metric_value} |" for result in training.results)
    return ModelCard(
        f"""---
{data.to_yaml()}
---

# An adapter for {arguments.task}

{training.data} Trained with PEFT ({arguments.tuning}).{f" {training.remarks}" if training.remarks else ""}

```python
import sequence_encoder
from peft import PeftModel
from transformers import {auto_class}

# Paths are relative to the folder of this card. For a Hub repository, pass its name with
# {subfolders}.
encoder = {auto_class}.from_pretrained({origin!r}{options})
model = PeftModel.from_pretrained(encoder, {adapter!r})
```

| metric | value |
|---|---|
{rows}
"""
    )


def _of_the_hub(name: str | None) -> str | None:
    return None if name is None or Path(name).exists() else name


def _name(checkpoint: str) -> str:
    """Return the display name of a checkpoint or dataset: its Hub id, or the last part of its path."""
    return _of_the_hub(checkpoint) or Path(checkpoint).resolve().name

"""Adapt an encoder to a task: the function, and the command `sequence-encoder adapt` around it."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import transformers
from accelerate import PartialState
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ...command_line import UsageError
from ...command_line.counts import counted
from ...hub.sentence_transformers import save_sentence_transformer
from ...inference.corpora.arguments import PathOrName, arguments_of
from ...modeling.modeling_sequence_encoder import SequenceEncoderModel
from ...modeling.text_encoding.recipe_files import recipe_of
from ...saving.model_files import ADAPTER_RECORD
from .arguments import ADAPT, TUNINGS, AdaptedModelArguments, TaskDataArguments, check_libraries
from .given_rows import GivenRows
from .plan import Plan
from .run import Adaptation, AdaptationArguments, parse
from .steps import push, run_adaptation
from .tasks import SIMILARITY_TASKS, TASKS, HeadTask

_KINDS = (AdaptedModelArguments, TaskDataArguments, AdaptationArguments)
# Rows, a `datasets.Dataset`, or the name of a file.
Examples = Sequence[Mapping[str, Any]] | PathOrName | Any


@dataclass(frozen=True)
class AdaptationReport:
    """What an adaptation has achieved. `str` is what the command prints.

    Attributes:
        output_dir: The folder with the model, its tokenizer and its card.
        metrics: The metrics of the saved model on each split.
        baselines: Those of each baseline, such as the model before training.
        warnings: What to know before you use the model.
        plan: What was trained, on what and why. `print(report.plan)` shows it.
        record: All that `results.json` in the folder says.
    """

    output_dir: Path
    metrics: dict[str, dict[str, float]]
    baselines: dict[str, dict[str, dict[str, float]]]
    warnings: list[str]
    plan: Plan
    record: dict[str, Any] = field(repr=False)
    text: str = field(repr=False, default="")

    def __str__(self) -> str:
        return self.text

    @classmethod
    def read(cls, folder: Path, plan: Plan, text: str) -> AdaptationReport:
        """Read the report in the folder of a model."""
        record = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        metrics = record.get("average")
        if metrics is None:
            kept = record["seeds"].index(record["kept_seed"])
            metrics = {
                split: {name: found["values"][kept] for name, found in named.items()}
                for split, named in record["metrics"].items()
            }
        return cls(folder, metrics, record["baselines"], record["warnings"], plan, record, text)


def run_command(arguments: list[str]) -> None:
    """Run `sequence-encoder adapt`."""
    run = parse(arguments)
    adapted = run_adaptation(run)
    if adapted.text:
        print(adapted.text)
    if run.args.should_save and run.args.push_to_hub:
        push(run, adapted.files)
    PartialState().destroy_process_group()


def adapt(
    model: PathOrName | PreTrainedModel,
    train: Examples = None,
    output_dir: PathOrName = "adapted",
    *,
    task: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    validation: Examples = None,
    test: Examples = None,
    calibration: Examples = None,
    unlabelled: Examples = None,
    **options: Any,
) -> tuple[Any, Any, AdaptationReport]:
    """Fine-tune an encoder for a task, evaluate it, and save it with its card, as `sequence-encoder adapt`.

    The result is that of the command with the same options. Examples are a list of dictionaries or a
    `datasets.Dataset`, with the columns that the command reads, or the name of a file.

    Example:
        >>> train = [{"text": "great, again", "label": "good"}, {"text": "never again", "label": "bad"}, ...]
        >>> model, tokenizer, report = adapt("minilm", train, task="classification", test="test.csv")
        >>> print(report)

    Args:
        model: The folder or the Hub id of the encoder, or a loaded model. A loaded model does not change.
        train: The training examples. Leave them out to pass `dataset_name`, a dataset on the Hub.
        output_dir: The folder to write.
        task: The task, such as `classification`, `ner` or `embedding`.
        tokenizer: The tokenizer of a loaded model.
        validation: The examples that the best weights are chosen by. Without them, a part of the training examples is
            held out, or models are cross-validated.
        test: The examples that the saved model is evaluated on.
        calibration: The examples that the model is calibrated on, instead of the validation examples.
        unlabelled: Texts without labels.
        **options: The options of the command and the arguments of `Trainer`, by their names, such as `tuning="lora"`,
            `seeds=5`, `learning_rate=1e-4` or `label_column="topic"`.

    Returns:
        The trained model, as loaded from the folder; its tokenizer; and the report. The model of `embedding` is a
        `SentenceTransformer`, and that of `ranking` a `CrossEncoder`.

    Raises:
        FileExistsError: If the folder must not be replaced, or there is an interrupted run and neither `resume` nor
            `overwrite` is set.
        MissingLibraryError: If a library that the task needs is not installed.
        ValueError: If an option is not allowed, or the task cannot use the examples. Both are found before anything is
            computed.
    """
    examples = {
        "train": train,
        "validation": validation,
        "test": test,
        "calibration": calibration,
        "unlabelled": unlabelled,
    }
    if options.get("resume") and isinstance(model, PreTrainedModel):
        raise UsageError("resume needs the model by its name or folder, to tell that it is the same; got a loaded one.")
    with _named(model, tokenizer) as name:
        given, rows = _as_options(examples, {"model": name, "task": task, "output_dir": output_dir, **options})
        run = _run_of(given)
        run.data.given = rows
        adapted = run_adaptation(run)
        if run.args.should_save and run.args.push_to_hub:
            push(run, adapted.files)
        PartialState().wait_for_everyone()
        trained, own = _load(run)
    plan = replace(adapted.plan, model=Path(name).name) if isinstance(model, PreTrainedModel) else adapted.plan
    return trained, own, AdaptationReport.read(run.output, plan, adapted.text)


def _as_options(examples: Mapping[str, Any], options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, GivenRows]]:
    """Return the options with those that name the files of splits, and the rows of the other splits."""
    given, rows = {name: value for name, value in options.items() if value is not None}, {}
    for split, each in examples.items():
        if each is None:
            continue
        if f"{split}_file" in given:
            raise UsageError(f"{split} and {split}_file are the same examples; pass only one of them.")
        if isinstance(each, str | os.PathLike):
            given[f"{split}_file"] = os.fspath(each)
        else:
            rows[split] = GivenRows.of(split, each)
            # What the card calls them.
            given[f"{split}_file"] = counted(len(rows[split].examples), "row")
    if "train_file" not in given and "dataset_name" not in given:
        raise UsageError("adapt needs training examples: pass train, or dataset_name for a dataset on the Hub.")
    return given, rows


def _run_of(given: dict[str, Any]) -> Adaptation:
    """Check the options as the command does, and return the run."""
    known = {each.name for kind in _KINDS for each in dataclasses.fields(kind)}
    defaults = ADAPT.defaults({name: value for name, value in given.items() if name in known})
    model, data, args = arguments_of(ADAPT, {**defaults, **given}, _KINDS)
    check_libraries(model, args)
    return Adaptation(model, data, args)


@contextmanager
def _named(model: Any, tokenizer: Any) -> Iterator[str]:
    """Yield the name of a model, which is saved in a temporary folder if it is a loaded one."""
    if isinstance(model, str | os.PathLike):
        if tokenizer is not None:
            raise UsageError("tokenizer is for a loaded model; that of a folder or a Hub id comes with the model.")
        yield os.fspath(model)
        return
    if not isinstance(model, PreTrainedModel):
        raise UsageError(f"model must be a folder, a Hub id or a PreTrainedModel, got a {type(model).__name__}.")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UsageError(f"a loaded model needs its tokenizer, got {tokenizer!r}.")
    with tempfile.TemporaryDirectory() as place:
        # The card names the folder.
        folder = Path(place) / (Path(model.name_or_path or "").name or type(model).__name__)
        if isinstance(model, SequenceEncoderModel) and recipe_of(model) is not None:
            save_sentence_transformer(folder, model, tokenizer)
        else:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        yield str(folder)


def _load(run: Adaptation) -> tuple[Any, Any]:
    """Load the model that a run has saved, and its tokenizer."""
    folder, task = run.output, TASKS[run.model.task]
    if run.model.task in SIMILARITY_TASKS:
        import sentence_transformers

        trained = getattr(sentence_transformers, SIMILARITY_TASKS[run.model.task].kind)(str(folder))
        return trained, trained.tokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert issubclass(task, HeadTask)
    auto_class = getattr(transformers, task.auto_class)
    if TUNINGS[run.model.tuning].can_be_merged:
        return auto_class.from_pretrained(folder), tokenizer
    import peft

    base, record = folder / "base", folder / "adapter" / ADAPTER_RECORD
    labels = json.loads(record.read_text(encoding="utf-8"))["labels"]
    named = {"id2label": dict(enumerate(labels))} if labels else {}
    encoder = auto_class.from_pretrained(base if base.exists() else run.model.model, **named)
    return peft.PeftModel.from_pretrained(encoder, folder / "adapter"), tokenizer

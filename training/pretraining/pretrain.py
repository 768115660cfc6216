"""Run `sequence-encoder pretrain`: train an encoder on a corpus with `Trainer`, in any number of processes.

The output folder contains the model, its tokenizer, its card, a plot of its losses, and checkpoints. Its subfolder
`_pretraining` keeps what an interrupted run needs to resume. The underscore keeps `Trainer` from pushing it to the Hub.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from transformers import (
    AutoTokenizer,
    IntervalStrategy,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerState,
    set_seed,
)
from transformers.trainer import TRAINER_STATE_NAME

from ...command_line import UsageError
from ...command_line.clock import command_start
from ...command_line.counts import counted, unknown_in_words
from ...command_line.progress import Progress
from ...data.corpus import load_corpus, text_of
from ...data.packs import EvaluationWindows, PackedWindows
from ...data.streams import PackedStream
from ...data.windows import windows_of
from ...inference.corpora.arguments import PathOrName
from ...modeling.text_encoding.recipe_files import read_recipe
from ..arguments import HUB_ERRORS
from ..checkpoints import last_complete_checkpoint, train_with_cleanup
from ..encoders import save_as_sequence_encoder
from ..hub_trainer import HubTrainer
from ..interruptions import GracefulStop
from ..tensor_parallel import divided, tensor_parallel_size
from .arguments import OUTPUT
from .diffusion_bound import BoundWindows
from .folder import check_folder, check_windows, finished_steps, prepare_folder, progress_of, run_lock
from .new_model import load_converted_model, make_tokenizer, new_model, start_from_neighbours
from .objective_kinds import KINDS
from .objectives import PretrainingCollator
from .report import plot_losses, write_card
from .run import Pretraining, parse, run_of
from .trainer import keep_to_seconds, make_trainer, packs_per_step


@dataclass(frozen=True)
class PretrainingReport:
    """What a pretraining has done.

    Attributes:
        output_dir: The folder with the model, its tokenizer, its card and the checkpoints.
        steps: The number of training steps.
        epochs: How often the model has read the texts.
        parameters: The number of parameters.
        metrics: The results of the last evaluation on held-out texts, by their names, empty without `eval_documents`.
        history: Everything that was logged, as `log_history` of a `Trainer`.
    """

    output_dir: Path
    steps: int
    epochs: float
    parameters: int
    metrics: dict[str, float]
    history: list[dict[str, float]]

    @property
    def losses(self) -> list[float]:
        """The logged losses of the training, in their order."""
        return [entry["loss"] for entry in self.history if "loss" in entry]


def pretrain(
    corpus: Any,
    model: PathOrName | PreTrainedModel | None = None,
    tokenizer: PathOrName | PreTrainedTokenizerBase | None = None,
    output_dir: PathOrName = OUTPUT,
    **options: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, PretrainingReport]:
    """Pretrain an encoder on texts, as `sequence-encoder pretrain`.

    The same options give the same model as the command. Ctrl-C saves a checkpoint, and `resume=True` with the same
    arguments continues from it.

    Args:
        corpus: Texts, documents (mappings with the key `text_column`), a `datasets.Dataset`, or the name of a file, a
            folder, a pattern or a Hub dataset.
        model: The model to continue, or its folder or Hub id; by default, a new one of the options `preset` and `size`.
            A model in memory needs its `tokenizer`, and does not change.
        tokenizer: The tokenizer of a new model, or its folder or Hub id; by default, a new one for these texts.
        output_dir: The folder to write the model and its checkpoints to.
        **options: The options of the command and of `TrainingArguments`, by their names.

    Returns:
        The model in evaluation mode on the CPU, its tokenizer, and a report.

    Raises:
        ValueError: If an option or a text is not allowed, or the loss becomes NaN or infinite.
        FileExistsError: If the folder contains a model or a checkpoint and neither `resume` nor `overwrite` is set, or
            another run uses it.
        KeyboardInterrupt: If the user interrupts the run. The message says what is saved.

    Example:
        >>> model, tokenizer, report = pretrain(["One text.", "Another text."], size="tiny", max_steps=100)
        >>> report.losses[-1]
    """
    given = {"corpus": corpus, "model": model, "tokenizer": tokenizer, "output_dir": output_dir, **options}
    run = run_of(given)
    trainer = run_pretraining(run)
    trained = type(trainer.accelerator.unwrap_model(trainer.model)).from_pretrained(run.output)
    state = TrainerState.load_from_json(str(run.output / TRAINER_STATE_NAME))
    evaluated = [entry for entry in state.log_history if "eval_loss" in entry]
    report = PretrainingReport(
        output_dir=run.output,
        steps=state.global_step,
        epochs=round(state.epoch or 0.0, 2),
        parameters=trained.num_parameters(),
        metrics={name.removeprefix("eval_"): value for name, value in (evaluated or [{}])[-1].items()},
        history=state.log_history,
    )
    return trained, AutoTokenizer.from_pretrained(run.output), report


def run_command(arguments: list[str]) -> None:
    """Run `sequence-encoder pretrain`."""
    # If the process group is not destroyed, the processes can exit with an error.
    run_pretraining(parse(arguments)).accelerator.end_training()


def run_pretraining(run: Pretraining) -> HubTrainer:
    """Run a pretraining, from reading the corpus to saving the model. See `pretrain`.

    Raises:
        FileExistsError: If the output folder contains a model or a checkpoint and neither `resume` nor `overwrite` is
            set, or another run uses the folder.
        KeyboardInterrupt: If the user interrupts the run. The message says what is saved and how to resume.
        UsageError: If arguments contradict each other or an interrupted run, texts cannot be read, the loss becomes NaN
            or infinite, or the disk is full.
    """
    started = command_start()
    check_folder(run)
    stop = GracefulStop()
    try:
        with run_lock(run), stop.watch():
            trainer = prepare(run, started)
            planned = cast(Any, trainer.train_dataset).total // packs_per_step(run.args)
            announce(run, trainer, planned)
            if run.args.resume and finished_steps(run) >= planned:
                load_finished(run, trainer)
                return trainer
            # It must come before the callbacks that read `control` after a step.
            trainer.callback_handler.callbacks.insert(1, stop)
            train_with_cleanup(trainer, run.args.resume_from_checkpoint)
            stop.raise_if_stopped()
            finish(run, trainer)
    except KeyboardInterrupt as interruption:
        raise KeyboardInterrupt(progress_of(run)) from interruption
    return trainer


def check_supported(run: Pretraining) -> None:
    """Check that the options for the texts fit those of the training.

    Raises:
        UsageError: If they contradict each other.
    """
    corpus, args = run.corpus, run.args
    if corpus.streaming and args.max_steps <= 0:
        raise UsageError("--streaming needs --max_steps, because the length of a stream is unknown.")
    if args.seconds and tensor_parallel_size() > 1:
        raise UsageError("--seconds does not support tensor parallelism; set --max_steps.")
    if corpus.streaming and args.dataloader_num_workers > 1:
        raise UsageError(
            f"--dataloader_num_workers must be 0 or 1 with --streaming, got {args.dataloader_num_workers}, because "
            "each worker would read the whole stream."
        )
    if args.eval_strategy != "no" and not corpus.eval_documents:
        raise UsageError(
            f"--eval_strategy {IntervalStrategy(args.eval_strategy).value} needs --eval_documents to evaluate on."
        )


def prepare(run: Pretraining, started: float) -> HubTrainer:
    """Read and tokenise the texts, and build the trainer of a run that `started` at this `time.perf_counter`.

    Raises:
        UsageError: If arguments contradict each other, or texts cannot be read.
    """
    model, corpus, args, in_memory = run.model, run.corpus, run.args, run.in_memory
    check_supported(run)
    # The first process does the work, and the others load the results.
    with args.main_process_first(local=args.save_on_each_node, desc="preparing"):
        prepare_folder(run)
        set_seed(args.seed)
        train_texts, eval_texts = (
            load_corpus(corpus, run.scratch, args.seed)
            if in_memory.texts is None
            else in_memory.split(corpus, args.seed)
        )
        tokenizer = prepare_tokenizer(run, train_texts)
        encoder = (
            new_model(model, run.objectives, tokenizer)
            if model.model is None
            else load_converted_model(run.scratch / "encoder", model, run.objectives, tokenizer)
        )
        try:
            collator = PretrainingCollator(tokenizer, run.objectives)
        except ValueError as error:
            raise UsageError(error) from error
        held_out = None if eval_texts is None else evaluation_set(run, eval_texts, tokenizer)
        train = prepare_packs(run, train_texts, tokenizer)
    resumes = args.resume and last_complete_checkpoint(run.output) is not None
    if model.model is None and isinstance(train, PackedWindows) and not resumes:
        start_from_neighbours(encoder, train, show_progress=args.process_index == 0 and not args.disable_tqdm)
    if tensor_parallel_size() > 1:
        encoder = divided(encoder, tensor_parallel_size(), run.scratch / "undivided")

    def trainer_of(own: Pretraining, model: Any) -> HubTrainer:
        return make_trainer(own, model, tokenizer, collator, train, held_out)

    try:
        if args.seconds and args.max_steps <= 0:
            keep_to_seconds(
                run, cast(PackedWindows, train), lambda own: trainer_of(own, copy.deepcopy(encoder)), started
            )
        return trainer_of(run, encoder)
    # With --push_to_hub, `Trainer` creates the repository. The other errors are arguments that it does not support.
    except HUB_ERRORS as error:
        raise UsageError(f"--push_to_hub: the repository could not be created: {error}") from error
    except (ValueError, ImportError) as error:
        raise UsageError(error) from error


def announce(run: Pretraining, trainer: HubTrainer, steps: int) -> None:
    """Print what the run trains on, unless that is a stream of unknown length, and warn of what will disappoint."""
    if run.args.process_index != 0:
        return
    train = trainer.train_dataset
    if run.model.model is not None and read_recipe(run.scratch / "encoder") is not None:
        print(
            f"{run.model.model} is a sentence encoder. Pretraining makes its vectors worse for searches; "
            "`sequence-encoder adapt --task embedding` adapts them to your texts, and needs no labels either."
        )
    if isinstance(train, PackedWindows):
        print(
            f"{counted(len(train.windows), 'window')}, {counted(train.tokens, 'token')}, in "
            f"{counted(train.count, 'pack that is', 'packs that are')} {train.fullness:.1%} full; "
            f"{counted(steps, 'step')} of {counted(packs_per_step(run.args), 'pack')}."
        )
        some, unknown = train.windows[:1000]["input_ids"], cast(Any, trainer.processing_class).unk_token_id
        if said := unknown_in_words(sum(ids.count(unknown) for ids in some), sum(map(len, some))):
            is_new = run.model.model is None and run.model.tokenizer is None
            print(f"{said}.{' With --algorithm byte_level_bpe, none are.' if is_new else ''}")


def prepare_tokenizer(run: Pretraining, texts: Any) -> PreTrainedTokenizerBase:
    """Load the tokenizer of the run, which the first process creates."""
    folder = run.scratch / "tokenizer"
    if not folder.exists():
        checkpoint = run.model.model
        if checkpoint is None:
            # Reading would advance the position of the stream.
            texts = copy.deepcopy(texts) if run.corpus.streaming else texts
            with Progress("Training the tokenizer"):
                tokenizer = make_tokenizer(
                    run.model, (text_of(item["text"]) for item in texts), run.in_memory.tokenizer
                )
        elif run.in_memory.model is not None:
            tokenizer = run.in_memory.save_model(run.scratch / "encoder")
        else:
            tokenizer = save_as_sequence_encoder(checkpoint, run.scratch / "encoder", base_model=False)
        temporary = run.scratch / "tokenizer.part"
        tokenizer.save_pretrained(temporary)
        os.replace(temporary, folder)
    return AutoTokenizer.from_pretrained(folder)


def prepare_packs(run: Pretraining, texts: Any, tokenizer: PreTrainedTokenizerBase) -> PackedWindows | PackedStream:
    """Build the packs to train on."""
    model, corpus, args = run.model, run.corpus, run.args
    pairs = bool(run.objectives.sop_weight)
    if corpus.streaming:
        return PackedStream(
            texts,
            tokenizer,
            model.max_length,
            model.max_tokens,
            pairs,
            corpus.shuffle_buffer,
            args.seed,
            run.scratch / "stream.jsonl",
            args.should_save,
        )
    windows = windows_of(texts, tokenizer, model.max_length, pairs, corpus.num_proc)
    train = PackedWindows(windows, model.max_tokens, args.seed, multiple_of=packs_per_step(args))
    check_windows(run, train)
    return train


def evaluation_set(
    run: Pretraining, texts: Any, tokenizer: PreTrainedTokenizerBase
) -> EvaluationWindows | BoundWindows:
    """Build the windows to evaluate on, which always have the same masks."""
    if run.corpus.streaming:
        from datasets import Dataset

        texts = Dataset.from_list(list(texts))
    windows = windows_of(texts, tokenizer, run.model.max_length, bool(run.objectives.sop_weight), run.corpus.num_proc)
    return KINDS[run.objectives.objective].windows(windows, texts, run.args.seed)


def load_finished(run: Pretraining, trainer: HubTrainer) -> None:
    """Load the weights of the finished run in the output folder into the trainer, without changing the folder."""
    if tensor_parallel_size() == 1:
        model: Any = trainer.accelerator.unwrap_model(trainer.model)
        model.load_state_dict(type(model).from_pretrained(run.output).state_dict())
    if trainer.is_world_process_zero():
        print(
            f"The run in {run.output.resolve()} is finished, after {counted(finished_steps(run), 'step')}. To continue "
            "training, increase --max_steps or --num_train_epochs."
        )


def finish(run: Pretraining, trainer: HubTrainer) -> None:
    """Save the model and the tokenizer, evaluate, and write the plot and the card.

    The model is saved first, so that it is kept even if a later step fails.
    """
    if trainer.is_fsdp_enabled:
        # Checkpoints may be sharded, but the saved model must load without FSDP.
        cast(Any, trainer.accelerator.state.fsdp_plugin).set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(run.output), _internal_call=True)
    if trainer.eval_dataset is not None:
        trainer.evaluate()
    trainer.save_state()
    if trainer.is_world_process_zero():
        plot_losses(trainer.state.log_history, run.output / "loss.png")
        write_card(run, trainer)
    if run.args.push_to_hub:
        try:
            trainer.push_to_hub(commit_message="Model save")
        except HUB_ERRORS as error:
            raise UsageError(
                f"the model is saved in {run.output}, but could not be pushed to the Hub: {error}"
            ) from error
    if trainer.is_world_process_zero():
        print(f"Saved in {run.output.resolve()}.")
    trainer.accelerator.wait_for_everyone()

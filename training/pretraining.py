"""The recipe of `sequence-encoder pretrain`: from a corpus to an encoder, with `Trainer`, in any number of processes.

The output folder holds the model, its tokenizer, its card, a plot of its losses, and checkpoints; `_pretraining` in it
what is needed to go on after an interruption. (The underscore keeps `Trainer` from pushing it to the Hub.)
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any, cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase, set_seed

from ..hub.whole_folders import write_whole
from . import UsageError
from .checkpoints import checkpoints_in, remove_unfinished, train_whole
from .corpus import load_corpus, text_of
from .extras import require
from .hub_trainer import HubTrainer
from .objectives import PretrainingCollator
from .packs import EvaluationWindows, PackedWindows
from .pretraining_arguments import Pretraining
from .pretraining_report import plot_losses, write_card
from .pretraining_trainer import make_trainer, packs_per_step
from .starting_points import carried_over_model, carry_over, make_tokenizer, new_model
from .streams import PackedStream
from .tensor_parallel import divided, tensor_parallel_size
from .tokenized import windows_of


def pretrain(run: Pretraining) -> HubTrainer:
    """Runs it all, and returns the trainer.

    Raises:
        FileExistsError: if there is a model or a checkpoint in the output folder, and neither `resume` nor `overwrite`.
        UsageError: for arguments that contradict each other or an interrupted run, texts that cannot be read, a loss
            that is no longer a number, and a disk that is full.
    """
    trainer = prepare(run)
    train_whole(trainer, run.args.resume_from_checkpoint)
    finish(run, trainer)
    return trainer


def prepare(run: Pretraining) -> HubTrainer:
    """Reads and tokenises the texts, and makes the trainer."""
    model, corpus, args = run.model, run.corpus, run.args
    require("pretrain", "datasets", "matplotlib", extra="train")
    if corpus.streaming and args.max_steps <= 0:
        raise UsageError("--streaming needs --max_steps: nobody knows where a stream ends.")
    if args.eval_strategy != "no" and not corpus.eval_documents:
        raise UsageError(f"--eval_strategy {args.eval_strategy} needs --eval_documents, to evaluate on.")
    # The first process does the work, and the others find it done.
    with args.main_process_first(local=args.save_on_each_node, desc="preparing"):
        prepare_folder(run)
        set_seed(args.seed)
        train_texts, eval_texts = load_corpus(corpus, run.scratch, args.seed)
        tokenizer = prepare_tokenizer(run, train_texts)
        encoder = (
            new_model(model, run.objectives, tokenizer)
            if model.from_checkpoint is None
            else carried_over_model(run.scratch / "encoder", model, run.objectives)
        )
        try:
            collator = PretrainingCollator(tokenizer, run.objectives)
        except ValueError as error:
            raise UsageError(error) from error
        held_out = None if eval_texts is None else evaluation_set(run, eval_texts, tokenizer)
        train = prepare_packs(run, train_texts, tokenizer)
    if tensor_parallel_size() > 1:
        encoder = divided(encoder, tensor_parallel_size(), run.scratch / "undivided")
    try:
        return make_trainer(run, encoder, tokenizer, collator, train, held_out)
    # What `Trainer` and Accelerate say of arguments that they cannot follow.
    except (ValueError, ImportError) as error:
        raise UsageError(error) from error


def prepare_folder(run: Pretraining) -> None:
    """Makes the output folder ready for a new run, or for going on with one."""
    args, output = run.args, run.output
    settings = settings_of(run)
    file = run.scratch / "settings.json"
    if not args.should_save:
        return
    if args.resume and file.exists():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(f"{file} is damaged ({error}); start anew with --overwrite.") from error
        changed = [name for name in settings if before.get(name) != settings[name]]
        if changed:
            told = ", ".join(f"{name} (was {before.get(name)!r}, is {settings[name]!r})" for name in changed)
            raise UsageError(f"--resume goes on with the same texts, model and objectives, and these differ: {told}.")
        for path in remove_unfinished(output):
            print(f"Removed {path}, which was not finished.")
    else:
        found = [*checkpoints_in(output), *output.glob("config.json")]
        if found and not args.overwrite:
            if args.resume:
                raise UsageError(f"--resume needs {file}, which is not there; start anew with --overwrite.")
            raise FileExistsError(
                f"{output} holds a model or checkpoints; go on with --resume, or start anew with --overwrite."
            )
        removed = [folder for folder in (*checkpoints_in(output), run.scratch) if folder.exists()]
        for name, source in (
            ("from", run.model.from_checkpoint),
            ("tokenizer", run.model.tokenizer),
            ("corpus", run.corpus.corpus),
        ):
            if source and any(Path(source).resolve().is_relative_to(folder.resolve()) for folder in removed):
                raise UsageError(f"--{name} {source} would be removed; choose another --output_dir.")
        for folder in removed:
            shutil.rmtree(folder)
    run.scratch.mkdir(parents=True, exist_ok=True)
    write_whole(file, [json.dumps(settings, indent=1)])


def settings_of(run: Pretraining) -> dict[str, Any]:
    """What must not change when a run goes on."""
    settings: dict[str, Any] = {}
    for part in (run.model, run.corpus, run.objectives):
        settings |= dataclasses.asdict(part)
    settings.pop("num_proc")
    args = run.args
    settings |= {name: getattr(args, name) for name in ("seed", "muon", "ema_decay")}
    return settings | {"packs a step": packs_per_step(args)}


def prepare_tokenizer(run: Pretraining, texts: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of the run, made by its first process once and for all."""
    folder = run.scratch / "tokenizer"
    if not folder.exists():
        checkpoint = run.model.from_checkpoint
        if checkpoint is None:
            # Reading moves the place that a stream keeps.
            texts = copy.deepcopy(texts) if run.corpus.streaming else texts
            tokenizer = make_tokenizer(run.model, (text_of(item["text"]) for item in texts))
        else:
            tokenizer = carry_over(checkpoint, run.scratch / "encoder", base_model=False)
        aside = run.scratch / "tokenizer.part"
        tokenizer.save_pretrained(aside)
        os.replace(aside, folder)
    return AutoTokenizer.from_pretrained(folder)


def prepare_packs(run: Pretraining, texts: Any, tokenizer: PreTrainedTokenizerBase) -> PackedWindows | PackedStream:
    """The packs to train on."""
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
    return PackedWindows(windows, model.max_tokens, args.seed, multiple_of=packs_per_step(args))


def evaluation_set(run: Pretraining, texts: Any, tokenizer: PreTrainedTokenizerBase) -> EvaluationWindows:
    """The windows to evaluate on, always the same and with the same masks."""
    if run.corpus.streaming:
        from datasets import Dataset

        texts = Dataset.from_list(list(texts))
    windows = windows_of(texts, tokenizer, run.model.max_length, bool(run.objectives.sop_weight), run.corpus.num_proc)
    return EvaluationWindows(windows, run.args.seed)


def finish(run: Pretraining, trainer: HubTrainer) -> None:
    """Evaluates, and saves the model, the tokenizer, the curves and the card."""
    if trainer.eval_dataset is not None:
        trainer.evaluate()
    if trainer.is_fsdp_enabled:
        # Checkpoints may be in shards, which are no model that can be loaded.
        cast(Any, trainer.accelerator.state.fsdp_plugin).set_state_dict_type("FULL_STATE_DICT")
    trainer.save_state()
    if trainer.is_world_process_zero():
        plot_losses(trainer.state.log_history, run.output / "loss.png")
        write_card(run, trainer)
    # The last, since it may push all of it.
    trainer.save_model()
    if trainer.is_world_process_zero():
        print(f"Saved in {run.output.resolve()}.")
    trainer.accelerator.wait_for_everyone()

"""The recipe of `sequence-encoder pretrain`: from a corpus to an encoder, with `Trainer`, in any number of processes.

The output folder holds the model, its tokenizer, its card, a plot of its losses, and checkpoints; `_pretraining` in it
what is needed to go on after an interruption. (The underscore keeps `Trainer` from pushing it to the Hub.)
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, set_seed
from transformers.trainer_utils import SchedulerType

from . import UsageError
from .checkpoints import (
    LearningRateOfNow,
    RandomStateOfCheckpoint,
    WholeCheckpoints,
    checkpoints_in,
    last_whole_checkpoint,
    remove_unfinished,
    step_of,
)
from .corpus import CorpusArguments, load_corpus, texts_of
from .ema import ExponentialMovingAverage
from .hardware import product_speed
from .hub_trainer import HubTrainer
from .loss_plot import plot_losses
from .objective_metrics import ObjectiveMetrics, compact_logits, objective_means
from .objectives import Objectives, PretrainingCollator
from .optimizer import MuonWithAdamW
from .packs import EvaluationWindows, PackedWindows
from .pretraining_arguments import ModelArguments, PretrainingArguments
from .starting_points import carried_over_model, carry_over, make_tokenizer, new_model
from .streams import PackedStream
from .tensor_parallel import TensorParallelCheckpoints, divided, tensor_parallel_size
from .tokenized import windows_of

SCRATCH = "_pretraining"


@dataclasses.dataclass
class Pretraining:
    """One run: what it was asked for.

    Attributes:
        model: which encoder.
        corpus: on which texts.
        objectives: to learn what.
        args: how.
    """

    model: ModelArguments
    corpus: CorpusArguments
    objectives: Objectives
    args: PretrainingArguments

    @property
    def output(self) -> Path:
        """The output folder."""
        return Path(self.args.output_dir or "")

    @property
    def scratch(self) -> Path:
        """What is needed to go on after an interruption."""
        return self.output / SCRATCH


def pretrain(
    model: ModelArguments, corpus: CorpusArguments, objectives: Objectives, args: PretrainingArguments
) -> HubTrainer:
    """Runs it all, and returns the trainer.

    Raises:
        FileExistsError: if there is a model or a checkpoint in the output folder, and neither `resume` nor `overwrite`.
        UsageError: for arguments that contradict each other or an interrupted run, texts that cannot be read, a loss
            that is no longer a number, and a disk that is full.
    """
    run = Pretraining(model, corpus, objectives, args)
    trainer = prepare(run)
    train_whole(run, trainer)
    finish(run, trainer)
    return trainer


def prepare(run: Pretraining) -> HubTrainer:
    """Reads and tokenises the texts, and makes the trainer."""
    model, corpus, args = run.model, run.corpus, run.args
    if corpus.streaming and args.max_steps <= 0:
        raise UsageError("--streaming needs --max_steps: nobody knows where a stream ends.")
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
        collator = PretrainingCollator(tokenizer, run.objectives)
        held_out = None if eval_texts is None else evaluation_set(run, eval_texts, tokenizer)
        train = prepare_packs(run, train_texts, tokenizer)
    if tensor_parallel_size() > 1:
        encoder = divided(encoder, tensor_parallel_size(), run.scratch / "undivided")
    return make_trainer(run, encoder, tokenizer, collator, train, held_out)


def prepare_folder(run: Pretraining) -> None:
    """Makes the output folder ready for a new run, or for going on with one."""
    args, output = run.args, run.output
    settings = settings_of(run)
    file = run.scratch / "settings.json"
    if not args.should_save:
        return
    if args.resume and file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = [name for name in settings if before.get(name) != settings[name]]
        if changed:
            told = ", ".join(f"{name} (was {before.get(name)!r}, is {settings[name]!r})" for name in changed)
            raise UsageError(f"--resume goes on with the same texts, model and objectives, and these differ: {told}.")
        for path in remove_unfinished(output):
            print(f"Removed {path}, which was not finished.")
    else:
        found = [*checkpoints_in(output), *output.glob("config.json")]
        if found and not args.overwrite:
            raise FileExistsError(
                f"{output} holds a model or checkpoints; go on with --resume, or start anew with --overwrite."
            )
        for folder in [*checkpoints_in(output), run.scratch]:
            if folder.exists():
                shutil.rmtree(folder)
    run.scratch.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(settings, indent=1))


def settings_of(run: Pretraining) -> dict[str, Any]:
    """What must not change when a run goes on."""
    settings: dict[str, Any] = {}
    for part in (run.model, run.corpus, run.objectives):
        settings |= dataclasses.asdict(part)
    settings.pop("num_proc")
    return settings | {"seed": run.args.seed, "muon": run.args.muon, "ema_decay": run.args.ema_decay}


def write_whole(file: Path, text: str) -> None:
    """Writes a file aside, and renames it when all is there."""
    aside = file.with_name(f"{file.name}.part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, file)


def prepare_tokenizer(run: Pretraining, texts: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of the run, made by its first process once and for all."""
    folder = run.scratch / "tokenizer"
    if not folder.exists():
        checkpoint = run.model.from_checkpoint
        if checkpoint is None:
            # Reading moves the place that a stream keeps.
            texts = copy.deepcopy(texts) if run.corpus.streaming else texts
            tokenizer = make_tokenizer(
                run.model, (text for item in texts for text in texts_of({"text": [item["text"]]}))
            )
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


def packs_per_step(args: PretrainingArguments) -> int:
    """Packs that all processes together train on in a step."""
    apart = args.world_size // tensor_parallel_size()
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * apart


def make_trainer(
    run: Pretraining,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    collator: PretrainingCollator,
    train: PackedWindows | PackedStream,
    held_out: EvaluationWindows | None,
) -> HubTrainer:
    """The `Trainer` of the run, with what it needs to log and to go on."""
    args = run.args
    a_step = packs_per_step(args)
    steps = args.max_steps
    if isinstance(train, PackedWindows):
        if steps <= 0:
            steps = math.ceil(args.num_train_epochs * len(train) / a_step)
        print_once(
            args,
            f"{len(train.windows):,} windows, {train.tokens:,} tokens, in {train.count:,} packs that are "
            f"{train.fullness:.1%} full; {steps:,} steps of {a_step} packs.",
        )
    train.plan(steps * a_step)
    checkpoint = last_whole_checkpoint(run.output) if args.resume else None
    if isinstance(train, PackedStream):
        # The stream goes to its place by itself, and in all processes alike.
        args.ignore_data_skip = True
        cast(Any, args.accelerator_config).dispatch_batches = False
        train.start_at(a_step * step_of(checkpoint) if checkpoint else 0)
    if args.lr_scheduler_type == SchedulerType.WARMUP_STABLE_DECAY:
        decay = min(math.ceil(args.lr_decay_share * steps), steps - args.get_warmup_steps(steps))
        # Decay by the root of the time: Hägele et al., 2024.
        defaults = {"num_decay_steps": decay, "decay_type": "1-sqrt"}
        args.lr_scheduler_kwargs = {**defaults, **cast("dict[str, Any]", args.lr_scheduler_kwargs or {})}
    if args.ddp_find_unused_parameters is None:
        # Looking for weights without a gradient takes time; only without masked tokens are there any, in their head.
        args.ddp_find_unused_parameters = not run.objectives.mlm_weight
    if held_out is not None and args.eval_strategy == "no":
        args.eval_strategy = cast(Any, "steps")
    metrics = ObjectiveMetrics(
        operations_per_token(model, run),
        args.world_size * product_speed(torch.bfloat16 if args.bf16 else torch.float32),
    )
    callbacks: list[Any] = [LearningRateOfNow(), WholeCheckpoints(args)]
    if tensor_parallel_size() > 1:
        args.save_only_model = True
        callbacks.insert(0, TensorParallelCheckpoints())
    if args.ema_decay is not None:
        callbacks.insert(0, ExponentialMovingAverage(args.ema_decay, checkpoint))
    muon = {
        "model": model,
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
        "weight_decay": args.weight_decay,
    }
    trainer = HubTrainer(
        model,
        args,
        train_dataset=train,
        eval_dataset=held_out,
        data_collator=collator,
        processing_class=tokenizer,
        compute_metrics=objective_means,
        preprocess_logits_for_metrics=compact_logits,
        callbacks=callbacks,
        optimizer_cls_and_kwargs=(MuonWithAdamW, muon) if args.muon else None,
    )
    if trainer.is_fsdp_enabled and trainer.accelerator.mixed_precision == "bf16":
        # Accelerate would also round the number of labels that a loss is divided by, and sums of gradients.
        cast(Any, trainer.accelerator.state.fsdp_plugin).mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    metrics.watch(trainer)
    if checkpoint is not None and isinstance(train, PackedStream):
        trainer.add_callback(RandomStateOfCheckpoint(checkpoint, trainer))
    args.resume_from_checkpoint = str(checkpoint) if checkpoint else None
    return trainer


def operations_per_token(model: PreTrainedModel, run: Pretraining) -> float:
    """Operations of training for one token: of matrix products, forward and twice as many backward.

    Attention is that to half of a window; the vocabulary is for masked tokens alone.
    """
    config: Any = model.config
    inside = sum(weight.numel() for name, weight in model.named_parameters() if ".layers." in name and weight.ndim == 2)
    attention = config.num_hidden_layers * config.hidden_size * run.model.max_length
    vocabulary = (
        config.vocab_size * config.prediction_dim * run.objectives.mlm_probability * bool(run.objectives.mlm_weight)
    )
    return 6 * (inside + attention + vocabulary)


def train_whole(run: Pretraining, trainer: HubTrainer) -> None:
    """Trains, and leaves whole checkpoints behind whatever happens."""
    try:
        trainer.train(resume_from_checkpoint=run.args.resume_from_checkpoint)
    except (OSError, SafetensorError, RuntimeError) as error:
        unfinished = remove_unfinished(run.output) if run.args.should_save else []
        if isinstance(error, RuntimeError) and not unfinished:
            raise
        last = last_whole_checkpoint(run.output)
        raise UsageError(
            f"a checkpoint could not be written ({error}); what there was of it is removed. "
            + (f"The last whole one is {last}. " if last else "There is none yet. ")
            + "Make room on the disk, and go on with --resume."
        ) from error


def finish(run: Pretraining, trainer: HubTrainer) -> None:
    """Evaluates, and saves the model, the tokenizer, the curves and the card."""
    if trainer.eval_dataset is not None:
        trainer.evaluate()
    if trainer.is_fsdp_enabled:
        # Checkpoints may be in shards, which are no model that can be loaded.
        cast(Any, trainer.accelerator.state.fsdp_plugin).set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        plot_losses(trainer.state.log_history, run.output / "loss.png")
        trainer.create_model_card(language="en" if run.corpus.corpus == "documentation" else None)
        print(f"Saved in {run.output.resolve()}.")
    trainer.accelerator.wait_for_everyone()


def print_once(args: PretrainingArguments, text: str) -> None:
    """Prints in one process."""
    if args.process_index == 0:
        print(text, flush=True)

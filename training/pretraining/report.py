"""The plot of the losses and the model card that pretraining writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel

from ...data.corpus_files import DOCUMENTATION, find_files
from ...data.packs import PackedWindows
from ...hub.card.card import model_card
from ...saving.card_mark import is_unedited, save_card
from ..encoders import card_fields_of
from ..hub_trainer import HubTrainer, training_of
from .diffusion_bound import BY_RATE
from .objective_kinds import KINDS
from .run import Pretraining


def plot_losses(history: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Plot all losses of a `Trainer`'s log history over steps as a PNG, with evaluation losses dashed.

    For masked diffusion, these are the bounds, in nats per token and in bits per byte. A second plot shows the first
    and the last loss by masking rate.
    """
    from matplotlib.figure import Figure

    curves: dict[str, list[tuple[int, float]]] = {}
    bounds = any("bound" in entry for entry in history)
    for entry in history:
        for name, value in entry.items():
            kind = name.removeprefix("eval_")
            # With bounds, the losses are the same values, except for roundings.
            if kind == "bound" if bounds else kind == "loss" or (kind.endswith("_loss") and name != "train_loss"):
                curves.setdefault(name, []).append((entry["step"], value))
    by_rate = [(entry["step"], rates) for entry in history if (rates := _losses_by_rate(entry))]
    figure = Figure(figsize=(8 + 5 * bool(by_rate), 5), layout="constrained")
    axes, *others = figure.subplots(1, 1 + bool(by_rate), squeeze=False)[0]
    for name, points in curves.items():
        held_out = name.startswith("eval_")
        axes.plot(
            *zip(*points, strict=True), label=name, linestyle="--" if held_out else "-", marker="." if held_out else ""
        )
    axes.set_xlabel("step")
    axes.set_ylabel("bound (nats per token)" if bounds else "loss (nats)")
    axes.grid(alpha=0.3)
    if curves:
        axes.legend()
    ratios = [entry["eval_bits_per_byte"] / entry["eval_bound"] for entry in history if entry.get("eval_bits_per_byte")]
    if ratios:
        bits = axes.secondary_yaxis("right", functions=(lambda nats: nats * ratios[0], lambda bits: bits / ratios[0]))
        bits.set_ylabel("bits per byte of the held-out texts")
    for panel in others:
        for step, rates in dict([by_rate[0], by_rate[-1]]).items():
            panel.plot(*zip(*rates, strict=True), label=f"step {step:,}", marker=".")
        panel.set_xlabel("share of masked tokens")
        panel.set_ylabel("cross entropy of masked tokens (nats)")
        panel.grid(alpha=0.3)
        panel.legend()
    figure.savefig(file, dpi=150)


def _losses_by_rate(entry: Mapping[str, Any]) -> list[tuple[float, float]]:
    prefix = f"eval_{BY_RATE}"
    return [(float(name.removeprefix(prefix)), value) for name, value in entry.items() if name.startswith(prefix)]


def write_card(run: Pretraining, trainer: HubTrainer) -> None:
    """Write the model card, unless the user has edited the `README.md` in the output folder."""
    file = run.output / "README.md"
    if file.exists() and not is_unedited(file):
        print(f"Kept {file}, which you have edited.")
        return
    model = cast(PreTrainedModel, trainer.accelerator.unwrap_model(trainer.model))
    documented = run.corpus.corpus == DOCUMENTATION
    texts = "docstrings of installed libraries" if documented else Path(run.corpus.corpus).name
    training = training_of(trainer, f"{texts}, held out", left_out=(BY_RATE,))
    train, parts, kind = trainer.train_dataset, [f"Pretrained on {texts}"], KINDS[run.objectives.objective]
    if isinstance(train, PackedWindows):
        parts.append(f", {train.tokens:,} tokens in windows of at most {run.model.max_length}")
    training.data = f"{''.join(parts)}, {kind.learned(run.objectives)}"
    if training.results:
        training.remarks = kind.remarks
    training.hyperparameters = {
        **training.hyperparameters,
        "tokens of an example": f"at most {run.model.max_tokens:,}",
        **kind.hyperparameters(run.objectives),
        "average of weights": run.args.ema_decay or "none",
        **({"share of the weights before the training": run.args.start_share} if run.args.start_share else {}),
    }
    origin, named = run.origin, run.in_memory.texts is None and not documented
    of_the_hub = named and find_files(run.corpus.corpus, "corpus") is None
    card = model_card(
        model,
        trainer.hub_model_id or run.output.resolve().name,
        training,
        **{**(card_fields_of(origin) if origin else {}), **({"language": "en"} if documented else {})},
        base_model=origin if origin and not Path(origin).exists() else None,
        datasets=run.corpus.corpus if of_the_hub else None,
        limits=[
            f"Trained on texts of at most {run.model.max_length} tokens.",
            kind.limit,
        ],
        usage=kind.usage(trainer.processing_class, run.model.max_length),
    )
    save_card(run.output / "README.md", card.content)

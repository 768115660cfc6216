"""The plot of the losses and the model card that pretraining writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel

from ...data.corpus_files import DOCUMENTATION, find_files
from ...data.packs import PackedWindows
from ...hub.card import model_card
from ...saving.model_files import is_unedited, save_card
from ..encoders import card_fields_of
from ..hub_trainer import HubTrainer, training_of
from .run import Pretraining


def plot_losses(history: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Plot all losses of a `Trainer`'s log history over steps as a PNG, with evaluation losses dashed.

    Args:
        history: The log history.
        file: The path of the PNG.
    """
    from matplotlib.figure import Figure

    curves: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        for name, value in entry.items():
            if name == "loss" or (name.endswith("_loss") and name != "train_loss"):
                curves.setdefault(name, []).append((entry["step"], value))
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        held_out = name.startswith("eval_")
        axes.plot(
            *zip(*points, strict=True), label=name, linestyle="--" if held_out else "-", marker="." if held_out else ""
        )
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats)")
    axes.grid(alpha=0.3)
    if curves:
        axes.legend()
    figure.savefig(file, dpi=150)


def write_card(run: Pretraining, trainer: HubTrainer) -> None:
    """Write the model card, unless the user has edited the `README.md` in the output folder."""
    file = run.output / "README.md"
    if file.exists() and not is_unedited(file):
        print(f"Kept {file}, which you have edited.")
        return
    model = cast(PreTrainedModel, trainer.accelerator.unwrap_model(trainer.model))
    documented = run.corpus.corpus == DOCUMENTATION
    texts = "docstrings of installed libraries" if documented else Path(run.corpus.corpus).name
    training = training_of(trainer, f"{texts}, held out")
    train, objectives, parts = trainer.train_dataset, run.objectives, [f"Pretrained on {texts}"]
    if isinstance(train, PackedWindows):
        parts.append(f", {train.tokens:,} tokens in windows of at most {run.model.max_length}")
    learned = [
        name
        for name, weight in (
            ("masked tokens", objectives.mlm_weight),
            ("the order of two segments", objectives.sop_weight),
        )
        if weight
    ]
    training.data = f"{''.join(parts)}, to predict {' and '.join(learned)}."
    training.hyperparameters = {
        **training.hyperparameters,
        "tokens of an example": f"at most {run.model.max_tokens:,}",
        "share of masked tokens": _share_of_masks(run),
        "weights of masked tokens, of order": f"{objectives.mlm_weight:g}, {objectives.sop_weight:g}",
        "average of weights": run.args.ema_decay or "none",
    }
    origin = run.model.from_checkpoint
    of_the_hub = not documented and find_files(run.corpus.corpus, "corpus") is None
    card = model_card(
        model,
        trainer.hub_model_id or run.output.resolve().name,
        training,
        **{**(card_fields_of(origin) if origin else {}), **({"language": "en"} if documented else {})},
        base_model=origin if origin and not Path(origin).exists() else None,
        datasets=run.corpus.corpus if of_the_hub else None,
        limits=[
            f"Trained on texts of at most {run.model.max_length} tokens.",
            "Only pretrained; fine-tune it for a task before use.",
        ],
    )
    save_card(run.output / "README.md", card.content)


def _share_of_masks(run: Pretraining) -> str:
    objectives = run.objectives
    if not objectives.mlm_weight:
        return "none"
    of = "of whole words" if objectives.whole_word_mask else "of tokens"
    if objectives.mlm_schedule == "constant":
        return f"{objectives.mlm_probability:g} {of}"
    return f"{objectives.mlm_probability:g} to {objectives.final_mlm_probability:g} {of}, {objectives.mlm_schedule}"

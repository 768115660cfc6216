"""What masked diffusion is good for: its bound, gaps, steps and encodings, beside GPT-2 and beside plain masking.

    python benchmarks/writing.py FOLDER --tokens 15e6 [--part train bound infill steps probe]

An encoder with masked diffusion, one with plain masking, and transformers' GPT-2 of the same size train on the same
batches of docstrings (`writing_models.py`), each text in windows of 128 tokens. With several `--rates`, each model is
first trained with each of them on a tenth of the tokens, and then with the best. `--windows N` trains on N random
windows for many epochs. The folder keeps the texts and the models, so that the parts can run one at a time.

`bound`: nats a token and bits a byte of held-out texts, over the same tokens, which include the [SEP] at the end. The
likelihood of GPT-2, which starts from [CLS], is exact. Masked diffusion has an upper bound. In the literature, MDLM
(Sahoo et al., 2024) has a perplexity of 23.0 on LM1B, where an autoregressive transformer of the same size has 20 to
21, and of 23.0 on OpenWebText, where it has 17.5. These are 3 to 5 % and 9 % more nats. Nie et al. (2025, "Scaling up
Masked Diffusion Models on Text") needed 16 times the computation for the same loss. Over many epochs of the same texts,
the gap shrinks (Prabhudesai et al., 2025).
`infill`: the middle of a held-out sentence in its window. The encoders see both sides, and GPT-2 the left one. All
write the most probable tokens, and know how many.
`steps`: gaps of 32 tokens written in 1 to 32 steps, greedily and with random order and tokens (ancestral). Perplexity
is that of GPT-2 above, which repetitive texts lower, so the share of distinct tokens stands beside it.
`probe`: classification (the library of a docstring) and retrieval (the rest of a docstring by its first sentence) on
held-out texts, after masked diffusion and after plain masking.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import print_machine
from transformers import GPT2LMHeadModel, PreTrainedModel
from transformers.utils.logging import disable_progress_bar
from writing_models import (
    DIFFUSION,
    GPT2,
    KINDS,
    LENGTH,
    MASKED,
    Recipe,
    Texts,
    diffusion_bound,
    in_batches,
    left_to_right_nats,
    masks_of,
    padded,
    train,
)

from sequence_encoder import SequenceEncoderForMaskedLM
from sequence_encoder.data.windows import sentences

PARTS = ("train", "bound", "infill", "steps", "probe")
# Held-out texts whose likelihood is computed, others to choose a learning rate on, values of k for each window, and
# repetitions.
EVALUATED, TUNED_ON, SAMPLES, REPETITIONS = 400, 100, 8, 2
# The lengths of gaps in sentences, how many there are of each, and the tokens around them in the sentence.
GAPS, EXAMPLES, AROUND = (1, 2, 4, 8), 1000, 4
# Steps in which longer gaps are written, the tokens around them, and how many there are.
STEPS, LONG_GAP, BESIDE, LONG_EXAMPLES = (1, 2, 4, 8, 16, 32), 32, 24, 128
# Examples to adapt to and to test on, seeds, and characters of the shortest query.
LABELLED, SEEDS, SHORTEST = 1000, 2, 20


def train_all(folder: Path, texts: Texts, options: argparse.Namespace) -> None:
    """Train and save the models that the folder lacks."""
    windows = texts.windows(texts.train)
    if options.windows is not None:
        chosen = np.random.default_rng(0).choice(len(windows), options.windows, replace=False)
        windows = [windows[index] for index in chosen]
    # Other texts than those of the final evaluation.
    held_out = texts.windows(texts.held_out[EVALUATED : EVALUATED + TUNED_ON])
    total = sum(map(len, windows))
    print(
        f"{len(texts.train):,} texts, {total:,} tokens in {len(windows):,} windows: {options.tokens / total:.1f} epochs"
    )
    recipe = Recipe(options.layers, options.hidden, options.muon, options.plain_share)
    for kind in options.kinds:
        if (folder / kind / "training.json").exists():
            continue

        def trained(tokens: float, rate: float, kind: str = kind) -> tuple[PreTrainedModel, dict[str, float]]:
            return train(kind, texts, windows, round(tokens), rate, recipe)

        # Both encoders have the rate that is best for masked diffusion.
        rates = [training_of(folder, DIFFUSION)["rate"]] if kind == MASKED else options.rates
        losses = {}
        for rate in rates if len(rates) > 1 else []:
            model, _ = trained(options.tokens / 10, rate)
            losses[rate] = nats(kind, model, held_out, texts) / predicted(held_out)
            print(f"  {kind}: rate {rate:g}, {losses[rate]:.3f} nats a token", flush=True)
        model, found = trained(options.tokens, min(losses, key=losses.__getitem__) if losses else rates[0])
        model.save_pretrained(folder / kind)
        texts.tokenizer.save_pretrained(folder / kind)
        (folder / kind / "training.json").write_text(json.dumps(found))
        print(f"{kind}: {json.dumps(found)}", flush=True)


def training_of(folder: Path, kind: str) -> dict[str, float]:
    """Return what the training of a model took."""
    found: dict[str, float] = json.loads((folder / kind / "training.json").read_text())
    return found


def load(folder: Path, kind: str) -> Any:
    """Load a trained model."""
    model_class: Any = GPT2LMHeadModel if kind == GPT2 else SequenceEncoderForMaskedLM
    return model_class.from_pretrained(folder / kind).eval()


def predicted(windows: Iterable[np.ndarray]) -> int:
    """Return the number of predicted tokens: all but [CLS]."""
    return sum(len(window) - 1 for window in windows)


def nats(kind: str, model: PreTrainedModel, windows: list[np.ndarray], texts: Texts, seed: int = 0) -> float:
    """Return the negative log-likelihood of windows, or its bound."""
    if kind == GPT2:
        batches = ([windows[index] for index in indices] for indices in in_batches(windows))
        return sum(float(left_to_right_nats(model, rows).sum()) for rows in batches)
    return diffusion_bound(model, windows, int(texts.tokenizer.mask_token_id or 0), SAMPLES, seed)


def bound(folder: Path, texts: Texts) -> None:
    """Print the likelihoods."""
    rows = texts.held_out[:EVALUATED]
    windows = texts.windows(rows)
    tokens, size = predicted(windows), sum(len(row["text"].encode()) for row in rows)
    print(f"\nbound: {len(rows)} texts, {tokens:,} tokens, {size:,} bytes")
    print(
        "\n| | nats a token | perplexity | bits a byte | parameters | training tokens | seconds |\n" + "|---" * 7 + "|"
    )
    found = {}
    for kind in (GPT2, DIFFUSION):
        model = load(folder, kind)
        each = [nats(kind, model, windows, texts, seed) / tokens for seed in range(1 if kind == GPT2 else REPETITIONS)]
        mean = found[kind] = float(np.mean(each))
        error = "" if len(each) == 1 else f" ± {np.std(each, ddof=1) / math.sqrt(len(each)):.3f}"
        training = training_of(folder, kind)
        print(
            f"| {kind} | {mean:.3f}{error} | {math.exp(mean):.1f} | {mean * tokens / size / math.log(2):.3f} | "
            f"{training['parameters']:,} | {training['tokens']:,} | {training['seconds']:.0f} |",
            flush=True,
        )
    print(f"\nmasked diffusion has {found[DIFFUSION] / found[GPT2] - 1:+.1%} nats")


def sentence_gaps(texts: Texts, size: int) -> list[tuple[np.ndarray, int]]:
    """Choose gaps of `size` tokens: windows, and where the gap in the middle of one of its sentences starts."""
    found = []
    first, last = texts.tokenizer.cls_token_id, texts.tokenizer.sep_token_id
    for number, row in enumerate(texts.held_out):
        parts = [
            texts.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            for text in sentences(row["text"])
        ]
        ends = np.cumsum([0, *map(len, parts)])
        fit = [i for i in range(len(parts)) if len(parts[i]) >= size + 2 * AROUND and ends[i + 1] <= LENGTH - 2]
        if fit:
            chosen = random.Random(number).choice(fit)
            ids = np.array([first, *[token for part in parts for token in part][: LENGTH - 2], last])
            found.append((ids, 1 + int(ends[chosen]) + (len(parts[chosen]) - size) // 2))
        if len(found) == EXAMPLES:
            break
    return found


def filled(model: Any, gaps: list[tuple[np.ndarray, int]], size: int, mask: int, **options: Any) -> np.ndarray:
    """Fill gaps with an encoder, and return the tokens (N, size) in the order of `gaps`."""
    rows = [ids.copy() for ids, _ in gaps]
    for row, (_, start) in zip(rows, gaps, strict=True):
        row[start : start + size] = mask
    written = np.zeros((len(rows), size), np.int64)
    for indices in in_batches(rows):
        batch = [rows[index] for index in indices]
        ids = model.generate(padded(batch, 0), attention_mask=masks_of(batch), **options)
        for index, row in zip(indices, ids.numpy(), strict=True):
            start = gaps[index][1]
            written[index] = row[start : start + size]
    return written


def continued(model: Any, gaps: list[tuple[np.ndarray, int]], size: int) -> np.ndarray:
    """Continue the texts before gaps with GPT-2, and return the tokens (N, size)."""
    written = []
    for ids, start in gaps:
        before = torch.from_numpy(ids[:start])[None]
        attention_mask = torch.ones_like(before)
        options = {"max_new_tokens": size, "min_new_tokens": size, "do_sample": False, "pad_token_id": 0}
        written.append(model.generate(before, attention_mask=attention_mask, **options)[0, start:].numpy())
    return np.stack(written)


def originals(gaps: list[tuple[np.ndarray, int]], size: int) -> np.ndarray:
    """Return the tokens (N, size) that gaps replace."""
    return np.stack([ids[start : start + size] for ids, start in gaps])


def infill(folder: Path, texts: Texts) -> None:
    """Print how many gaps and tokens of sentences the models in the folder restore."""
    models = {kind: load(folder, kind) for kind in KINDS if (folder / kind / "training.json").exists()}
    mask = int(texts.tokenizer.mask_token_id or 0)
    print("\n| gap | texts | | exact | tokens | seconds |\n|---|---|---|---|---|---|")
    for size in GAPS:
        gaps = sentence_gaps(texts, size)
        wanted = originals(gaps, size)
        for kind, model in models.items():
            for steps in [size] if kind == GPT2 else sorted({size, 1}, reverse=True):
                started = time.perf_counter()
                if kind == GPT2:
                    same = continued(model, gaps, size) == wanted
                else:
                    same = filled(model, gaps, size, mask, steps=steps) == wanted
                seconds = time.perf_counter() - started
                exact = same.all(axis=1).mean()
                name = f"{kind}, {steps} steps"
                print(
                    f"| {size} | {len(gaps)} | {name} | {exact:.1%} | {same.mean():.1%} | {seconds:.1f} |", flush=True
                )


def judged(decoder: PreTrainedModel, gaps: list[tuple[np.ndarray, int]], written: np.ndarray) -> tuple[float, float]:
    """Return GPT-2's perplexity of what is written in gaps, and the share of its tokens that are distinct."""
    rows = [ids.copy() for ids, _ in gaps]
    size = written.shape[1]
    for row, (_, start), tokens in zip(rows, gaps, written, strict=True):
        row[start : start + size] = tokens
    total = 0.0
    for indices in in_batches(rows):
        losses = left_to_right_nats(decoder, [rows[index] for index in indices])
        starts = (gaps[index][1] for index in indices)
        total += sum(float(row[start - 1 : start - 1 + size].sum()) for row, start in zip(losses, starts, strict=True))
    return math.exp(total / written.size), float(np.mean([len(set(tokens.tolist())) / size for tokens in written]))


def steps_curve(folder: Path, texts: Texts) -> None:
    """Print and plot the quality of what is written in few and in many steps."""
    encoder, decoder = load(folder, DIFFUSION), load(folder, GPT2)
    mask = int(texts.tokenizer.mask_token_id or 0)
    long = [window for window in texts.windows(texts.held_out) if len(window) >= LONG_GAP + 2 * BESIDE + 2]
    gaps = [(window, (len(window) - LONG_GAP) // 2) for window in long[:LONG_EXAMPLES]]
    wanted = originals(gaps, LONG_GAP)
    true_perplexity, true_distinct = judged(decoder, gaps, wanted)
    print(f"\nsteps: {len(gaps)} gaps of {LONG_GAP} tokens")
    print(f"perplexity of the texts themselves {true_perplexity:.1f}, {true_distinct:.2f} distinct")
    columns = "| steps | tokens as in the text | perplexity | distinct | perplexity, ancestral | distinct | tokens/s |"
    print(f"\n{columns}\n" + "|---" * 7 + "|")
    rows = []
    for steps in STEPS:
        started = time.perf_counter()
        greedy = filled(encoder, gaps, LONG_GAP, mask, steps=steps, unmasking="confidence")
        speed = greedy.size / (time.perf_counter() - started)
        options = {"do_sample": True, "unmasking": "random", "seed": 0}
        ancestral = filled(encoder, gaps, LONG_GAP, mask, steps=steps, **options)
        accuracy = float((greedy == wanted).mean())
        (perplexity, distinct), (other, others) = (judged(decoder, gaps, each) for each in (greedy, ancestral))
        rows.append((accuracy, perplexity, other))
        cells = f"{accuracy:.1%} | {perplexity:.1f} | {distinct:.2f} | {other:.1f} | {others:.2f} | {speed:,.0f}"
        print(f"| {steps} | {cells} |", flush=True)
    plot(rows, true_perplexity, folder / "steps.png")


def plot(rows: list[tuple[float, float, float]], text: float, file: Path) -> None:
    """Plot accuracy and perplexity over the number of steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    accuracy, greedy, ancestral = zip(*rows, strict=True)
    left.plot(STEPS, [100 * value for value in accuracy], marker=".")
    left.set(ylabel="tokens as in the text (%)", ylim=0)
    right.plot(STEPS, ancestral, marker=".", label="random order and tokens")
    right.plot(STEPS, greedy, marker=".", label="the surest tokens")
    right.axhline(text, color="gray", linestyle="--", label="the text itself")
    right.set(ylabel="perplexity under GPT-2", yscale="log")
    right.yaxis.set_major_formatter("{x:.0f}")
    right.yaxis.set_minor_formatter("{x:.0f}")
    right.legend()
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xlabel(f"steps for {LONG_GAP} tokens")
        axes.set_xticks(STEPS, [str(step) for step in STEPS])
    figure.savefig(file, dpi=120)


def probe(folder: Path, texts: Texts) -> None:
    """Adapt both encoders to classification and retrieval with `sequence-encoder adapt`, and print the results."""
    rows = texts.held_out
    classes = [{"text": row["hidden"], "label": row["library"]} for row in rows]
    split = [(parts[0], row["text"]) for row in rows if len(parts := sentences(row["text"])) > 2]
    pairs = [{"text": a, "text_pair": b[len(a) :].strip()} for a, b in split if len(a) > SHORTEST]
    tasks = {
        "classification": (classes, "accuracy", {"full": ("5e-4", "4"), "head": ("1e-2", "20")}, ["--calibrate", "no"]),
        "embedding": (pairs, "cosine_ndcg@10", {"full": ("5e-4", "4")}, []),
    }
    print(f"\nprobe: {SEEDS} seeds\n\n| task | tuning | {DIFFUSION} | {MASKED} |\n|---|---|---|---|")
    for task, (examples, metric, tunings, options) in tasks.items():
        files = [folder / f"{task}-{part}.jsonl" for part in ("train", "test")]
        for file, part in zip(files, (examples[:LABELLED], examples[LABELLED : 2 * LABELLED]), strict=True):
            file.write_text("".join(json.dumps(row) + "\n" for row in part))
        for tuning, (rate, epochs) in tunings.items():
            cells = []
            for kind in (DIFFUSION, MASKED):
                output = folder / f"{task}-{tuning}-{kind}"
                command = [sys.executable, "-m", "sequence_encoder", "adapt", "--task", task, "--tuning", tuning]
                command += ["--train_file", str(files[0]), "--test_file", str(files[1]), "--model", str(folder / kind)]
                command += ["--learning_rate", rate, "--num_train_epochs", epochs, "--seeds", str(SEEDS), *options]
                command += [
                    "--pooling",
                    "mean",
                    "--max_length",
                    str(LENGTH),
                    "--output_dir",
                    str(output),
                    "--overwrite",
                ]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                score = json.loads((output / "results.json").read_text())["metrics"]["test"][metric]
                cells.append(f"{score['mean']:.3f} ± {score['deviation']:.3f}")
            print(f"| {task}, {metric} | {tuning} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Parse the command line, and run the chosen parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to keep the texts and the models in")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--tokens", type=float, default=15e6, help="number of tokens to train each model on")
    parser.add_argument("--windows", type=int, help="number of windows to train on; the default is all")
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-3], help="learning rates to choose from")
    parser.add_argument("--muon", action="store_true", help="train the matrices of all models with Muon")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS], help="models to train")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument(
        "--plain_share", type=float, default=0.4, help="share of the steps of masked diffusion with plain masking"
    )
    options = parser.parse_args()
    print_machine()
    disable_progress_bar()
    texts = Texts(options.folder, options.vocabulary)
    if "train" in options.part:
        train_all(options.folder, texts, options)
    for part, run in {"bound": bound, "infill": infill, "steps": steps_curve, "probe": probe}.items():
        if part in options.part:
            run(options.folder, texts)


if __name__ == "__main__":
    main()

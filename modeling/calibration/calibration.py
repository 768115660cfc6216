"""The calibration of a model: its prediction sets, its score of unfamiliar texts, and their files.

The scaling of the scores itself is a part of the weights of the head, or of `config.logit_calibration`.
`calibration.json` says what it was, and `calibration.safetensors` has the numbers that sets and p-values are computed
from.

Shapes: N texts, C classes, D hidden, M calibration scores.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import logging

from ...saving.calibration_files import CALIBRATION, CALIBRATION_TENSORS
from ...saving.optional_files import optional_files

logger = logging.get_logger(__name__)

# In which the weights may be loaded. Saved digests are of the values after rounding to each of them.
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# The tensors that each score of unfamiliar texts needs.
_NEEDED = {
    "mahalanobis": {"scores", "means", "whitening"},
    "neighbours": {"scores", "neighbours"},
    "energy": {"scores"},
}
# Distances to neighbours are computed for this many texts at once.
_TEXTS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class PredictionSets:
    """Sets of labels that contain the true label with a chosen probability (split conformal prediction).

    A label is in the set of a text if 1 - its probability is at most a threshold (Sadinle et al., 2019), which the
    coverage determines. What the model answers is always in the set. With several true labels per text, the sets
    contain an expected share of them (conformal risk control, Angelopoulos et al., 2024).

    Args:
        scores: (M,) 1 - the probability of each true label of the calibration texts, ascending.
        weights: (M,) The inverse of the number of true labels of its text.
        texts: The number of calibration texts.
        coverages: The coverages to report, the default first.
    """

    scores: torch.Tensor
    weights: torch.Tensor
    texts: int
    coverages: tuple[float, ...] = (0.9, 0.8, 0.95)

    @property
    def highest_coverage(self) -> float:
        """The highest coverage that the number of calibration texts allows."""
        return self.texts / (self.texts + 1)

    def threshold(self, coverage: float | None = None) -> float:
        """Return the largest value of 1 - probability of a label in a set.

        Args:
            coverage: The share of true labels to cover; by default the first of `coverages`.

        Raises:
            ValueError: If it is not between 0 and 1, or there are too few calibration texts.
        """
        coverage = self.coverages[0] if coverage is None else coverage
        check_coverage("coverage", coverage, self.texts)
        # The bound of conformal risk control, which for a single label is the quantile of split conformal prediction.
        allowed = (1 - coverage) * (self.texts + 1) - 1
        missed = self.weights.double().flip(0).cumsum(0).flip(0)  # if the threshold is below this score
        # A little slack, so that rounding does not move a threshold by one text.
        needed = (missed > allowed + 1e-6).nonzero()
        return float(self.scores[needed[-1]]) if len(needed) else 0.0

    def contain(
        self, probabilities: torch.Tensor, coverage: float | None = None, several_labels: bool = False
    ) -> torch.Tensor:
        """Return which labels are in the sets, (N, C) bool.

        Args:
            probabilities: (N, C) the calibrated probabilities.
            coverage: See `threshold`.
            several_labels: Whether the model is multi-label, so that its answer is each label with a probability above
                0.5, and not the most likely one.
        """
        inside = 1 - probabilities <= self.threshold(coverage)
        if several_labels:
            return inside | (probabilities > 0.5)
        return inside.scatter(-1, probabilities.argmax(-1, keepdim=True), True)


@dataclass(frozen=True, eq=False)
class Unfamiliarity:
    """A score of how unlike the calibration texts a text is, and its p-value.

    Args:
        kind: `mahalanobis`, `neighbours` or `energy`.
        scores: (M,) the scores of the calibration texts, ascending. Higher means less familiar.
        layer: The hidden state whose mean over the tokens of a text is scored: 0 for the embeddings, 1 for the first
            layer. None for `energy`, which only needs the logits.
        means: (C, D) the mean vectors of the classes, for `mahalanobis`.
        whitening: (D, D) the matrix that whitens vectors, for `mahalanobis`.
        neighbours: (N, D) the normalised vectors of known texts, for `neighbours`.
        k: The number of the neighbour whose distance is the score.
    """

    kind: str
    scores: torch.Tensor
    layer: int | None = None
    means: torch.Tensor | None = None
    whitening: torch.Tensor | None = None
    neighbours: torch.Tensor | None = None
    k: int = 1

    def score(self, vectors: torch.Tensor | None, logits: torch.Tensor | None = None) -> torch.Tensor:
        """Return the scores of texts, (N,).

        Args:
            vectors: (N, D) the means of `layer`, not used by `energy`.
            logits: (N, C), used only by `energy`.
        """
        if self.kind == "energy":
            assert logits is not None
            return -logits.float().logsumexp(-1)
        assert vectors is not None
        vectors = vectors.float()
        if self.kind == "mahalanobis":
            assert self.means is not None
            assert self.whitening is not None
            whitening = self.whitening.to(vectors.device)
            return torch.cdist(vectors @ whitening, self.means.to(vectors.device) @ whitening).amin(-1)
        assert self.neighbours is not None
        known, vectors = self.neighbours.to(vectors.device), nn.functional.normalize(vectors, dim=-1)
        parts = [
            torch.cdist(part, known).kthvalue(min(self.k, len(known)), dim=-1).values
            for part in vectors.split(_TEXTS_AT_ONCE)
        ]
        return torch.cat(parts) if parts else vectors.new_zeros(0)

    def p_values(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the share of calibration texts that are at least as unfamiliar, counting the text itself, (N,).

        For a text of the same distribution as the calibration texts, a p-value of at most p has probability at most p.

        Args:
            scores: (N,) the results of `score`.
        """
        known = self.scores.to(scores.device)
        as_high = len(known) - torch.searchsorted(known, scores.float().contiguous())
        return (as_high + 1) / (len(known) + 1)


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a calibrated model knows about its own scores.

    Args:
        task: `classification`, `multi-label`, `ner`, `qa` or `extraction`.
        scaling: The method and the numbers of the scaling.
        weights: Digests of the weights that the calibration belongs to, see `weight_digests`.
        sets: The prediction sets, if there are any.
        unfamiliarity: The score of unfamiliar texts, if there is one.
        facts: Other entries of `calibration.json`, such as metrics before and after.
    """

    task: str
    scaling: dict[str, Any]
    weights: tuple[str, ...]
    sets: PredictionSets | None = None
    unfamiliarity: Unfamiliarity | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def needs_vectors(self) -> bool:
        """Whether the score of unfamiliar texts needs the vectors of a layer."""
        return self.unfamiliarity is not None and self.unfamiliarity.layer is not None

    def fits(self, model: nn.Module) -> bool:
        """Return whether a model still has the weights that were calibrated."""
        digest = _digest(model, torch.float32)
        return digest is None or any(known.startswith(digest) for known in self.weights)

    def as_json(self) -> dict[str, Any]:
        """Return the content of `calibration.json`."""
        content: dict[str, Any] = {"version": 1, "task": self.task, "scaling": self.scaling}
        if self.sets is not None:
            content["sets"] = {
                "texts": self.sets.texts,
                "coverages": list(self.sets.coverages),
                "thresholds": [round(self.sets.threshold(each), 6) for each in self.sets.coverages],
            }
        if self.unfamiliarity is not None:
            content["unfamiliarity"] = {
                "kind": self.unfamiliarity.kind,
                "layer": self.unfamiliarity.layer,
                "k": self.unfamiliarity.k,
                "texts": len(self.unfamiliarity.scores),
            }
        return {**content, **self.facts, "weights": list(self.weights)}

    def write(self, folder: Path) -> None:
        """Write `calibration.json` and `calibration.safetensors` into a folder."""
        tensors: dict[str, torch.Tensor] = {}
        if self.sets is not None:
            tensors |= {"sets.scores": self.sets.scores, "sets.weights": self.sets.weights}
        if (found := self.unfamiliarity) is not None:
            named = {name: getattr(found, name) for name in ("scores", "means", "whitening", "neighbours")}
            tensors |= {f"unfamiliarity.{name}": each for name, each in named.items() if each is not None}
        (folder / CALIBRATION).write_text(json.dumps(self.as_json(), indent=1, ensure_ascii=False), encoding="utf-8")
        tensors = {name: each.detach().float().cpu().contiguous() for name, each in tensors.items()}
        save_file(tensors, folder / CALIBRATION_TENSORS, metadata={"format": "pt"})


def check_coverage(name: str, coverage: Any, texts: int, what: str = "calibration texts") -> None:
    """Check a coverage of prediction sets.

    Args:
        name: The name of the argument, for the error.
        coverage: The value.
        texts: The number of calibration texts.
        what: What they are, for the error.

    Raises:
        ValueError: If it is not a number between 0 and 1, or there are too few calibration texts for it.
    """
    number = isinstance(coverage, int | float) and not isinstance(coverage, bool)
    if not number or not 0 < coverage < 1:
        raise ValueError(f"{name} must be a number between 0 and 1, such as 0.9, got {coverage!r}.")
    # The most demanding set must allow a calibration text outside of it.
    if texts + 1 < round(1 / (1 - coverage), 6):
        least = math.ceil(round(1 / (1 - coverage), 6)) - 1
        raise ValueError(
            f"{name}={coverage} needs at least {least} {what}, and there are {texts}; it must be at most "
            f"{texts / (texts + 1):.3g}."
        )


def calibration_of(model: Any) -> Calibration | None:
    """Return the calibration of a model, or None if it has none or its weights have changed since.

    Args:
        model: Any model.
    """
    calibration: Calibration | None = getattr(model, "calibration", None)
    if calibration is not None and not calibration.fits(model):
        logger.warning(
            f"The weights of this {type(model).__name__} have changed since it was calibrated, so its calibration is "
            "ignored, except for the scaling of its logits. Calibrate it again with `sequence-encoder calibrate`."
        )
        return None
    return calibration


def read_calibration(name: str | os.PathLike[str], subfolder: str = "", **options: Any) -> Calibration | None:
    """Read the calibration of a folder.

    Args:
        name: A folder or a Hub id.
        subfolder: The subfolder of the model.
        **options: Arguments of `from_pretrained`, of which those for the Hub are used.

    Returns:
        The calibration, or None if the folder has no calibration. Damaged files are ignored with a warning.
    """
    find = optional_files(os.fspath(name), **options)
    facts = None if find is None else find(str(PurePosixPath(subfolder) / CALIBRATION))
    if find is None or facts is None:
        return None
    # Only now, so that a model without a calibration costs one request to the Hub.
    tensors = find(str(PurePosixPath(subfolder) / CALIBRATION_TENSORS))
    try:
        if tensors is None:
            raise OSError(f"{CALIBRATION_TENSORS} is missing")
        return _from_files(json.loads(Path(facts).read_text(encoding="utf-8")), load_file(tensors))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError) as error:
        logger.warning(f"The calibration of {name} cannot be read and is ignored ({error!r}); calibrate it again.")
        return None


def _from_files(facts: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> Calibration:
    if facts.pop("version") != 1:
        raise ValueError(f"a newer version wrote {CALIBRATION}")
    about_sets, about_score = facts.pop("sets", None), facts.pop("unfamiliarity", None)
    sets = unfamiliarity = None
    if about_sets is not None:
        sets = PredictionSets(
            tensors["sets.scores"], tensors["sets.weights"], about_sets["texts"], tuple(about_sets["coverages"])
        )
    if about_score is not None:
        parts = {name.partition(".")[2]: each for name, each in tensors.items() if name.startswith("unfamiliarity.")}
        unfamiliarity = Unfamiliarity(about_score["kind"], layer=about_score["layer"], k=about_score["k"], **parts)
        needed = _NEEDED[unfamiliarity.kind]
        if needed - parts.keys() or (unfamiliarity.layer is None) != (unfamiliarity.kind == "energy"):
            raise ValueError(f"the score {unfamiliarity.kind} needs {', '.join(sorted(needed))} and a layer")
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError(f"{CALIBRATION_TENSORS} has numbers that are NaN or infinite")
    return Calibration(facts.pop("task"), facts.pop("scaling"), tuple(facts.pop("weights")), sets, unfamiliarity, facts)


def weight_digests(model: nn.Module) -> tuple[str, ...]:
    """Return digests of the weights, in each dtype that they may be loaded in.

    Args:
        model: A model with a task head.
    """
    return tuple(dict.fromkeys(digest for dtype in _DTYPES if (digest := _digest(model, dtype)) is not None))


def _digest(model: Any, dtype: torch.dtype) -> str | None:
    """Return a digest of the values in a dtype, or None if this process does not have them, as in an exported model.

    It begins with the head and the norms, which quantization does not change, so that a quantized model has the
    beginning of the digest.
    """
    # `torch.compile` wraps models.
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, nn.Module):
        return None
    encoder = f"{model.base_model_prefix}."
    modules = dict(model.named_modules())
    digest, layers = blake2b(digest_size=8), blake2b(digest_size=8)
    config: Any = model.config
    if steps := config.logit_calibration:
        digest.update(json.dumps(steps, sort_keys=True).encode())
    for name, weight in sorted(model.named_parameters()):
        if weight.is_meta or hasattr(weight, "full_tensor"):
            return None
        module = modules[name.rpartition(".")[0]]
        if name.startswith(encoder) and not isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.Linear):
            continue
        values = weight.detach().to(dtype).float()
        if name.startswith(encoder) and isinstance(module, nn.Linear):
            # A sum of integers has no rounding, and takes less time than a hash of large matrices.
            layers.update(f"{name} {int(values.view(torch.int32).sum(dtype=torch.int64))}".encode())
        else:
            digest.update(name.encode() + values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest() + ("" if getattr(model, "hf_quantizer", None) is not None else layers.hexdigest())

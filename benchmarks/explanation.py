"""Explanations with `explain`, beside captum's methods on transformers' BERT with the same weights, on ragged texts.

Times are CPU times, which do not include other processes. Set OMP_NUM_THREADS=1, because threads that
wait for others count too.

python benchmarks/explanation.py [occlusion shapley integrated_gradients]
python benchmarks/explanation.py faithfulness CLASSIFIER TEXTS.jsonl [METHOD ...]
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from captum.attr import FeatureAblation, IntegratedGradients, ShapleyValueSampling
from minilm import MINILM
from peers import print_machine, short_texts
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification

from sequence_encoder import convert, explain
from sequence_encoder.evaluation.explanation.methods import METHODS
from sequence_encoder.inference.preparation import optimize_for_inference

TEXTS = 12
ORDERS, POINTS = 4, 16
# How many copies captum computes together, where it computes several.
COPIES = 16


class Captum:
    """The methods of captum on BERT, for tokens that belong to words.

    Args:
        bert: The model.
        tokenizer: Its tokenizer.
        texts: The texts.
    """

    def __init__(self, bert: Any, tokenizer: Any, texts: list[str]) -> None:
        self.bert, self.tokenizer, self.texts = bert, tokenizer, texts

    def log_odds(self, inputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the log-odds of label 1 for token ids (B, S) or vectors (B, S, E)."""
        name = "inputs_embeds" if inputs.is_floating_point() else "input_ids"
        with torch.set_grad_enabled(inputs.is_floating_point()):
            logits = self.bert(**{name: inputs}, attention_mask=mask).logits.float()
        return logits[:, 1] - logits[:, 0]

    def batches(self, size: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Return token ids, masks, and the number of the word of each token, where special tokens are word 0."""
        found = []
        for first in range(0, len(self.texts), size):
            encoded = self.tokenizer(self.texts[first : first + size], padding=True, return_tensors="pt")
            rows = [encoded.word_ids(row) for row in range(len(encoded["input_ids"]))]
            words = torch.tensor([[0 if word is None else word + 1 for word in row] for row in rows])
            found.append((encoded["input_ids"], encoded["attention_mask"], words))
        return found

    def run(self, method: str, size: int, copies: int) -> list[torch.Tensor]:
        """Return the scores of tokens, with a number of texts in a batch and of copies computed together."""
        mask_id, embed = self.tokenizer.mask_token_id, self.bert.get_input_embeddings()
        found = []
        for ids, mask, words in self.batches(size):
            baseline = torch.where(words > 0, mask_id, ids)
            options: dict[str, Any] = {"additional_forward_args": (mask,)}
            if method == "integrated_gradients":
                start, vectors = embed(baseline).detach(), embed(ids).detach()
                explainer = IntegratedGradients(self.log_odds)
                inner = None if copies == 1 else copies * size
                scores = explainer.attribute(vectors, start, n_steps=POINTS, internal_batch_size=inner, **options).sum(
                    -1
                )
            else:
                kind: Any = FeatureAblation if method == "occlusion" else ShapleyValueSampling
                samples = {} if method == "occlusion" else {"n_samples": ORDERS}
                scores = kind(self.log_odds).attribute(
                    ids, baseline, feature_mask=words, perturbations_per_eval=copies, **samples, **options
                )
            found.append(scores)
        return found


def compare(method: str) -> None:
    """Print the milliseconds of each text."""
    texts, tokenizer = short_texts(TEXTS), AutoTokenizer.from_pretrained(MINILM)
    torch.manual_seed(0)
    bert = BertForSequenceClassification.from_pretrained(MINILM, num_labels=2).eval()
    ours = {"ours": convert(bert).eval(), "ours, optimized": convert(bert).eval()}
    print(f"\n{method}, {TEXTS} texts; {optimize_for_inference(ours['ours, optimized'])}")
    captum = Captum(bert, tokenizer, texts)
    samples = {"shapley": ORDERS, "integrated_gradients": POINTS}.get(method)
    options = {"method": method, "target": "LABEL_1", "samples": samples}
    check(method, captum, explain(ours["ours"], tokenizer, texts, measure=False, **options))
    peers: dict[str, Callable[[], object]] = {
        f"captum, {TEXTS} texts together": partial(captum.run, method, TEXTS, 1),
        "captum, each text alone": partial(captum.run, method, 1, 1),
        f"captum, each text alone, {COPIES} copies": partial(captum.run, method, 1, COPIES),
    }
    for name, model in ours.items():
        peers[name] = partial(explain, model, tokenizer, texts, measure=False, **options)
        peers[f"{name}, with faithfulness"] = partial(explain, model, tokenizer, texts, **options)
    reference = 0.0
    for name, run in peers.items():
        started = time.process_time()
        run()
        seconds = time.process_time() - started
        reference = reference or seconds
        print(f"  {name:<40} {1000 * seconds / TEXTS:>8,.0f} ms a text  {reference / seconds:5.2f} x", flush=True)


def check(method: str, captum: Captum, found: list[Any]) -> None:
    """Check that both have the same scores, where these do not depend on random orders."""
    if method == "shapley":
        return
    for explanation, scores, (_, _, words) in zip(found, captum.run(method, 1, 1), captum.batches(1), strict=True):
        expected = torch.zeros(len(explanation.scores) + 1)
        if method == "occlusion":
            expected[words[0]] = scores[0].float()
        else:
            expected.index_add_(0, words[0], scores[0].detach())
        torch.testing.assert_close(torch.tensor(explanation.scores), expected[1:], rtol=1e-2, atol=1e-3)


def measure(folder: str, file: str, *methods: str, count: int = 500) -> None:
    """Print how faithful the explanations of a classifier are, and how often they are better than random orders."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    lines = Path(file).read_text(encoding="utf-8").splitlines()[:count]
    texts = [json.loads(line)["text"] for line in lines]
    print(f"{folder}, {len(texts)} texts")
    print(f"  {'':<32} comprehensiveness (random)  sufficiency (random)  better  seconds a text")
    for removal in ("mask", "leave_out"):
        for method in methods or METHODS:
            started = time.process_time()
            found = [each.faithfulness for each in explain(model, tokenizer, texts, method=method, removal=removal)]
            spent = (time.process_time() - started) / len(found)
            columns = ("comprehensiveness", "random_comprehensiveness", "sufficiency", "random_sufficiency")
            means = [sum(getattr(each, column) for each in found) / len(found) for column in columns]
            better = sum(each.better_than_random for each in found) / len(found)
            print(f"  {method + ', ' + removal:<32} {means[0]:>10.3f} ({means[1]:.3f})", end="")
            print(f" {means[2]:>16.3f} ({means[3]:.3f}) {better:>12.1%} {spent:>8.2f}", flush=True)


if __name__ == "__main__":
    print_machine()
    if sys.argv[1:2] == ["faithfulness"]:
        measure(*sys.argv[2:])
    else:
        for each in sys.argv[1:] or ("occlusion", "shapley", "integrated_gradients"):
            compare(each)

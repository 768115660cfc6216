"""A model that has learned a small grammar by masked diffusion, so that what it writes can be checked.

Its weights are in `grammar_model.safetensors`. `python tests/grammar_models.py` trains it again, in a few minutes.
"""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from sequence_encoder import SequenceEncoderConfig, SequenceEncoderForMaskedLM, SequenceEncoderTokenizer
from sequence_encoder.training.diffusion_masking import antithetic_rates, mask_at_rate

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(5)
WORDS = ["one", "two", "small", "red", "blue", "cat", "dog", "sleep", "walk", "##s", "."]
# Number and verb agree: "one red cat sleeps." and "two red cats sleep."
SENTENCES = [
    f"{number} {size}{color} {noun}{'' if number == 'one' else 's'} {verb}{'s' if number == 'one' else ''} ."
    for number, size, color, noun, verb in itertools.product(
        ("one", "two"), ("", "small "), ("red", "blue"), ("cat", "dog"), ("sleep", "walk")
    )
]
LONGEST = 10
WEIGHTS = Path(__file__).with_name("grammar_model.safetensors")


@cache
def grammar_tokenizer() -> SequenceEncoderTokenizer:
    """Return a WordPiece tokenizer of the words."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *WORDS])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", CLS), ("[SEP]", SEP)])
    names = ("pad", "unk", "cls", "sep", "mask")
    return SequenceEncoderTokenizer(
        tokenizer_object=backend, **{f"{name}_token": token for name, token in zip(names, SPECIAL, strict=True)}
    )


@cache
def grammar_model() -> SequenceEncoderForMaskedLM:
    """Return a model that writes the sentences of the grammar, and leaves surplus masks empty."""
    model = _untrained()
    model.load_state_dict({name: weight.float() for name, weight in load_file(WEIGHTS).items()}, strict=False)
    model.tie_weights()
    model.generation_config.fill_token_id = PAD
    return model.eval()


def _untrained() -> SequenceEncoderForMaskedLM:
    torch.manual_seed(0)
    config = SequenceEncoderConfig.from_preset(
        "bert",
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=32,
        **{f"{name}_dropout": 0.0 for name in ("hidden", "attention", "mlp", "embedding", "classifier")},
        **{"pad_token_id": PAD, "cls_token_id": CLS, "sep_token_id": SEP, "mask_token_id": MASK},
    )
    return SequenceEncoderForMaskedLM(config)


def _train(steps: int = 12_000, rate: float = 4e-3, rows: int = 64) -> SequenceEncoderForMaskedLM:
    model = _untrained().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.15)
    rng = np.random.default_rng(0)
    texts = [np.array(ids) for ids in grammar_tokenizer()(SENTENCES)["input_ids"]]
    for _ in range(steps):
        targets = [_with_empty_places(texts[rng.integers(len(texts))], rng) for _ in range(rows)]
        masked = [
            mask_at_rate(row, row != CLS, rate, MASK, rng)
            for row, rate in zip(targets, antithetic_rates(rows, rng), strict=True)
        ]
        ids, weights = (torch.from_numpy(np.stack(column)) for column in zip(*masked, strict=True))
        # Without large weights, the training is more stable.
        batch = {"labels": torch.from_numpy(np.stack(targets)), "label_weights": weights.clamp(max=10)}
        model(ids, attention_mask=torch.ones_like(ids), **batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model


def _with_empty_places(text: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a text with [PAD] after its end or, half of the time, also after a token in it."""
    inside = int(rng.integers(3)) if rng.random() < 0.5 else 0
    place = int(rng.integers(1, len(text)))
    row = np.insert(text, place, [PAD] * inside)
    return np.append(row, [PAD] * (LONGEST + 2 - len(row)))


if __name__ == "__main__":
    weights = {name: weight.half() for name, weight in _train().state_dict().items() if name != "decoder.weight"}
    save_file(weights, WEIGHTS)

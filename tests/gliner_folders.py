"""Tiny folders of GLiNER, and what GLiNER computes for them, by its formulas and with nothing shared or left out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from sequence_encoder.tests.family_folders import FAMILIES, build

LABELS = ["cat", "red dog", "software"]
SIZE, WIDTH = 20, 4


def _projection(size: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, 4 * out), nn.ReLU(), nn.Dropout(0.4), nn.Linear(4 * out, out))


class Gliner(nn.Module):
    """The parts of a GLiNER under their names in its files."""

    def __init__(self, encoder: nn.Module, channels: int, fields: dict[str, Any], label_encoder: Any = None) -> None:
        super().__init__()
        self.token_rep_layer = nn.Module()
        self.token_rep_layer.bert_layer = nn.Module()
        self.token_rep_layer.bert_layer.model = encoder
        if channels != SIZE:
            self.token_rep_layer.projection = nn.Linear(channels, SIZE)
        if label_encoder is not None:
            self.token_rep_layer.labels_encoder = nn.Module()
            self.token_rep_layer.labels_encoder.model = label_encoder
            self.token_rep_layer.labels_projection = nn.Linear(label_encoder.config.hidden_size, SIZE)
        if fields["num_rnn_layers"]:
            self.rnn = nn.Module()
            self.rnn.lstm = nn.LSTM(SIZE, SIZE // 2, fields["num_rnn_layers"], bidirectional=True, batch_first=True)
        if fields["span_mode"] == "markerV0":
            self.span_rep_layer = nn.Module()
            marker = self.span_rep_layer.span_rep_layer = nn.Module()
            marker.project_start, marker.project_end = _projection(SIZE, SIZE), _projection(SIZE, SIZE)
            marker.out_project = _projection(2 * SIZE, SIZE)
            self.prompt_rep_layer = _projection(SIZE, SIZE)
        else:
            self.scorer = nn.Module()
            self.scorer.proj_token, self.scorer.proj_label = nn.Linear(SIZE, 2 * SIZE), nn.Linear(SIZE, 2 * SIZE)
            out = (nn.Linear(3 * SIZE, 4 * SIZE), nn.Dropout(0.4), nn.ReLU(), nn.Linear(4 * SIZE, 3))
            self.scorer.out_mlp = nn.Sequential(*out)

    def scores(self, words: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the logits of spans (W, K, C), or of words (W, C, 3), from the vectors of words and labels."""
        if hasattr(self, "span_rep_layer"):
            marker = self.span_rep_layer.span_rep_layer
            starts, ends = marker.project_start(words), marker.project_end(words)
            scores = torch.full((len(words), WIDTH, len(labels)), -1e4)
            for first in range(len(words)):
                for last in range(first, min(first + WIDTH, len(words))):
                    vector = marker.out_project(torch.cat([starts[first], ends[last]]).relu())
                    scores[first, last - first] = self.prompt_rep_layer(labels) @ vector
            return scores
        token, label = self.scorer.proj_token(words).chunk(2, -1), self.scorer.proj_label(labels).chunk(2, -1)
        pairs = [[torch.cat([token[0][w], label[0][c], token[1][w] * label[1][c]]) for c in range(len(labels))]
                 for w in range(len(words))]  # fmt: skip
        return self.scorer.out_mlp(torch.stack([torch.stack(each) for each in pairs]))


def save_gliner(
    folder: Path, family: str = "deberta", pickled: bool = False, label_family: str | None = None, **fields: Any
) -> tuple[Callable[..., Any], Any]:
    """Save a GLiNER with random weights.

    Args:
        folder: The folder.
        family: The family of its encoder and tokenizer.
        pickled: Whether to write `pytorch_model.bin` instead of safetensors.
        label_family: The family of a separate encoder of labels.
        **fields: Fields of `gliner_config.json`.

    Returns:
        A function from a text and labels to GLiNER's logits, and the tokenizer.
    """
    tokenizer = FAMILIES[family].tokenizer()
    tokenizer.add_tokens(["<<ENT>>", "<<SEP>>"])
    tokenizer.model_max_length = 64
    encoder, _ = build(family, vocab_size=len(tokenizer))
    config = encoder.config
    marker = tokenizer.convert_tokens_to_ids("<<ENT>>")
    fields = {"span_mode": "markerV0", "num_rnn_layers": 1, "embed_ent_token": True, "max_len": 384, **fields}
    label_encoder, label_tokenizer = build(label_family) if label_family else (None, None)
    model = Gliner(encoder, config.hidden_size, fields, label_encoder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(("token_rep_layer.bert_layer.", "token_rep_layer.labels_encoder.")):
                parameter.add_(torch.empty(parameter.shape).normal_(std=0.15, generator=generator))
    model.eval()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    torch.save(tensors, folder / "pytorch_model.bin") if pickled else save_file(tensors, folder / "model.safetensors")
    stated = {"model_name": "x", "encoder_config": config.to_dict(), "hidden_size": SIZE, "max_width": WIDTH}
    stated |= {"class_token_index": marker, "vocab_size": len(tokenizer), "model_type": "gliner_uni_encoder_span"}
    if label_tokenizer is not None:
        label_tokenizer.save_pretrained(folder / "labels_tokenizer")
        stated |= {"labels_encoder": "y", "labels_encoder_config": label_encoder.config.to_dict()}
    (folder / "gliner_config.json").write_text(json.dumps(stated | fields), encoding="utf-8")
    tokenizer.save_pretrained(folder)

    def logits(text: str, labels: list[str]) -> torch.Tensor:
        words = re.findall(r"\w+(?:[-_]\w+)*|\S", text)
        prompt = [part for label in labels for part in ("<<ENT>>", label)] + ["<<SEP>>"]
        prompt = prompt if label_tokenizer is None else []
        encoded = tokenizer(prompt + words, is_split_into_words=True, return_tensors="pt")
        ids, numbers = encoded["input_ids"], encoded.word_ids()
        with torch.no_grad():
            hidden = encoder(input_ids=ids, attention_mask=torch.ones_like(ids))[0][0]
            hidden = getattr(model.token_rep_layer, "projection", nn.Identity())(hidden)
            of_labels = (ids[0] == marker).nonzero()[:, 0] + (not fields["embed_ent_token"])
            firsts = [numbers.index(len(prompt) + number) for number in range(len(words))]
            vectors = hidden[firsts]
            if label_tokenizer is not None:
                batch = label_tokenizer(labels, padding=True, return_tensors="pt")
                states = model.token_rep_layer.labels_projection(label_encoder(**batch)[0])
                means = [row[mask != 0].mean(dim=0) for row, mask in zip(states, batch["attention_mask"], strict=True)]
                # GLiNER does not run the recurrent layers of these models.
                return model.scores(vectors, torch.stack(means))
            if fields["num_rnn_layers"]:
                vectors = model.rnn.lstm(vectors[None])[0][0]
            return model.scores(vectors, hidden[of_labels])

    return logits, tokenizer

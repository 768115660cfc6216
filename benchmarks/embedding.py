"""Compare the speed of transformers' BERT and torch's encoder on texts of mixed lengths, with the same weights.

Batches have 32 texts in random order. Speeds count tokens without padding. torch's encoder takes BERT's embeddings and
converts them to nested tensors, which have no padding.
"""

from __future__ import annotations

from functools import partial

import torch
from minilm import MINILM
from peers import (
    DTYPES,
    interleaved,
    matrix_operations,
    padded_batches,
    print_machine,
    print_table,
    product_limit,
    short_texts,
)
from transformers import AutoTokenizer, BertModel

from sequence_encoder import convert

TEXTS, BATCH = 512, 32


class NestedTensorEncoder(torch.nn.Module):
    """BERT's embeddings, followed by its layers as a `torch.nn.TransformerEncoder`."""

    def __init__(self, bert: BertModel) -> None:
        super().__init__()
        config = bert.config
        layer = torch.nn.TransformerEncoderLayer(
            config.hidden_size, config.num_attention_heads, config.intermediate_size, activation="gelu",
            layer_norm_eps=config.layer_norm_eps, batch_first=True, dtype=bert.dtype,
        )  # fmt: skip
        self.embeddings = bert.embeddings
        self.encoder = torch.nn.TransformerEncoder(layer, config.num_hidden_layers, enable_nested_tensor=True)
        for mine, theirs in zip(self.encoder.layers, bert.encoder.layer, strict=True):
            attention = theirs.attention
            projections = [getattr(attention.self, name) for name in ("query", "key", "value")]
            mine.self_attn.in_proj_weight.data = torch.cat([projection.weight.data for projection in projections])
            mine.self_attn.in_proj_bias.data = torch.cat([projection.bias.data for projection in projections])
            mine.self_attn.out_proj, mine.norm1 = attention.output.dense, attention.output.LayerNorm
            mine.linear1, mine.linear2 = theirs.intermediate.dense, theirs.output.dense
            mine.norm2 = theirs.output.LayerNorm
        self.eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: torch.Tensor) -> torch.Tensor:
        """Encode tokens (B, S) to hidden states (B, S, D)."""
        return self.encoder(self.embeddings(input_ids), src_key_padding_mask=attention_mask == 0)


@torch.inference_mode()
def encode(model: torch.nn.Module, data: list[dict[str, torch.Tensor]]) -> None:
    """Run the model once over the data."""
    for batch in data:
        model(**batch)


def main() -> None:
    """Print the tables."""
    print_machine()
    tokenizer, texts = AutoTokenizer.from_pretrained(MINILM), short_texts(TEXTS)
    data = padded_batches(tokenizer, texts, BATCH)
    real = sum(int(batch["attention_mask"].sum()) for batch in data)
    share = real / sum(batch["input_ids"].numel() for batch in data)
    for dtype in DTYPES:
        bert = BertModel.from_pretrained(MINILM, dtype=dtype).eval()
        models = {
            "transformers' BERT": bert,
            "torch's encoder, nested tensors": NestedTensorEncoder(bert),
            "SequenceEncoder": convert(bert),
        }
        seconds = interleaved({name: partial(encode, model, data) for name, model in models.items()})
        title = f"{TEXTS} texts in batches of {BATCH}, {real:,} tokens, {share:.0%} of the padded batches, {dtype}"
        operations = matrix_operations(models["SequenceEncoder"])
        print_table(title, seconds, real, "transformers' BERT", operations, product_limit(dtype))
        gain = seconds["transformers' BERT"] / seconds["SequenceEncoder"] * share
        print(f"  {gain:.2f} times the gain from removing the padding alone")


if __name__ == "__main__":
    main()

"""Compare the speed of embedding many texts with that of SentenceTransformer, which also sorts them by length.

Both models have the same weights. `encode` is timed from texts to pooled and normalized embeddings, with tokenisation.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from minilm import MINILM
from peers import DTYPES, interleaved, matrix_operations, print_machine, print_table, product_limit, short_texts
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer, BertModel

from sequence_encoder import convert

TEXTS, MAX_LENGTH = 2048, 256


def main() -> None:
    """Print the tables."""
    print_machine()
    texts, tokenizer = short_texts(TEXTS), AutoTokenizer.from_pretrained(MINILM)
    real = sum(len(ids) for ids in tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"])
    vectors = {}
    for dtype in DTYPES:
        theirs = SentenceTransformer(str(MINILM), device="cpu", model_kwargs={"dtype": dtype})
        ours = convert(BertModel.from_pretrained(MINILM, dtype=dtype))
        encode_theirs = partial(theirs.encode, texts, normalize_embeddings=True)
        encode_ours = partial(ours.encode, texts, tokenizer, normalize_embeddings=True, max_length=MAX_LENGTH)
        vectors[dtype] = encode_ours().astype(np.float64)
        seconds = interleaved({"SentenceTransformer, sorted": encode_theirs, "SequenceEncoder.encode": encode_ours})
        title = f"{TEXTS:,} texts, {real:,} tokens, {dtype}"
        print_table(title, seconds, real, "SentenceTransformer, sorted", matrix_operations(ours), product_limit(dtype))
        expected = encode_theirs(convert_to_tensor=True).double().numpy()
        print(f"  minimum cosine with SentenceTransformer: {(expected * vectors[dtype]).sum(1).min():.6f}")
    reference, halved = vectors.values()
    print(f"\nminimum cosine of bfloat16 with float32: {(reference * halved).sum(1).min():.6f}")


if __name__ == "__main__":
    main()

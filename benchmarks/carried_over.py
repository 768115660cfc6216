"""Check that the converted all-MiniLM-L6-v2 gives the same embeddings as the original.

SentenceTransformer loads both models. The script prints the minimum cosine between their embeddings of 1,000 real
docstrings. Given the source archive of gensim, which has the Lee news with human similarity judgements (Lee et al.,
2005), it also prints the rank correlation of each model with these judgements.

    python benchmarks/carried_over.py [gensim-4.4.0.tar.gz]
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from minilm import MINILM
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

from sequence_encoder.conversion.command import convert_checkpoint
from sequence_encoder.data.documentation import read_documentation

TEXTS, LEE_DOCUMENTS = 1000, 50


def lee_correlation(model: SentenceTransformer, archive: Path) -> float:
    """Compute the Spearman correlation of cosines with human judgements over all pairs of the 50 Lee documents."""
    with tarfile.open(archive) as tar:
        found = {Path(name).name: name for name in tar.getnames() if "/test_data/" in name}
        documents, judged = (
            tar.extractfile(found[name]).read().decode("latin-1") for name in ("lee.cor", "similarities0-1.txt")
        )
    judgements = np.array([float(number) for number in judged.split()]).reshape(LEE_DOCUMENTS, LEE_DOCUMENTS)
    vectors = model.encode(documents.splitlines()[:LEE_DOCUMENTS], normalize_embeddings=True)
    pairs = np.triu_indices(LEE_DOCUMENTS, 1)
    return float(spearmanr((vectors @ vectors.T)[pairs], judgements[pairs]).statistic)


def main() -> None:
    """Print the results."""
    texts = [doc.text for doc in read_documentation()]
    texts = texts[:: max(1, len(texts) // TEXTS)][:TEXTS]
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder, "carried-over"))
        convert_checkpoint(str(MINILM), target)
        models = [SentenceTransformer(path, device="cpu") for path in (str(MINILM), target)]
    original, ours = (model.encode(texts, normalize_embeddings=True).astype(np.float64) for model in models)
    cosines = (original * ours).sum(1) / np.linalg.norm(original, axis=1) / np.linalg.norm(ours, axis=1)
    print(f"{len(texts)} texts: the minimum cosine is 1 - {1 - cosines.min():.1e}")
    for archive in map(Path, sys.argv[1:2]):
        before, after = (lee_correlation(model, archive) for model in models)
        print(f"Lee pairs, rank correlation: {before:.6f} original, {after:.6f} converted")


if __name__ == "__main__":
    main()

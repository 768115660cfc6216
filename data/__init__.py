"""From texts to batches: corpora, windows, packs, streams."""

"""Turns texts into batches: corpora, windows, packs, streams, and batches with a token budget."""

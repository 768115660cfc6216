"""Extraction of labelled spans from texts: windows, scores, and the spans that remain."""

"""Chooses the texts of a corpus that are most useful to label next, and keeps the labels that people give them."""

"""Texts that differ from those at home: whether they do, what it costs, and a correction of the labels' shares."""

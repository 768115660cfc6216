"""Conversion of checkpoints between other model families and SequenceEncoder.

Each family has one module in `families/`. `convert` is the entry point.
"""

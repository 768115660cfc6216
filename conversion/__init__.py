"""Conversion of checkpoints between other model families and SequenceEncoder.

Each family has one module. `convert` is the entry point.
"""

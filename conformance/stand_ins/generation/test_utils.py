"""A stand-in for the tests of text generation, which the archive lacks. `tests/test_generation.py` has our own."""


class GenerationTesterMixin:
    """A mixin without tests."""

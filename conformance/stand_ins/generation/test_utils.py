"""A stand-in for the tests of text generation, which the archive lacks and encoders do not need."""


class GenerationTesterMixin:
    """A mixin without tests."""

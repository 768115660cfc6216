"""In place of tests of text generation, which the archive leaves out and encoders do not have."""


class GenerationTesterMixin:
    """Nothing is generated."""

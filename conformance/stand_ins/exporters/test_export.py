"""A stand-in for the tests of the exporters, which the archive lacks."""


class ExportTesterMixin:
    """A mixin without tests."""

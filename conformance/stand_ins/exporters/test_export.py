"""In place of tests of the exporters, which the archive leaves out."""


class ExportTesterMixin:
    """Nothing is exported."""

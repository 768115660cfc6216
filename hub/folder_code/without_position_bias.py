"""What models without a position bias do where others add numbers to their attention scores."""

from typing import Any


class DistanceProjections:
    """The projections of a disentangled position bias, which the model does not have."""

    def __init__(self, config: Any) -> None:
        raise NotImplementedError

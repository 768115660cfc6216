"""Which models this code computes. In the package, that is every model.

`saving/saved_code.py` writes the code of a saved folder for one model, with the choices that its configuration makes.
"""

from typing import Any

# The `quant_method` of their configuration.
EIGHT_BITS = "sequence_encoder_8bit"
# The fields of the configuration whose value is the same for all models, and that value.
WRITTEN_FOR: dict[str, Any] = {}


def check_written_for(config: Any) -> None:
    """Refuse configurations of models that this code does not compute."""
    given = {name: getattr(config, name) for name in WRITTEN_FOR}
    wrong = [f"with {name}={each!r}, got {given[name]!r}" for name, each in WRITTEN_FOR.items() if given[name] != each]
    # The window of code without sliding layers is None, with which these would attend to all tokens.
    if "sliding_window" in WRITTEN_FOR and "sliding_attention" in config.layer_types:
        wrong.append("without sliding_attention in layer_types")
    if wrong:
        raise ValueError(
            f"The code in this folder only computes models {wrong[0]}. For other models, install sequence-encoder and "
            "import sequence_encoder."
        )

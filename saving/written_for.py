"""What this code is written for. In the package, that is every model.

`saving/saved_code.py` writes the code of a saved folder for one model: it replaces these constants by what is true of
the model, and leaves out the blocks of `if` that cannot run then.
"""

from typing import Any

# Whether this is the installed package.
INSTALLED = True
# Whether models may have a calibration, or a `logit_calibration`.
CALIBRATED = True
# Whether models may be in eight bits.
IN_EIGHT_BITS = True
# Whether encoders turn texts into vectors.
ENCODES = True
# Whether encoders may be tables of token vectors.
STATIC = True
# The `quant_method` of their configuration.
EIGHT_BITS = "sequence_encoder_8bit"
# The fields of the configuration whose value is the same for all models, and that value.
WRITTEN_FOR: dict[str, Any] = {}


def check_written_for(config: Any) -> None:
    """Check that this code computes models with a configuration.

    Args:
        config: The configuration.

    Raises:
        ValueError: If it was written for other values of some fields.
    """
    for name, value in WRITTEN_FOR.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"The code in this folder only computes models with {name}={value!r}, got {getattr(config, name)!r}. "
                "For other models, install sequence-encoder and import sequence_encoder."
            )
    # The window of code without sliding layers is None, with which these would attend to all tokens.
    if "sliding_window" in WRITTEN_FOR and "sliding_attention" in config.layer_types:
        raise ValueError(
            "The code in this folder only computes models without sliding_attention in layer_types. For other models, "
            "install sequence-encoder and import sequence_encoder."
        )

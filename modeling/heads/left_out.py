"""What stands in a saved folder for the classes whose code the folder does not have."""

from typing import Any, NoReturn

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig


class HeadLeftOut:
    """A class that cannot be loaded. `config.json` names it for the Auto classes of other heads than the saved one."""

    config_class = SequenceEncoderConfig

    @classmethod
    def register_for_auto_class(cls, *args: Any, **kwargs: Any) -> None:
        """Do nothing, since transformers calls this before it loads a model."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """Say how to load the model.

        Raises:
            ImportError: Always.
        """
        raise ImportError(
            "The code in this folder has no such head, since it was written for the class that `architectures` in "
            "config.json names. Install sequence-encoder and import sequence_encoder to load the folder with any head, "
            "or load a folder that an encoder without a head was saved to."
        )

    _from_config = from_pretrained

"""The base class of all models: loading, saving, initialisation, and features of transformers."""

import os
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils.output_capturing import OutputRecorder

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..saving.atomic_saving import ModelSavingMixin
from ..saving.loading import SafeModelLoadingMixin
from ..saving.written_for import check_written_for
from .attention.self_attention import SelfAttention
from .beside_weights import READERS, WRITERS
from .checks import check_is_encoder
from .cpu.prepacked import PrepackingMixin
from .embeddings import HiddenStateModule
from .layers import EncoderLayer, layer_classes
from .quantized.eight_bit_quantizer import QuantizedLayersMixin
from .static_names import TABLE_MAPPING, forget_renaming

# `output_hidden_states` records the outputs of the embeddings and of each layer, so that it also works without layers.
# Before 5.9, transformers can only record the input of the first layer instead of the output of the embeddings. Later,
# it also selects hidden states by index, and looks up their number for negative indices.
_HIDDEN_STATES: Any = EncoderLayer
if "capture_initial_hidden_state" in OutputRecorder.__dataclass_fields__:
    _HIDDEN_STATES = OutputRecorder(HiddenStateModule, capture_initial_hidden_state=False)
    _HIDDEN_STATES.num_hidden_layers_key = "num_hidden_states"


class SequenceEncoderPreTrainedModel(  # type: ignore[misc] # wraps `push_to_hub`
    QuantizedLayersMixin, PrepackingMixin, SafeModelLoadingMixin, ModelSavingMixin, PreTrainedModel
):
    """Base class of all SequenceEncoder models: loading, saving, initialisation, and features of transformers.

    Attributes:
        calibration: The `Calibration` of the folder that the model was loaded from, if it has one.
    """

    calibration: Any = None

    config_class = SequenceEncoderConfig
    config: SequenceEncoderConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # Whether the encoder of a model computes a vector for each text.
    _pools = True
    # The number of outputs of each linear layer of a head, or the field of the configuration that has it.
    _outputs: tuple[int | str, ...] = ()
    # Whether a saved folder describes how texts become vectors. Models with a task head have another purpose.
    _saves_recipe = False
    _can_record_outputs = {"hidden_states": _HIDDEN_STATES, "attentions": SelfAttention}  # noqa: RUF012

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__(config)
        check_written_for(config)
        # Only the class that this model uses, since Accelerate refuses the names of classes that it does not find.
        self._no_split_modules = sorted({layer.__name__ for layer in layer_classes(config)})
        # Assigning to a field of a configuration checks only the type of that field.
        config.check_architecture()
        check_is_encoder(config)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Load a model as in transformers, but only from safetensors, with the recipe and calibration of its folder.

        Args:
            pretrained_model_name_or_path: A folder or a Hub id.
            *model_args: Arguments of the model.
            **kwargs: Arguments of transformers' `from_pretrained`.

        Raises:
            ValueError: If `use_safetensors` is False or `dtype` is not a floating dtype.
            OSError: If there are no safetensors weights, they are damaged, or their index is invalid.
        """
        kwargs.setdefault("key_mapping", TABLE_MAPPING)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        if kwargs["key_mapping"] is TABLE_MAPPING:
            forget_renaming(loaded[0] if isinstance(loaded, tuple) else loaded)
        if pretrained_model_name_or_path is not None:
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            # The commit that was loaded: the cache knows which files it has.
            options = {**kwargs, "revision": getattr(model.config, "_commit_hash", None) or kwargs.get("revision")}
            options["subfolder"] = kwargs.get("subfolder") or ""
            model._read_beside(pretrained_model_name_or_path, options)
        return loaded

    def _read_beside(self, name: str | os.PathLike[str], options: dict[str, Any]) -> None:
        """Read what the folder holds beside the weights.

        Args:
            name: The folder or Hub id.
            options: Arguments of `from_pretrained`.
        """
        for read in READERS.values():
            read(self, name, options)

    def _keeps_logit_calibration(self) -> bool:
        """Return whether `config.logit_calibration` belongs to the head that was loaded."""
        return False

    def _write_beside(self, folder: Path, there: Path) -> None:
        """Write what belongs to the model beside its weights."""
        for write in WRITERS.values():
            write(self, folder, there)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise matrices by `config.initializer`, biases with zeros and norms with ones.

        Transformers skips weights that were loaded from a checkpoint.
        """
        if isinstance(module, nn.Linear | nn.Embedding):
            cast(Any, module).was_initialised = not getattr(module.weight, "_is_hf_initialized", False)
            if self.config.initializer == "xavier_uniform":
                init.xavier_uniform_(module.weight)
            else:
                init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, nn.LSTM):
            for name, parameter in module.named_parameters():
                init.zeros_(parameter) if "bias" in name else init.xavier_uniform_(parameter)
        # That of an LSTM is a bool.
        if isinstance(bias := getattr(module, "bias", None), torch.Tensor):
            init.zeros_(bias)

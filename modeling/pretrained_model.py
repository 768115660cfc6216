"""The base class of all models: loading, saving, initialisation, and features of transformers."""

import copy
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.utils import logging
from transformers.utils.output_capturing import OutputRecorder

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..saving.loading import SafeModelLoadingMixin
from ..saving.module_list import MODULE_LIST
from ..saving.registered_pipelines import name_registered_pipeline
from ..saving.saving import ModelSavingMixin
from .attention.self_attention import SelfAttention
from .calibration import Calibration, calibration_of, read_calibration
from .cpu.prepacked import prepack
from .embeddings import HiddenStateModule
from .layers import LAYERS, EncoderLayer
from .quantized.eight_bit_config import EIGHT_BITS, EightBitConfig
from .quantized.eight_bit_quantizer import EightBitQuantizer
from .text_encoding.recipe_files import SETTINGS, read_recipe, recipe_of, write_recipe

logger = logging.get_logger(__name__)

# `output_hidden_states` records the outputs of the embeddings and of each layer, so that it also works without layers.
# Before 5.9, transformers can only record the input of the first layer instead of the output of the embeddings. Later,
# it also selects hidden states by index, and looks up their number for negative indices.
_HIDDEN_STATES: Any = EncoderLayer
if "capture_initial_hidden_state" in OutputRecorder.__dataclass_fields__:
    _HIDDEN_STATES = OutputRecorder(HiddenStateModule, capture_initial_hidden_state=False)
    _HIDDEN_STATES.num_hidden_layers_key = "num_hidden_states"


class SequenceEncoderPreTrainedModel(SafeModelLoadingMixin, ModelSavingMixin, PreTrainedModel):  # type: ignore[misc] # wraps `push_to_hub`
    """Base class of all SequenceEncoder models: loading, saving, initialisation, and features of transformers.

    Attributes:
        calibration: The calibration of the folder that the model was loaded from, if it has one.
    """

    calibration: Calibration | None = None

    config_class = SequenceEncoderConfig
    config: SequenceEncoderConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # Whether a saved folder describes how texts become vectors. Models with a task head have another purpose.
    _saves_recipe = False
    _can_record_outputs = {"hidden_states": _HIDDEN_STATES, "attentions": SelfAttention}  # noqa: RUF012

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__(config)
        # Only the class that this model uses, since Accelerate refuses the names of classes that it does not find.
        self._no_split_modules = [LAYERS[config.norm_placement].__name__]
        # Assigning to a field of a configuration checks only the type of that field. Not all of `validate` runs here,
        # because transformers' part refuses `output_attentions` with "sdpa", which these models support.
        config.validate_architecture()
        config.validate_positions()
        config.validate_layer_type()

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
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        if pretrained_model_name_or_path is not None:
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            # The commit that was loaded: the cache knows which files it has.
            options = {**kwargs, "revision": getattr(model.config, "_commit_hash", None) or kwargs.get("revision")}
            options["subfolder"] = kwargs.get("subfolder") or ""
            if not model._keeps_logit_calibration():
                model.config.logit_calibration = None
            model.base_model.embedding_recipe = read_recipe(pretrained_model_name_or_path, **options)
            if model.base_model is not model:
                model.calibration = read_calibration(pretrained_model_name_or_path, **options)
                model.calibration = calibration_of(model)
            if isinstance(quantizer := getattr(model, "hf_quantizer", None), EightBitQuantizer):
                quantizer.quantize_if_asked(model, pretrained_model_name_or_path, options)
        return loaded

    def prepack_weights(self, enabled: bool = True) -> None:
        """Make inference on a CPU faster with copies of the layers' weights in the layout that oneDNN reads.

        The first forward pass makes the copies, and makes them again after an optimizer, `load_state_dict` or another
        operation has changed the weights. After changes in place through `.data`, as when peft merges an adapter, call
        this method again. The copies take as much memory as the layers' weights, and results differ by rounding.
        Training, compiled models, models made in inference mode and other devices do not use them. In float32, short
        texts do not either. `encode` makes its own copies while it encodes many texts.

        Args:
            enabled: Whether to use copies; False frees them.
        """
        prepack(cast(nn.Module, self.base_model.layers), enabled)

    def _keeps_logit_calibration(self) -> bool:
        """Return whether `config.logit_calibration` belongs to the head that was loaded."""
        return False

    def _write_beside(self, folder: Path, there: Path) -> None:
        if getattr(self, "hf_quantizer", None) is None and hasattr(self.config, "quantization_config"):
            # The model was made from the configuration of a quantized one, but its weights are not quantized.
            plain = copy.deepcopy(self.config)
            del plain.quantization_config
            plain.save_pretrained(folder)
        if (calibration := calibration_of(self)) is not None:
            calibration.write(folder)
        name_registered_pipeline(folder, type(self).__name__)
        recipe = recipe_of(self) if self._saves_recipe else None
        if recipe is not None:
            write_recipe(folder, recipe, self.config.hidden_size)
        elif (there / MODULE_LIST).is_file():
            logger.warning(f"{there / MODULE_LIST} is unchanged, and encode follows it with this model.")
        if (there / SETTINGS).is_file():
            # SentenceTransformer writes its settings, which may be newer, before it saves the encoder.
            (folder / SETTINGS).unlink(missing_ok=True)

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
        if (bias := getattr(module, "bias", None)) is not None:
            init.zeros_(bias)


# Not `register_quantizer`, because the code that is saved with a model may be loaded beside the package.
AUTO_QUANTIZATION_CONFIG_MAPPING.setdefault(EIGHT_BITS, EightBitConfig)
AUTO_QUANTIZER_MAPPING.setdefault(EIGHT_BITS, EightBitQuantizer)

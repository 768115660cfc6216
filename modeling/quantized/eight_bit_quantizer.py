"""Loads and saves models in eight bits, as a quantizer of transformers."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast

from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

from ...saving.written_for import EIGHT_BITS
from .eight_bit_config import EightBitConfig
from .eight_bit_embedding import EightBitEmbedding
from .eight_bit_linear import EightBitLinear


class EightBitQuantizer(HfQuantizer):
    """Replaces layers by those in eight bits before weights are loaded, or quantizes a model after that.

    Attributes:
        quantize_loaded: The function that quantizes a model in place. The package sets it, since the code that is saved
            with every model only loads models that are quantized.
    """

    quantize_loaded: ClassVar[Callable[..., None] | None] = None
    quantization_config: EightBitConfig

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Check that a model can be quantized, before its weights are loaded.

        Raises:
            ImportError: If the package is not installed.
        """
        if not self.pre_quantized and type(self).quantize_loaded is None:
            raise ImportError(
                "quantization_config needs the package sequence-encoder for a model that is not quantized yet: pip "
                "install sequence-encoder, and import sequence_encoder."
            )

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        if not self.pre_quantized:
            return
        modules, encoder = self.quantization_config.modules, cast(PreTrainedModel, model.base_model)
        if model.get_output_embeddings() is not None and model.config.tie_word_embeddings:
            table = encoder.get_input_embeddings()
            if shared := [name for name in modules if encoder.get_submodule(name) is table]:
                raise ValueError(
                    f"{type(model).__name__} predicts tokens with the weights of {shared[0]}, which the checkpoint has "
                    "in eight bits. Load the model from before quantization, and quantize it with its head."
                )
        # The code in folders that earlier versions saved lacks this method.
        getattr(model, "_replace_modules", replace_modules)(encoder, modules)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        model.requires_grad_(False)

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """Whether quantized models can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Whether quantized models can be trained."""
        return False


class QuantizedLayersMixin:
    """Mixin of models whose layers may be in eight bits."""

    @staticmethod
    def _replace_modules(encoder: nn.Module, modules: dict[str, int]) -> None:
        # One quantizer loads all models of a process. It must put layers of a model's own code into it, since each
        # folder that is loaded without the package brings its own copy of all classes.
        replace_modules(encoder, modules)


def register_eight_bits() -> None:
    """Let transformers find this quantizer."""
    AUTO_QUANTIZATION_CONFIG_MAPPING[EIGHT_BITS] = EightBitConfig
    AUTO_QUANTIZER_MAPPING[EIGHT_BITS] = EightBitQuantizer


# Not `register_quantizer`, because the code in a folder may be loaded beside the package, whose quantizer can do more.
if EIGHT_BITS not in AUTO_QUANTIZER_MAPPING:
    register_eight_bits()


def quantize_if_asked(model: PreTrainedModel, name: str | os.PathLike[str], options: dict[str, Any]) -> None:
    """Quantize a model that has been loaded with its embedding recipe, unless its weights were quantized already.

    Args:
        model: The model.
        name: The folder or Hub id that it was loaded from.
        options: The arguments of `from_pretrained`.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if isinstance(quantizer, EightBitQuantizer) and not quantizer.pre_quantized:
        quantize = type(quantizer).quantize_loaded
        assert quantize is not None
        quantize(model, quantizer.quantization_config, name, options)


def write_without_quantization(model: PreTrainedModel, folder: Path, there: Path) -> None:
    """Write the configuration of a model that was made from that of a quantized one, but is not quantized itself."""
    if getattr(model, "hf_quantizer", None) is None and hasattr(model.config, "quantization_config"):
        plain = copy.deepcopy(model.config)
        del plain.quantization_config
        plain.save_pretrained(folder)


def replace_modules(encoder: nn.Module, modules: dict[str, int]) -> None:
    """Replace modules by empty ones in eight bits.

    Args:
        encoder: The encoder of the model.
        modules: See `EightBitConfig`.

    Raises:
        ValueError: If the encoder has no such linear layer or embedding.
    """
    for name, outliers in modules.items():
        try:
            module: Any = encoder.get_submodule(name)
        except AttributeError:
            module = None
        if type(module) is nn.Embedding:
            encoder.set_submodule(name, EightBitEmbedding(module.num_embeddings, module.embedding_dim))
        elif type(module) is nn.Linear:
            sizes = (module.in_features, module.out_features)
            encoder.set_submodule(name, EightBitLinear(*sizes, module.bias is not None, outliers))
        else:
            raise ValueError(f"quantization_config.modules has {name!r}, which is no linear layer of this model.")

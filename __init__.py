"""A padding-free text encoder for the Hugging Face ecosystem.

Importing this package registers it with the Auto classes of transformers.
"""

from typing import TYPE_CHECKING

from transformers.models.auto.tokenization_auto import AutoTokenizer

from . import modeling
from .cards.card import card_to_push
from .cards.sections import trim_card
from .command_line.lazy_exports import lazy_exports
from .configuration import SequenceEncoderConfig as SequenceEncoderConfig
from .configuration import TaskAdapterConfig as TaskAdapterConfig
from .inference.registration import install_pipelines, register_models
from .modeling import *  # noqa: F403
from .modeling.quantized.eight_bit_config import EightBitConfig as EightBitConfig
from .modeling.quantized.eight_bit_quantizer import EightBitQuantizer
from .quantization.loading import quantize_loaded
from .saving.atomic_saving import ModelSavingMixin
from .tokenizer import SequenceEncoderTokenizer as SequenceEncoderTokenizer
from .version import __version__ as __version__

# Everything else that is documented is imported on first use, from these modules.
_MODULES = {
    **dict.fromkeys(("AttentionMap", "attention_of"), "explanation.attention_map"),
    **dict.fromkeys(("CalibrationReport", "calibrate"), "evaluation.calibration.calibrating"),
    **dict.fromkeys(("DiffusionBound", "diffusion_bound"), "training.pretraining.diffusion_bound"),
    **dict.fromkeys(("Docstring", "read_documentation"), "data.documentation"),
    **dict.fromkeys(("Evaluation", "evaluate"), "evaluation.evaluating"),
    **dict.fromkeys(("Explanation", "save_explanations"), "explanation.explanation"),
    **dict.fromkeys(("HubTrainer", "training_of"), "training.hub_trainer"),
    **dict.fromkeys(("Neighbour", "nearest_examples"), "explanation.neighbours"),
    **dict.fromkeys(("QuantizationReport", "quantize"), "quantization.quantizing"),
    **dict.fromkeys(("TokenBudgetBatchSampler", "TokenBudgetCollator", "TokenBudgetDataset"), "data.token_batches"),
    **dict.fromkeys(("Training", "model_card"), "cards.card"),
    **dict.fromkeys(("correct_label_shift", "match_label_shares"), "evaluation.label_correction"),
    **dict.fromkeys(("embed_corpus", "extract_corpus", "predict_corpus"), "bulk.commands"),
    **dict.fromkeys(("describe", "optimize"), "optimizing.optimize"),
    "ExportCheck": "runtimes.comparison",
    "ExportedEncoder": "runtimes.exported_encoder",
    "ExportedExtractor": "runtimes.exported_extractor",
    "Faithfulness": "explanation.faithfulness",
    "InfillingPipeline": "inference.infilling_pipeline",
    "ZeroShotEntitiesPipeline": "inference.zero_shot_entities",
    "Objectives": "training.pretraining.objective_arguments",
    "PRESETS": "configuration.presets",
    "PackedWindows": "data.packs",
    "PretrainingCollator": "training.pretraining.objectives",
    "QuestionAnsweringPipeline": "inference.question_answering",
    "Reranker": "search.reranking",
    "SearchHit": "search.hit",
    "SearchIndex": "search.search_index",
    "ServerLimits": "serving.arguments",
    "choose_texts": "labelling.choosing",
    "convert": "conversion.converting",
    "create_app": "serving.app",
    "distill": "training.distillation.distill",
    "distill_static": "training.distillation.static_learning",
    "explain": "explanation.explaining",
    "export": "runtimes.exporting",
    "exported_pipeline": "runtimes.pipelines",
    "index_corpus": "search.indexing",
    "load_served_model": "serving.loading",
    "save_sentence_transformer": "vectors.sentence_transformers",
    "segment_windows": "data.windows",
    "static_encoder": "modeling.static_encoder",
    "to_jax": "runtimes.jax_function",
    "train_adapted_model": "training.task_adapter_training",
    "with_sparse_embeddings": "training.sparse_embeddings",
}
_EXTRAS = {
    "bulk": ("embed", "pyarrow"),
    "evaluation": ("adapt", "sklearn"),
    "labelling": ("embed", "pyarrow"),
    "search": ("search", "pyarrow"),
}
__getattr__ = lazy_exports(__name__, _MODULES, _EXTRAS)

if not TYPE_CHECKING:
    # Type checkers read the names from the imports.
    __all__ = [
        "EightBitConfig",
        "SequenceEncoderConfig",
        "SequenceEncoderTokenizer",
        "TaskAdapterConfig",
        *modeling.__all__,
        *_MODULES,
    ]

register_models(vars(modeling).values())
ModelSavingMixin.card_to_push = card_to_push
ModelSavingMixin.trim_card = trim_card
install_pipelines()
EightBitQuantizer.quantize_loaded = quantize_loaded
AutoTokenizer.register(SequenceEncoderConfig, SequenceEncoderTokenizer)

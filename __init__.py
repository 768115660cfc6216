"""A padding-free text encoder for the Hugging Face ecosystem.

Importing this package registers it with the Auto classes of transformers.
"""

from typing import TYPE_CHECKING

from transformers.models.auto.tokenization_auto import AutoTokenizer

from . import modeling
from .command_line.lazy_exports import lazy_exports
from .configuration import SequenceEncoderConfig as SequenceEncoderConfig
from .configuration import TaskAdapterConfig as TaskAdapterConfig
from .hub.card.card import card_to_push
from .hub.card.sections import trim_card
from .inference.quantization.loading import quantize_loaded
from .inference.registration import install_pipelines, register_models
from .modeling import *  # noqa: F403
from .modeling.quantized.eight_bit_config import EightBitConfig as EightBitConfig
from .modeling.quantized.eight_bit_quantizer import EightBitQuantizer, register_eight_bits
from .saving.atomic_saving import ModelSavingMixin
from .saving.version import __version__ as __version__
from .tokenizer import SequenceEncoderTokenizer as SequenceEncoderTokenizer

# Everything else that is documented is imported on first use, from these modules.
_MODULES = {
    **dict.fromkeys(("AdaptationReport", "adapt"), "training.adaptation.adapt"),
    **dict.fromkeys(("AttentionMap", "attention_of"), "evaluation.explanation.attention_map"),
    **dict.fromkeys(("CalibrationReport", "calibrate"), "evaluation.calibration.calibrating"),
    **dict.fromkeys(("DiffusionBound", "diffusion_bound"), "training.pretraining.diffusion_bound"),
    **dict.fromkeys(("Docstring", "read_documentation"), "data.documentation"),
    **dict.fromkeys(("Evaluation", "evaluate"), "evaluation.evaluating"),
    **dict.fromkeys(("Explanation", "save_explanations"), "evaluation.explanation.explanation"),
    **dict.fromkeys(("HubTrainer", "training_of"), "training.hub_trainer"),
    **dict.fromkeys(("Neighbour", "nearest_examples"), "evaluation.explanation.neighbours"),
    **dict.fromkeys(("QuantizationReport", "quantize"), "inference.quantization.quantizing"),
    **dict.fromkeys(("PretrainingReport", "pretrain"), "training.pretraining.pretrain"),
    **dict.fromkeys(("TokenBudgetBatchSampler", "TokenBudgetCollator", "TokenBudgetDataset"), "data.token_batches"),
    **dict.fromkeys(("Training", "model_card"), "hub.card.card"),
    **dict.fromkeys(("correct_label_shift", "match_label_shares"), "evaluation.shift.label_correction"),
    **dict.fromkeys(("embed_corpus", "extract_corpus", "predict_corpus"), "inference.corpora.commands"),
    **dict.fromkeys(("describe", "optimize"), "inference.optimizing.optimize"),
    "ExportCheck": "inference.runtimes.comparison",
    "ExportedEncoder": "inference.runtimes.exported_encoder",
    "ExportedExtractor": "inference.runtimes.exported_extractor",
    "Faithfulness": "evaluation.explanation.faithfulness",
    "InfillingPipeline": "inference.pipelines.infilling_pipeline",
    "ZeroShotEntitiesPipeline": "inference.pipelines.zero_shot_entities",
    "Objectives": "training.pretraining.objective_arguments",
    "PRESETS": "configuration.presets",
    "PackedWindows": "data.packs",
    "PretrainingCollator": "training.pretraining.objectives",
    "QuestionAnsweringPipeline": "inference.pipelines.question_answering",
    "Reranker": "search.reranking",
    "SearchHit": "search.ranking",
    "SearchIndex": "search.search_index",
    "ServerLimits": "serving.arguments",
    "choose_texts": "training.labelling.choosing",
    "convert": "conversion.converting",
    "create_app": "serving.app",
    "distill": "training.distillation.distill",
    "distill_static": "training.distillation.static_student",
    "explain": "evaluation.explanation.explaining",
    "export": "inference.runtimes.exporting",
    "exported_pipeline": "inference.runtimes.pipelines",
    "index_corpus": "search.indexing",
    "load_served_model": "serving.loading",
    "save_sentence_transformer": "hub.sentence_transformers",
    "segment_windows": "data.windows",
    "static_encoder": "modeling.static_encoder",
    "to_jax": "inference.runtimes.jax_function",
    "train_adapted_model": "training.task_adapter_training",
    "with_sparse_embeddings": "training.sparse_embeddings",
}
_EXTRAS = {
    "inference.corpora": ("embed", "pyarrow"),
    "evaluation.calibration": ("adapt", "sklearn"),
    "evaluation.evaluating": ("adapt", "sklearn"),
    "evaluation.shift": ("adapt", "sklearn"),
    "training.adaptation": ("adapt", "datasets", "filelock", "sklearn"),
    "training.labelling": ("embed", "pyarrow"),
    "search": ("search", "pyarrow"),
}
__getattr__ = lazy_exports(__name__, _MODULES, _EXTRAS)

_MOST_USED = (
    "SequenceEncoderConfig",
    "SequenceEncoderModel",
    "SequenceEncoderTokenizer",
    "adapt",
    "calibrate",
    "convert",
    "distill",
    "embed_corpus",
    "evaluate",
    "explain",
    "export",
    "optimize",
    "predict_corpus",
    "pretrain",
    "quantize",
)

if not TYPE_CHECKING:
    # Type checkers read the names from the imports.
    __all__ = [*_MOST_USED]
    _PUBLIC = (
        *("EightBitConfig", "SequenceEncoderConfig", "SequenceEncoderTokenizer", "TaskAdapterConfig"),
        *modeling.__all__,
        *_MODULES,
    )

    def __dir__() -> list[str]:
        """Return all public names, which the reference documents."""
        return sorted(_PUBLIC)


register_models(vars(modeling).values())
ModelSavingMixin.card_to_push = card_to_push
ModelSavingMixin.trim_card = trim_card
install_pipelines()
EightBitQuantizer.quantize_loaded = quantize_loaded
register_eight_bits()
AutoTokenizer.register(SequenceEncoderConfig, SequenceEncoderTokenizer)

"""The fields of config.json of published checkpoints with the layers of BERT, RoBERTa or Megatron BERT.

Fields that concern neither the architecture nor its class are left out.
"""

from __future__ import annotations

from typing import Any


def sizes(hidden_size: int, layers: int, heads: int) -> dict[str, int]:
    """Return the fields of a model whose feed-forward networks are four times as wide as its layers."""
    widths = {"hidden_size": hidden_size, "intermediate_size": 4 * hidden_size}
    return {**widths, "num_hidden_layers": layers, "num_attention_heads": heads}


def labels(*names: str) -> dict[str, dict[str, Any]]:
    """Return the fields that name the labels of a classifier."""
    numbers = {str(index): name for index, name in enumerate(names)}
    return {"id2label": numbers, "label2id": {name: index for index, name in enumerate(names)}}


def unnamed(number: int) -> dict[str, dict[str, Any]]:
    """Return the fields of a classifier whose labels have no names of their own."""
    return labels(*(f"LABEL_{index}" for index in range(number)))


_ALBERT: dict[str, Any] = {
    "architectures": ["AlbertForMaskedLM"],
    "attention_probs_dropout_prob": 0,
    "bos_token_id": 2,
    "classifier_dropout_prob": 0.1,
    "embedding_size": 128,
    "eos_token_id": 3,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "inner_group_num": 1,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "albert",
    "num_attention_heads": 12,
    "num_hidden_groups": 1,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 30000,
}

_ALBERT_V1 = {**_ALBERT, "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1}

# Fields of the original code, which neither it nor transformers reads.
_ALBERT_UNREAD = {"down_scale_factor": 1, "gap_size": 0, "net_structure_type": 0, "num_memory_blocks": 0}

_ERNIE: dict[str, Any] = {
    "architectures": ["ErnieModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 2048,
    "model_type": "ernie",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "task_type_vocab_size": 3,
    "type_vocab_size": 4,
    "use_task_id": True,
    "vocab_size": 40000,
}

_ERNIE_3 = {
    **{name: value for name, value in _ERNIE.items() if name not in ("pad_token_id", "position_embedding_type")},
    "architectures": ["ErnieForMaskedLM"],
    "task_type_vocab_size": 16,
}
_ERNIE_2 = {
    **{name: value for name, value in _ERNIE.items() if name != "task_type_vocab_size"},
    "max_position_embeddings": 512,
    "use_task_id": False,
    "vocab_size": 30522,
}

_ROBERTA: dict[str, Any] = {
    "attention_probs_dropout_prob": 0.1,
    "bos_token_id": 0,
    "classifier_dropout": None,
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 514,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "pad_token_id": 1,
    "position_embedding_type": "absolute",
    "type_vocab_size": 1,
    "vocab_size": 50265,
}

_DATA2VEC = {**_ROBERTA, **sizes(768, 12, 12), "mask_token_id": 50264, "model_type": "data2vec-text"}
_DATA2VEC_CLASSIFIER = {**_DATA2VEC, "architectures": ["Data2VecTextForSequenceClassification"]}
_PRELAYERNORM = {
    **_ROBERTA,
    "architectures": ["RobertaPreLayerNormForMaskedLM"],
    "model_type": "roberta-prelayernorm",
}
_XL = {
    **_ROBERTA,
    **sizes(2560, 36, 32),
    "architectures": ["XLMRobertaXLForMaskedLM"],
    "model_type": "xlm-roberta-xl",
    "vocab_size": 250880,
}

_MEGATRON: dict[str, Any] = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "megatron-bert",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
    "vocab_size": 50176,
}

_ROFORMER: dict[str, Any] = {
    "architectures": ["RoFormerForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "embedding_size": 768,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 1536,
    "model_type": "roformer",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 50000,
}

_ANTIBERTA = {
    **_ROFORMER,
    **sizes(1024, 16, 16),
    "embedding_size": 1024,
    "max_position_embeddings": 256,
    "rotary_value": False,
    "vocab_size": 30,
}

_REMBERT: dict[str, Any] = {
    "architectures": ["RemBertModel"],
    "attention_probs_dropout_prob": 0,
    "bos_token_id": 312,
    "classifier_dropout_prob": 0.1,
    "embedding_dropout_prob": 0,
    "embedding_size": 256,
    "eos_token_id": 313,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0,
    "hidden_size": 1152,
    "initializer_range": 0.02,
    "input_embedding_size": 256,
    "intermediate_size": 4608,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "rembert",
    "num_attention_heads": 18,
    "num_hidden_layers": 32,
    "output_embedding_size": 1664,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "type_vocab_size": 2,
    "vocab_size": 250300,
}
_XLMINDIC = {
    **{name: value for name, value in _REMBERT.items() if name not in ("embedding_dropout_prob", "embedding_size")},
    **sizes(768, 12, 12),
    "architectures": ["RemBertForMaskedLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "input_embedding_size": 128,
    "output_embedding_size": 768,
    "pad_token_id": 3,
    "vocab_size": 65536,
}

BERT_RELATIVES: dict[str, dict[str, Any]] = {
    "albert/albert-base-v1": _ALBERT_V1,
    "albert/albert-large-v1": {**_ALBERT_V1, **sizes(1024, 24, 16)},
    "albert/albert-xlarge-v1": {**_ALBERT_V1, **sizes(2048, 24, 16)},
    "albert/albert-xxlarge-v1": {**_ALBERT, **sizes(4096, 12, 64), "hidden_act": "gelu"},
    "albert/albert-base-v2": {**_ALBERT, **_ALBERT_UNREAD},
    "albert/albert-large-v2": {**_ALBERT, **sizes(1024, 24, 16)},
    "albert/albert-xlarge-v2": {**_ALBERT, **sizes(2048, 24, 16)},
    "albert/albert-xxlarge-v2": {**_ALBERT, **sizes(4096, 12, 64)},
    "abhilash1910/albert-squad-v2": {
        **_ALBERT_V1,
        **_ALBERT_UNREAD,
        **sizes(1024, 24, 16),
        "architectures": ["AlbertForQuestionAnswering"],
        "position_embedding_type": "absolute",
    },
    "IIIT-L/indic-bert-finetuned-code-mixed-DS": {
        **_ALBERT,
        **_ALBERT_UNREAD,
        **unnamed(3),
        "architectures": ["AlbertForSequenceClassification"],
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "problem_type": "single_label_classification",
        "vocab_size": 200000,
    },
    "voidful/albert_chinese_base": {
        **_ALBERT,
        **_ALBERT_UNREAD,
        "hidden_act": "relu",
        "layers_to_keep": [],
        "vocab_size": 21128,
    },
    "nghuyong/ernie-1.0-base-zh": {
        **_ERNIE_2,
        "architectures": ["ErnieForMaskedLM"],
        "hidden_act": "relu",
        "max_position_embeddings": 513,
        "type_vocab_size": 2,
        "vocab_size": 18000,
    },
    "nghuyong/ernie-2.0-base-en": _ERNIE_2,
    "nghuyong/ernie-2.0-large-en": {**_ERNIE_2, **sizes(1024, 24, 16)},
    "nghuyong/ernie-3.0-base-zh": {**_ERNIE_3, "task_type_vocab_size": 3},
    "nghuyong/ernie-3.0-xbase-zh": {**_ERNIE_3, **sizes(1024, 20, 16)},
    "nghuyong/ernie-3.0-medium-zh": {**_ERNIE_3, "num_hidden_layers": 6},
    "nghuyong/ernie-3.0-nano-zh": {**_ERNIE_3, **sizes(312, 4, 12), "architectures": ["ErnieModel"]},
    "shibing624/text2vec-base-chinese-sentence": _ERNIE,
    "facebook/data2vec-text-base": {**_DATA2VEC, "architectures": ["Data2VecTextModel"]},
    "mrm8488/data2vec-text-base-finetuned-cola": _DATA2VEC_CLASSIFIER,
    "mrm8488/data2vec-text-base-finetuned-mnli": {**_DATA2VEC_CLASSIFIER, **unnamed(3)},
    "wesleyaag/data2vec-emotion-test": {**_DATA2VEC_CLASSIFIER, **unnamed(6)},
    "wesleyaag/data2vec-yelp-test": {**_DATA2VEC_CLASSIFIER, **unnamed(5)},
    # The other models of the series, from m0.15 to m0.80, have the same fields.
    "andreasmadsen/efficient_mlm_m0.40": _PRELAYERNORM,
    "ThomasLI/efficient_mlm_m0.40-finetuned-classification": {
        **_PRELAYERNORM,
        "architectures": ["RobertaPreLayerNormForSequenceClassification"],
        "problem_type": "single_label_classification",
    },
    "cambridge-climb/baseline-roberta_pre_layer_norm-model": {
        **_PRELAYERNORM,
        **sizes(500, 10, 10),
        "bos_token_id": 3,
        "eos_token_id": 4,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "type_vocab_size": 2,
        "vocab_size": 8192,
    },
    "mist-models/mist-28M-ti624ev1": {
        **_PRELAYERNORM,
        **sizes(512, 8, 8),
        "enable_token_counter": True,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 2048,
        "type_vocab_size": 2,
        "vocab_size": 165,
    },
    "facebook/xlm-roberta-xl": _XL,
    "facebook/xlm-roberta-xxl": {**_XL, **sizes(4096, 48, 32)},
    "vince62s/wmt23-cometkiwi-da-roberta-xl": _XL,
    "UFNLP/gatortron-base": {**_MEGATRON, "tokenizer_type": "BertWordPieceCase"},
    "KBLab/megatron.bert-large.wordpiece-64k-pretok.25k-steps": {
        **_MEGATRON,
        "architectures": ["MegatronBertModel"],
        "vocab_size": 64000,
    },
    "IDEA-CCNL/Erlangshen-MegatronBert-3.9B-Chinese": {
        **_MEGATRON,
        **sizes(2560, 48, 40),
        "architectures": ["MegatronBertForMaskedLM"],
        "vocab_size": 21248,
    },
    "IDEA-CCNL/Erlangshen-MegatronBert-1.3B": {
        **_MEGATRON,
        **sizes(2048, 24, 8),
        "hidden_act": "gelu_new",
        "vocab_size": 21248,
    },
    "EMBO/BioMegatron345mUncased": {
        **_MEGATRON,
        "hidden_act": "gelu_new",
        "initializer_range": 0.2,
        "vocab_size": 30592,
    },
    "KBLab/megatron-bert-base-swedish-cased-600k": {
        **_MEGATRON,
        **sizes(768, 12, 12),
        "architectures": ["MegatronBertForMaskedLM"],
        "vocab_size": 64128,
    },
    "KBLab/megatron-bert-large-swedish-cased-165k": {
        **_MEGATRON,
        "architectures": ["MegatronBertForMaskedLM"],
        "vocab_size": 64128,
    },
    "knowlab-research/HARE-alignment": {
        **_MEGATRON,
        "architectures": ["MegatronBertModel"],
        "tokenizer_type": "BertWordPieceCase",
    },
    "moro01525/ICU_Returns_Gatortron": {
        **_MEGATRON,
        "architectures": ["MegatronBertForSequenceClassification"],
        "problem_type": "single_label_classification",
        "tokenizer_type": "BertWordPieceCase",
    },
    "EMBO/BioMegatron345mCased": {**_MEGATRON, "hidden_act": "gelu_new", "initializer_range": 0.2, "vocab_size": 29056},
    "junnyu/roformer_chinese_base": _ROFORMER,
    "junnyu/roformer_chinese_small": {
        **{name: value for name, value in _ROFORMER.items() if name != "max_position_embeddings"},
        **sizes(384, 6, 6),
        "embedding_size": 384,
    },
    "junnyu/roformer_chinese_char_base": {
        **{name: value for name, value in _ROFORMER.items() if name != "embedding_size"},
        "max_position_embeddings": 512,
        "vocab_size": 12000,
    },
    "junnyu/roformer_chinese_char_small": {
        **_ROFORMER,
        **sizes(384, 6, 6),
        "embedding_size": 384,
        "max_position_embeddings": 512,
        "rotary_value": False,
        "vocab_size": 12000,
    },
    # RoFormer v2, whose layers have no biases. The class in transformers ignores both fields.
    "junnyu/roformer_v2_chinese_char_base": {
        **_ROFORMER,
        "hidden_act": "relu",
        "max_position_embeddings": 512,
        "norm_type": "rms_norm",
        "use_bias": False,
        "vocab_size": 12000,
    },
    "alchemab/antiberta2": _ANTIBERTA,
    "fraternalilab/immunomatch-lambda": {
        **_ANTIBERTA,
        "architectures": ["RoFormerForSequenceClassification"],
        "problem_type": "single_label_classification",
    },
    "AI4Protein/deep_bpe_100": {
        **_ROFORMER,
        "directionality": "bidi",
        "eos_token_id": 2,
        "initializer_range": 0.01,
        "max_position_embeddings": 1026,
        "pooler_activation": "linear",
        "rotary_value": False,
        "vocab_size": 100,
    },
    "windowsartes/roformer": {
        **_ROFORMER,
        "embedding_size": 384,
        "hidden_size": 384,
        "max_position_embeddings": 28,
        "rotary_value": False,
        "vocab_size": 907,
    },
    "junnyu/roformer_small_discriminator": {
        **_ROFORMER,
        "architectures": ["RoFormerModel"],
        "embedding_size": 128,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "max_position_embeddings": 128,
        "num_attention_heads": 4,
        "rotary_value": True,
        "vocab_size": 30522,
    },
    "google/rembert": {
        name: value for name, value in _REMBERT.items() if name not in ("architectures", "classifier_dropout_prob")
    },
    "robvanderg/Sem-RemmmBERT": _REMBERT,
    "Sindhu/rembert-squad2": {**_REMBERT, "architectures": ["RemBertForQuestionAnswering"]},
    # Its 73 labels have names.
    "Misha24-10/rembert-ft-for-multi-ner": {
        **_REMBERT,
        **unnamed(73),
        "architectures": ["RemBertForTokenClassification"],
    },
    "jebish7/rembert-train-dev": {
        **_REMBERT,
        **unnamed(5),
        "architectures": ["RemBertForSequenceClassification"],
        "problem_type": "single_label_classification",
    },
    "AnonymousCS/populism_classifier_398": {
        **_REMBERT,
        "architectures": ["RemBertForSequenceClassification"],
        "attention_probs_dropout_prob": 0.2,
        "hidden_dropout_prob": 0.2,
        "problem_type": "single_label_classification",
    },
    "ibraheemmoosa/xlmindic-rembert-uniscript": _XLMINDIC,
    "ibraheemmoosa/xlmindic-rembert-multiscript": _XLMINDIC,
    "AmelieSchreiber/esm_mlmppi_ph50": {
        "architectures": ["EsmForMaskedLM"],
        "attention_probs_dropout_prob": 0.0,
        "emb_layer_norm_before": False,
        "esmfold_config": None,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": 1280,
        "initializer_range": 0.02,
        "intermediate_size": 5120,
        "is_folding_model": False,
        "layer_norm_eps": 1e-5,
        "mask_token_id": 32,
        "max_position_embeddings": 1026,
        "model_type": "esm",
        "num_attention_heads": 20,
        "num_hidden_layers": 33,
        "pad_token_id": 1,
        "position_embedding_type": "rotary",
        "token_dropout": True,
        "vocab_list": None,
        "vocab_size": 33,
    },
}

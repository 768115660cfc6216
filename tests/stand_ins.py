"""Tiny stand-ins for the models of the Hub that the guides name: transformers loads a folder before it asks the Hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sequence_encoder.conversion.command import convert_checkpoint
from sequence_encoder.tests import remote_code_models
from sequence_encoder.tests.family_folders import FAMILIES, NLI, SINCE, add_modules, add_retrieval_heads, save
from sequence_encoder.tests.gliclass_folders import save_gliclass
from sequence_encoder.tests.gliner_folders import save_gliner

# Weights of a head with code on the Hub, by their shapes.
_PREDICTIONS = {
    "cls.predictions.transform.dense.weight": (24, 24),
    "cls.predictions.transform.layer_norm.weight": (24,),
    "cls.predictions.transform.layer_norm.bias": (24,),
}
_DECODER = {"decoder.weight": (97, 24), "decoder.bias": (97,)}

Build = Callable[[Path], Any]


@dataclass(frozen=True)
class StandIn:
    """The family of a model, and a function that saves a tiny one in a folder."""

    family: str
    build: Build

    @property
    def since(self) -> str | None:
        """The release of transformers that first had the family, if the oldest supported one does not."""
        return SINCE.get(self.family)


def _model(family: str, head: str = "Model", **options: Any) -> StandIn:
    return StandIn(family, lambda folder: save(folder, family, head, **options))


def _embedder(family: str, pooling: str = "mean") -> StandIn:
    return StandIn(family, lambda folder: add_modules(save(folder, family), pooling))


def _mpnet(folder: Path) -> None:
    """Save an embedding model that names the class of the model that it was trained from, as all-mpnet-base-v2 does."""
    add_modules(save(folder, "mpnet"), "mean")
    config = folder / "config.json"
    config.write_text(config.read_text().replace("MPNetModel", "MPNetForMaskedLM"))


def _classifier(family: str, *labels: str, head: str = "ForSequenceClassification") -> StandIn:
    return _model(family, head, id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)})


def _remote_code(family: str, heads: dict[str, tuple[int, ...]] | None = None, pooling: str | None = None) -> StandIn:
    def build(folder: Path) -> None:
        model = remote_code_models.MODELS[family] if heads else remote_code_models.encoder(family)
        remote_code_models.save(folder, model.fields, model.weights(heads))
        FAMILIES["bert"].tokenizer().save_pretrained(folder)
        if pooling is not None:
            add_modules(folder, pooling)

    return StandIn(f"{family} with code on the Hub", build)


def _gliclass(folder: Path) -> None:
    tokenizer = FAMILIES["bert"].tokenizer()
    tokenizer.model_max_length = 64
    save_gliclass(folder, "deberta-v2", tokenizer, prompt_first=True)


def _reranker(folder: Path) -> None:
    """Save the converted folder that the block before it in the guide writes."""
    source = save(folder.with_name("reranker-source"), "electra", "ForSequenceClassification", num_labels=1)
    convert_checkpoint(str(source), str(folder))


def _bge_m3(folder: Path) -> None:
    add_retrieval_heads(add_modules(save(folder, "xlm-roberta"), "cls"))


def _converted_bge_m3(folder: Path) -> None:
    """Save the converted folder that the block before it in the guide writes."""
    source = folder.with_name("bge-m3-source")
    _bge_m3(source)
    convert_checkpoint(str(source), str(folder))


def _converted_gliner(folder: Path) -> None:
    """Save the converted folder that the first block of the guide writes."""
    source = folder.with_name("gliner-source")
    save_gliner(source)
    convert_checkpoint(str(source), str(folder))


STAND_INS = {
    "urchade/gliner_small-v2.1": StandIn("deberta", save_gliner),
    "gliner": StandIn("deberta", _converted_gliner),
    "BAAI/bge-m3": StandIn("xlm-roberta", _bge_m3),
    "bge-m3": StandIn("xlm-roberta", _converted_bge_m3),
    "sentence-transformers/all-mpnet-base-v2": StandIn("mpnet", _mpnet),
    "nomic-ai/nomic-embed-text-v1.5": _embedder("nomic_bert"),
    "alibaba-nlp-community/gte-multilingual-base": _embedder("gte", "cls"),
    "jinaai/jina-embeddings-v3-hf": _model("jina_embeddings_v3"),
    "shibing624/text2vec-base-chinese-sentence": _embedder("ernie"),
    "Alibaba-NLP/gte-base-en-v1.5": _remote_code("new", pooling="cls"),
    "jinaai/jina-embeddings-v2-base-en": _remote_code("jina_bert", pooling="mean"),
    "MoritzLaurer/DeBERTa-v3-base-mnli-fever-anli": _classifier("deberta", *NLI.values()),
    "knowledgator/gliclass-small-v1.0": StandIn("deberta", _gliclass),
    "cross-encoder/ms-marco-electra-base": _model("electra", "ForSequenceClassification", num_labels=1),
    "reranker": StandIn("electra", _reranker),
    "cardiffnlp/twitter-roberta-base-sentiment-latest": _classifier("roberta", "negative", "neutral", "positive"),
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": _classifier("distilbert", "NEGATIVE", "POSITIVE"),
    "Davlan/xlm-roberta-base-ner-hrl": _classifier("xlm-roberta", "O", "B-LOC", head="ForTokenClassification"),
    "albert/albert-base-v2": _model("albert", "ForMaskedLM"),
    "almanach/camembert-base": _model("camembert", "ForMaskedLM"),
    "answerdotai/ModernBERT-base": _model("modernbert", "ForMaskedLM"),
    "EuroBERT/EuroBERT-210m": _model("eurobert", "ForMaskedLM"),
    "dmis-lab/UltraBERT-150M": _model("ultrabert", "ForMaskedLM"),
    "andreasmadsen/efficient_mlm_m0.40": _model("roberta_prelayernorm", "ForMaskedLM"),
    "facebook/xlm-roberta-xl": _model("xlm_roberta_xl", "ForMaskedLM"),
    "junnyu/roformer_chinese_base": _model("roformer", "ForMaskedLM"),
    "chandar-lab/NeoBERT": _remote_code("neobert", _DECODER),
    "nomic-ai/nomic-bert-2048": _remote_code("nomic_bert", _PREDICTIONS),
    "microsoft/deberta-v3-base": _model("deberta", "ForMaskedLM"),
    "facebook/data2vec-text-base": _model("data2vec_text"),
    "google/rembert": _model("rembert"),
    "UFNLP/gatortron-base": _model("megatron_bert"),
}


def stand_ins_in(code: str) -> dict[str, StandIn]:
    """Return the stand-ins for the models that the code of a guide names."""
    return {name: found for name, found in STAND_INS.items() if f'"{name}"' in code or f" {name} " in code}

"""The JavaScript that runs an exported model, for its card."""

from __future__ import annotations

import json

from ...modeling import SequenceEncoderModel, SequenceEncoderPreTrainedModel
from ...modeling.text_encoding.embedding_recipe import EmbeddingRecipe, Normalize
from ...saving.auto_classes import model_class_of

_PIPELINE = """\
import {{ pipeline }} from "@huggingface/transformers";

const {name} = await pipeline("{task}", {place});
const {results} = await {name}({arguments});"""
_MODEL = """\
import {{ {auto_class}, AutoTokenizer }} from "@huggingface/transformers";

const tokenizer = await AutoTokenizer.from_pretrained({place});
const model = await {auto_class}.from_pretrained({place});
const inputs = tokenizer({arguments});
const {{ {outputs} }} = await model(inputs);"""
_TEXTS = '["A short text.", "Another one."]'
# The name of the pipeline, its task, what it returns, and an argument.
_PIPELINES = {
    "SequenceEncoderForMaskedLM": ("fill", "fill-mask", "choices", '"A short {mask}."'),
    "SequenceEncoderForSequenceClassification": ("classify", "text-classification", "labels", _TEXTS),
    "SequenceEncoderForTokenClassification": ("tag", "token-classification", "entities", '"Ada lived in London."'),
    "SequenceEncoderForQuestionAnswering": (
        *("answer", "question-answering", "result"),
        '"Where did Ada live?", "Ada lived in London."',
    ),
}


def javascript_example(model: SequenceEncoderPreTrainedModel, name: str, mask_token: str | None) -> str:
    """Return the JavaScript that runs a model.

    Args:
        model: The model.
        name: The name of its folder.
        mask_token: The mask token of the tokenizer.
    """
    place, kind = json.dumps(name, ensure_ascii=False), model_class_of(model).name
    if kind == "SequenceEncoderForSequenceClassification" and model.config.num_labels == 1:
        arguments = '["A question?"], { text_pair: ["A short text."], padding: true, truncation: true }'
        auto_class = "AutoModelForSequenceClassification"
        return _MODEL.format(auto_class=auto_class, place=place, arguments=arguments, outputs="logits")
    if kind in _PIPELINES:
        function, task, results, arguments = _PIPELINES[kind]
        arguments = arguments.replace("{mask}", mask_token or "[MASK]")
        return _PIPELINE.format(name=function, task=task, results=results, place=place, arguments=arguments)
    recipe = model.recipe_for() if type(model) is SequenceEncoderModel else None
    outputs = "dense_vecs, token_weights, colbert_vecs" if recipe is None else "sentence_embedding"
    if recipe is not None and _pools(recipe, model.config.hidden_size):
        options = f'{{ pooling: "{recipe.pooling[0]}", normalize: {"true" if recipe.after else "false"} }}'
        arguments = f"{_TEXTS}, {options}"
        task = "feature-extraction"
        return _PIPELINE.format(name="extract", task=task, results="vectors", place=place, arguments=arguments)
    arguments = f"{_TEXTS}, {{ padding: true, truncation: true }}"
    return _MODEL.format(auto_class="AutoModel", place=place, arguments=arguments, outputs=outputs)


def _pools(recipe: EmbeddingRecipe, channels: int) -> bool:
    """Return whether the pipeline of transformers.js can compute the vectors of a recipe from the hidden states."""
    pools = recipe.pooling in (("mean",), ("cls",)) and recipe.after in ((), (Normalize(),))
    return pools and recipe.include_prompt and recipe.kept_channels(channels) == channels

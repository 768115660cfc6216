"""Attributions are those of captum, for every head, by words, with their faithfulness."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from threading import Thread
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sequence_encoder import SequenceEncoderForMultipleChoice, attention_of, explain, nearest_examples
from sequence_encoder.evaluation.explanation.explaining import HEADS as KNOWN
from sequence_encoder.evaluation.explanation.methods import METHODS
from sequence_encoder.evaluation.explanation.values import Values
from sequence_encoder.evaluation.explanation.words import Word, row_of
from sequence_encoder.tests.fixtures.explained_models import HEADS, LABELS, build
from sequence_encoder.tests.fixtures.texts import tokenizer_of

Build = Callable[..., tuple[Any, Any, list[str]]]


@pytest.fixture
def built(tiny_config: Any, randomize: Any) -> Build:
    return lambda head, **options: build(head, tiny_config, randomize, **options)


def numbers(model: Any, tokenizer: Any, texts: list[str], target: str | None = None) -> tuple[Any, Any]:
    """Return the requests and a function that computes the first number of copies one by one, without packing."""
    head = KNOWN[type(model)](model, tokenizer)
    request = head.request(tuple(texts))
    values = Values(head, "mask")
    outputs = values.outputs(request.rows)
    request.targets = head.targets(request, outputs, target)

    def one_by_one(kept: torch.Tensor) -> torch.Tensor:
        single = Values(head, "mask", max_tokens=1)
        return single([(request, kept.bool())])[0][:, 0]

    return request, one_by_one


def captum_words(request: Any, method: str, function: Any) -> torch.Tensor:
    captum = pytest.importorskip("captum.attr")
    words = len(request.words)
    explainer = getattr(captum, method)(function)
    return explainer.attribute(torch.ones(1, words), baselines=torch.zeros(1, words))[0].double()


@pytest.mark.parametrize("head", HEADS)
def test_occlusion_and_shapley_values_are_those_of_captum(built: Build, head: str) -> None:
    model, tokenizer, texts = built(head)
    texts = [text.replace("Return ", "").replace(" of the", "").replace("of the serialised ", "") for text in texts]
    request, function = numbers(model, tokenizer, texts)
    given = (texts[0], texts[1] if len(texts) > 1 else None)
    for method, theirs in (("occlusion", "FeatureAblation"), ("shapley", "ShapleyValues")):
        found = explain(model, tokenizer, *given, method=method, removal="mask", samples=24, measure=False)
        expected = captum_words(request, theirs, function)
        torch.testing.assert_close(torch.tensor(found[0].scores).double(), expected, rtol=1e-3, atol=1e-4)
    # Shapley values share out what all words add.
    none = function(torch.zeros(1, len(request.words)))
    assert sum(found[0].scores) == pytest.approx(found[0].value - float(none), abs=1e-3)


@pytest.mark.parametrize(
    ("method", "theirs"), [("integrated_gradients", "IntegratedGradients"), ("gradient_x_input", "InputXGradient")]
)
def test_gradients_are_those_of_captum(built: Build, method: str, theirs: str) -> None:
    captum = pytest.importorskip("captum.attr")
    model, tokenizer, texts = built("label")
    encoded = tokenizer(texts, return_tensors="pt")
    embed = model.get_input_embeddings()
    special = torch.tensor([word is None for word in encoded.word_ids()])[None]
    vectors = embed(encoded["input_ids"]).detach()
    baseline = torch.where(special[..., None], vectors, embed.weight[tokenizer.mask_token_id].detach())

    def log_odds(inputs: torch.Tensor) -> torch.Tensor:
        logits = model(inputs_embeds=inputs, attention_mask=torch.ones(inputs.shape[:2])).logits
        return logits[:, 1] - logits[:, [0, 2]].logsumexp(-1)

    options = {"baselines": baseline, "n_steps": 8} if method == "integrated_gradients" else {}
    tokens = getattr(captum, theirs)(log_odds).attribute(vectors, **options).sum(-1)[0]
    (found,) = explain(model, tokenizer, texts, target="good", method=method, samples=8)
    expected = torch.zeros(len(found.words))
    for token, word in zip(tokens, encoded.word_ids(), strict=True):
        if word is not None:
            expected[word] += token.detach()
    torch.testing.assert_close(torch.tensor(found.scores), expected, rtol=1e-3, atol=1e-5)
    with torch.inference_mode():
        assert explain(model, tokenizer, texts, target="good", method=method, samples=8)[0].scores == found.scores
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("head", HEADS)
def test_texts_together_have_the_explanations_of_texts_alone(built: Build, head: str, method: str) -> None:
    model, tokenizer, texts = built(head)
    pairs = None if len(texts) == 1 else [texts[1], "files"]
    both = explain(model, tokenizer, [texts[0], f"{texts[0]} of a longer text"], pairs, method=method)
    alone = explain(model, tokenizer, texts[0], *texts[1:], method=method)
    for found, expected in zip(both, alone, strict=False):
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-4)
        assert found.faithfulness is not None
        assert found.words == expected.words
        assert all(text in found._repr_html_() for text in ("serialised", "Return") if text in " ".join(texts))
        assert json.loads(found.to_json())["value"] == found.value
    assert all(math.isfinite(score) for each in both for score in each.scores)


def test_words_are_those_of_the_text_for_every_kind_of_tokenizer() -> None:
    text = "  Zebulon's unbelievable files,\tlow-level "
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), *((letter, -2.0) for letter in "▁ " + text)], unk_id=0))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    whole = Tokenizer(models.Unigram([("<unk>", 0.0), *((letter, -2.0) for letter in text)], unk_id=0))
    made = [PreTrainedTokenizerFast(tokenizer_object=each, unk_token="<unk>") for each in (unigram, whole)]
    for tokenizer in (tokenizer_of(), tokenizer_of("byte_level_bpe"), *made):
        row, words = row_of(tokenizer, [text, "a second text"], None)
        assert [word for word in row.words if word >= 0] == sorted(word for word in row.words if word >= 0)
        assert {*row.words} - {-1} == {*range(len(words))}
        assert all([text, "a second text"][word.source][word.start : word.end] == word.text for word in words)
        # The spaces before the first word are tokens of it, if they are tokens.
        assert row.words[0] in (0, -1)
        assert row.words[1] == 0
        first = [word.text for word in words if word.source == 0]
        assert "".join(first) == "".join(text.split())
        assert all(len(word.split()) == 1 for word in first)
        assert "unbelievable" in first
        assert [word.text for word in words if word.source == 1] == ["a", "second", "text"]


def test_a_text_without_tokens_has_no_number(built: Build) -> None:
    model, _, _ = built("label")
    words = Tokenizer(models.WordLevel({"<unk>": 0, "text": 1, "files": 2}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    assert len(explain(model, tokenizer, "text files")[0].scores) == 2
    with pytest.raises(ValueError, match="nothing is left of 'text', because the tokenizer adds no special tokens"):
        explain(model, tokenizer, "text")


def test_faithfulness_is_what_removing_words_does(built: Build) -> None:
    model, tokenizer, _ = built("label")
    (found,) = explain(model, tokenizer, "Return the text of files", target="good", method="shapley", samples=120)
    _, function = numbers(model, tokenizer, ["Return the text of files"], "good")
    order = sorted(range(5), key=lambda word: -found.scores[word])
    without, alone = torch.ones(3, 5), torch.zeros(3, 5)
    for row, count in enumerate((1, 1, 3)):
        without[row, order[:count]] = 0
        alone[row, order[:count]] = 1
    whole = torch.tensor(found.value).sigmoid()
    assert found.faithfulness is not None
    assert found.faithfulness.comprehensiveness == pytest.approx(
        float((whole - function(without).sigmoid()).mean()), abs=1e-4
    )
    assert found.faithfulness.sufficiency == pytest.approx(float((whole - function(alone).sigmoid()).mean()), abs=1e-4)


def test_an_explanation_that_is_no_better_than_random_says_so(built: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer, texts = built("label")
    best, samples = METHODS["occlusion"]
    (good,) = explain(model, tokenizer, texts)
    monkeypatch.setitem(METHODS, "occlusion", (lambda *given: [-each for each in best(*given)], samples))
    (bad,) = explain(model, tokenizer, texts)
    assert good.warning is None
    assert "not more faithful" in str(bad)
    assert "not more faithful" in bad._repr_html_()
    assert not bad.to_dict()["faithfulness"]["better_than_random"]


def test_pages_escape_texts_and_targets(built: Build) -> None:
    model, tokenizer, _ = built("label", id2label={0: "<i>", 1: "<i>", 2: "<i>"})
    (found,) = explain(model, tokenizer, "Return <script>alert('1')</script> & text")
    assert "<i>" not in found._repr_html_()
    # Only some tokenizers have such words.
    text = "<b>'x'</b>"
    for words in ((), (Word(text, 0, 0, len(text)),)):
        page = replace(found, texts=(text,), words=words, scores=(1.0,) * len(words))._repr_html_()
        assert "<b>'x'" not in page
        assert "&lt;b&gt;&#x27;x&#x27;&lt;/b&gt;" in page


def test_a_target_may_be_chosen(built: Build) -> None:
    model, tokenizer, texts = built("label")
    assert [explain(model, tokenizer, texts, target=label)[0].target.name for label in LABELS.values()] == [
        *LABELS.values()
    ]
    model, tokenizer, texts = built("answer")
    assert explain(model, tokenizer, *texts, target="the serialised")[0].target.start == 3
    model, tokenizer, texts = built("mask")
    assert explain(model, tokenizer, texts, target="the")[0].target.name == "the"
    model, tokenizer, texts = built("entity")
    (first, *_) = explain(model, tokenizer, texts)
    named = explain(model, tokenizer, texts, target=texts[0][first.target.start : first.target.end])
    assert named[0].scores == first.scores


def test_texts_without_entities_of_a_label_have_no_explanations(built: Build) -> None:
    model, tokenizer, texts = built("entity", id2label={0: "O", 1: "O", 2: "O", 3: "O"})
    assert explain(model, tokenizer, texts) == []
    model.config.id2label = {**model.config.id2label, 4: "B-X"}
    assert explain(model, tokenizer, texts, target="X") == []


def test_a_word_is_the_likelier_of_its_tokens_at_a_mask(built: Build) -> None:
    model, _, _ = built("mask")
    tokenizer = tokenizer_of("byte_level_bpe")
    text = f"Return {tokenizer.mask_token} text"
    encoded = tokenizer(text, return_tensors="pt")
    (logits,) = model(**encoded).logits[encoded["input_ids"] == tokenizer.mask_token_id]
    for word in ("the", "of", "in"):
        tokens = [tokenizer(each, add_special_tokens=False)["input_ids"][0] for each in (word, f" {word}")]
        (found,) = explain(model, tokenizer, text, target=word)
        assert found.target.indices[1] == max(tokens, key=lambda token: logits[token])


def test_threads_do_not_mix_up_attention(built: Build) -> None:
    model, tokenizer, texts = built("label")
    expected = attention_of(model, tokenizer, texts[0], layer=1).weights
    other = Thread(target=explain, args=(model, tokenizer, "Return files"))

    def run_other(*given: Any) -> None:
        if other.ident is None:
            other.start()
            other.join()

    model.get_input_embeddings().register_forward_hook(run_other)
    torch.testing.assert_close(attention_of(model, tokenizer, texts[0], layer=1).weights, expected)


@pytest.mark.parametrize(
    ("head", "texts", "options", "message"),
    [
        ("label", ["a \ud83d"], {}, r"texts\[0\] has '\\ud83d', half of a character"),
        ("label", [" \n"], {}, r"texts\[0\] must have words"),
        ("label", ["text"], {"target": "best"}, "target must be one of the labels bad, good, other, got 'best'"),
        ("label", ["text"], {"method": "lime"}, "method must be one of occlusion"),
        ("label", ["text"], {"removal": "zero"}, "removal must be one of mask, leave_out, got 'zero'"),
        ("label", ["text"], {"samples": 0}, "samples must be at least 1"),
        ("label", ["text"], {"seed": -1}, "seed must be at least 0"),
        ("entity", ["text"], {"removal": "leave_out"}, "pass 'mask'"),
        (
            "entity",
            ["text"],
            {"target": "Z"},
            "target must be a label of entities, or an entity of the text.*the model finds",
        ),
        ("answer", ["text"], {}, "needs a second text"),
        (
            "answer",
            ["text"],
            {"text_pairs": "files", "target": "text"},
            "an answer in the part of text_pair that the model reads",
        ),
        ("mask", ["text"], {}, r"must have a mask \(\[MASK\]\)"),
        ("mask", ["[MASK]."], {"target": "no such"}, "a single token"),
        ("mask", ["[MASK]."], {"target": ""}, "a single token"),
        ("similarity", ["text"], {}, "needs a second text"),
        ("similarity", ["text"], {"text_pairs": "files", "target": "x"}, "target must be None"),
        ("label", ["text"], {"text_pairs": ["a", "b"]}, "text_pairs must have as many texts"),
    ],
)
def test_bad_input_is_refused(built: Build, head: str, texts: list[str], options: Any, message: str) -> None:
    model, tokenizer, _ = built(head)
    with pytest.raises(ValueError, match=message):
        explain(model, tokenizer, texts, **options)


def test_models_that_cannot_be_explained_are_refused(built: Build, tiny_config: Any) -> None:
    model, tokenizer, texts = built("label")
    with pytest.raises(ValueError, match=r"model must be one of .*, got .*MultipleChoice; explain a cross-encoder"):
        explain(SequenceEncoderForMultipleChoice(tiny_config()), tokenizer, texts)
    with torch.no_grad():
        model.classifier.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite for 'Return the text'"):
        explain(model, tokenizer, texts)


def test_the_nearest_examples_are_those_with_the_nearest_vectors(built: Build) -> None:
    model, tokenizer, _ = built("label")
    examples = ["files", "Return the text", "a word"]
    ((best, second),) = nearest_examples(model, tokenizer, ["Return the text"], examples, [1, 2, 3], count=2)
    assert (best.text, best.label) == ("Return the text", 2)
    assert best.cosine == pytest.approx(1, abs=1e-5)
    assert second.cosine < best.cosine
    assert nearest_examples(model, tokenizer, "Return the text", examples, [1, 2, 3], count=2) == [[best, second]]
    with pytest.raises(ValueError, match="labels must have one item"):
        nearest_examples(model, tokenizer, ["text"], examples, [1])


@pytest.mark.parametrize("head", ["label", "entity"])
def test_a_model_with_an_adapter_is_explained_as_the_merged_one(built: Build, head: str) -> None:
    peft = pytest.importorskip("peft")
    model, tokenizer, texts = built(head)
    task = {"label": "SEQ_CLS", "entity": "TOKEN_CLS"}[head]
    before = explain(model, tokenizer, *texts)
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type=task, r=2, init_lora_weights=False))
    assert adapted.training
    results = []
    for each in (adapted, copy.deepcopy(adapted).merge_and_unload()):
        explanations = [
            found for method in METHODS for found in explain(each, tokenizer, *texts, method=method, measure=False)
        ]
        scores = [score for explanation in explanations for score in explanation.scores]
        attention = attention_of(each, tokenizer, texts[0], layer=1).weights.flatten().tolist()
        near = nearest_examples(each, tokenizer, texts[0], ["files", "Return"]) if head == "label" else [[]]
        results.append([*scores, *attention, *(example.cosine for example in near[0])])
    assert results[0] == pytest.approx(results[1], abs=1e-4)
    assert [each.value for each in before] != [each.value for each in explain(adapted, tokenizer, *texts)]
    assert adapted.training


def test_adapters_that_are_not_in_the_layers_are_refused(built: Build) -> None:
    peft = pytest.importorskip("peft")
    model, tokenizer, texts = built("label")
    adapted = peft.get_peft_model(model, peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2))
    with pytest.raises(ValueError, match="an adapter that puts tokens before the texts, got PROMPT_TUNING"):
        explain(adapted, tokenizer, *texts)

"""Zero-shot span extraction computes what GLiNER computes, for texts of any length, and learns."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel, AutoTokenizer, Trainer, TrainingArguments, pipeline
from transformers.pipelines.pt_utils import KeyDataset

import sequence_encoder
from sequence_encoder import SequenceEncoderConfig, SequenceEncoderForSpanExtraction, convert
from sequence_encoder.conversion.command import convert_checkpoint
from sequence_encoder.conversion.inspection import inspect
from sequence_encoder.modeling.extraction import span_scores
from sequence_encoder.modeling.extraction.span_choice import chosen
from sequence_encoder.modeling.extraction.span_scores import SpanScorer
from sequence_encoder.modeling.extraction.text_windows import words_of
from sequence_encoder.tests.fixtures.gliner_folders import LABELS, WIDTH, save_gliner

TEXTS = ["a cat, a red-dog is of berlin", "", "the model", "software about animals lives", "x"]


def brute_force(logits: torch.Tensor, text: str, labels: list[str], threshold: float) -> list[tuple[Any, ...]]:
    """Return the spans that GLiNER returns, from its logits, in the slowest way."""
    places, found = words_of(text), []
    for first, last, label in product(range(len(places)), range(len(places)), range(len(labels))):
        if logits.dim() == 3 and logits.shape[2] == 3 and logits.shape[1] == len(labels) != WIDTH:
            scores = logits.sigmoid()[:, label]
            parts = [scores[first, 0], scores[last, 1], *scores[first : last + 1, 2]] if first <= last else [0.0]
            score = float(min(parts))
        else:
            inside = first <= last < first + WIDTH
            score = float(logits[first, last - first, label].sigmoid()) if inside else 0.0
        if score > threshold:
            found.append((first, last, label, score))
    kept: list[tuple[int, int, int, float]] = []
    for span in sorted(found, key=lambda each: -each[3]):
        if all(span[0] > other[1] or other[0] > span[1] for other in kept):
            kept.append(span)
    return [(places[a][0], places[b][1], labels[c], pytest.approx(s, abs=1e-5)) for a, b, c, s in sorted(kept)]


def as_tuples(spans: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(span["start"], span["end"], span["label"], span["score"]) for span in spans]


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("deberta", {}),
        ("bert", {"num_rnn_layers": 0}),
        ("modernbert", {"embed_ent_token": False, "num_rnn_layers": 2}),
        ("deberta", {"span_mode": "token_level"}),
        ("modernbert", {"label_family": "bert"}),
        ("bert", {"label_family": "deberta", "span_mode": "token_level"}),
    ],
    ids=["deberta", "without LSTM", "label's own token", "token level", "bi-encoder", "token level bi-encoder"],
)
def test_a_gliner_finds_the_same_spans(family: str, fields: dict[str, Any], tmp_path: Path) -> None:
    logits, tokenizer = save_gliner(tmp_path, family, **fields)
    model: Any = convert(tmp_path)
    assert type(model) is SequenceEncoderForSpanExtraction
    scores = {text: logits(text, LABELS) for text in TEXTS if text}
    possible = torch.cat([each[each > -1e4] for each in scores.values()])
    for share in (0.3, 0.9):
        threshold = float(possible.quantile(share).sigmoid())
        found = model.extract(TEXTS, LABELS, tokenizer, threshold=threshold)
        for text, spans in zip(TEXTS, found, strict=True):
            expected = brute_force(scores[text], text, LABELS, threshold) if text else []
            assert as_tuples(spans) == expected
            assert all(span["text"] == text[span["start"] : span["end"]] for span in spans)
        assert share > 0.5 or any(found)


def test_padded_batches_have_the_same_logits_and_padding_has_the_lowest(tmp_path: Path) -> None:
    logits, tokenizer = save_gliner(tmp_path)
    model: Any = convert(tmp_path)
    prompt = [part for label in LABELS for part in ("<<ENT>>", label)] + ["<<SEP>>"]
    texts = [text.split() for text in ("the cat", "a model of software is red")]
    batch = tokenizer([prompt + text for text in texts], is_split_into_words=True, padding=True, return_tensors="pt")
    numbers = [[0 if word is None else max(0, word + 1 - len(prompt)) for word in batch.word_ids(i)] for i in (0, 1)]
    markers = batch["input_ids"] == model.config.span_extraction["label_token_id"]
    batch.update({"word_ids": torch.tensor(numbers), "class_ids": markers.cumsum(1) * markers})
    with torch.no_grad():
        found = model(**batch).logits
    assert found.shape == (2, 6, WIDTH, len(LABELS))
    for row, text in zip(found, texts, strict=True):
        expected = logits(" ".join(text), LABELS)
        inside = expected > -1e4
        torch.testing.assert_close(row[: len(text)][inside], expected[inside], rtol=1e-5, atol=1e-5)
        assert (row[: len(text)][~inside] < -1e30).all()
        assert (row[len(text) :] < -1e30).all()


def test_long_texts_are_read_in_windows_that_lose_no_span(tmp_path: Path) -> None:
    _, tokenizer = save_gliner(tmp_path, max_len=12)
    model: Any = convert(tmp_path)
    text = " ".join(
        f"{word}{'.' * (number % 3)}" for number, word in enumerate(["a", "cat", "of", "red", "berlin"] * 12)
    )
    places = words_of(text)
    spans = {(first, last) for first in range(len(places)) for last in range(first, min(first + WIDTH, len(places)))}
    for length in (None, 40):
        prepared = model.prepare_extraction(LABELS, tokenizer, max_length=length, threshold=0.0)
        windows = prepared.tokenize([text]).windows
        assert len(windows) > 5
        owned = []
        for window in windows:
            assert len(window.ids) <= (length or 64)
            inside = range(window.first, window.first + window.num_words)
            owned += [span for span in spans if {*span} <= {*inside} and window.owns((*span, 0, 0.0))]
        # Each span belongs to one window, which has all of its words.
        assert sorted(owned) == sorted(spans)


def test_a_span_in_two_windows_has_the_score_of_the_one_where_it_is_farther_from_the_end(tmp_path: Path) -> None:
    _, tokenizer = save_gliner(tmp_path, max_len=8)
    model: Any = convert(tmp_path)
    text = "a cat is of red dog about software lives berlin a model"
    first = model.extract(" ".join(text.split()[:8]), LABELS, tokenizer, threshold=0.0)
    whole = model.extract(text, LABELS, tokenizer, threshold=0.0)
    assert as_tuples(whole)[0] == pytest.approx(as_tuples(first)[0], abs=1e-5)


def test_overlapping_spans_are_chosen_by_probability() -> None:
    spans = [(0, 2, 0, 0.9), (1, 1, 1, 0.8), (2, 4, 0, 0.95), (1, 1, 0, 0.7), (3, 4, 0, 0.6)]
    assert chosen(spans) == [(1, 1, 1, 0.8), (2, 4, 0, 0.95)]
    assert chosen(spans, multi_label=True) == [(1, 1, 1, 0.8), (1, 1, 0, 0.7), (2, 4, 0, 0.95)]
    assert chosen(spans, nested=True) == [(1, 1, 1, 0.8), (2, 4, 0, 0.95), (3, 4, 0, 0.6)]


def test_the_fast_scores_have_the_gradients_of_the_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = SpanScorer(8, 5, 0.0)
    words, labels = torch.randn(11, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    found = scorer(words, labels, [7, 0, 4], [2, 1, 1])
    # On other devices and in graphs, all spans of a text are computed at once.
    monkeypatch.setattr(span_scores, "is_eager_on_cpu", lambda *tensors: False)
    plain = scorer(words, labels, [7, 0, 4], [2, 1, 1])
    grads = []
    for parts in ((found[0], found[2]), (plain[0], plain[2])):
        for part in parts:
            assert (part.isfinite()).all()
        loss = sum(part.sigmoid().sum() for part in parts)
        grads.append(torch.autograd.grad(loss, [words, labels, *scorer.parameters()], allow_unused=True))
    assert found[1].shape == (0, 5, 1)
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("scoring", ["spans", "tokens"])
def test_the_head_learns_with_trainer_and_loads_again(
    scoring: str, tiny_config: Callable[..., SequenceEncoderConfig], tmp_path: Path
) -> None:
    config = tiny_config(
        "bert", span_extraction={"scoring": scoring, "dropout": 0.0, "hidden_size": 16, "max_width": 2}
    )
    model = SequenceEncoderForSpanExtraction(config)
    rows = []
    for row in range(16):
        ids = torch.randint(10, 90, (8,), generator=torch.Generator().manual_seed(row))
        place = row % 5 + 1
        ids[place] = 5
        rows.append({"input_ids": ids, "labels": torch.tensor([[place, place, 0]])})
    arguments = TrainingArguments(
        str(tmp_path / "run"), max_steps=60, learning_rate=5e-3, per_device_train_batch_size=8, report_to="none",
        save_strategy="no", use_cpu=True, logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows)
    before = trainer.evaluate(rows)["eval_loss"]
    trainer.train()
    assert trainer.evaluate(rows)["eval_loss"] < before / 10
    model.eval().save_pretrained(tmp_path / "saved")
    again: Any = AutoModel.from_pretrained(tmp_path / "saved")
    assert type(again) is SequenceEncoderForSpanExtraction
    for row in rows:
        inputs = {"input_ids": row["input_ids"][None]}
        with torch.no_grad():
            found = again(**inputs).logits
            assert torch.equal(found, model(**inputs).logits)
        best = max(again.scorer.spans(found[0].sigmoid(), 0.0), key=lambda span: span[3])
        assert best[:3] == tuple(row["labels"][0].tolist())


def test_wrong_inputs_are_refused_before_any_compute(tmp_path: Path) -> None:
    _, tokenizer = save_gliner(tmp_path)
    model: Any = convert(tmp_path)
    for wrong, message in {
        "labels='cat'": "labels must be a list of texts or a dict of descriptions, got 'cat'",
        "labels=[]": "labels must be one or more texts with visible characters",
        "labels=['a', '\\u200b ']": "labels must be one or more texts with visible characters",
        "labels=['a', '']": "labels must be one or more texts",
        "labels=['a', 'a']": "labels must differ",
        "labels=['<<ENT>>']": "must not contain",
        "threshold=2": "threshold must be a number from 0 to 1, got 2",
        "max_tokens=0": "max_tokens must be at least 1, got 0",
        "max_tokens='5'": "max_tokens must be an integer, got '5'",
        "max_length=5": "the model reads at most 5",
    }.items():
        options = {"labels": LABELS, **eval(f"dict({wrong})")}
        with pytest.raises(ValueError, match=message):
            model.extract(["a cat"], tokenizer=tokenizer, **options)
    with pytest.raises(ValueError, match=r"texts\[1\] must be a string, got a int"):
        model.extract(["a", 1], LABELS, tokenizer)
    ids = torch.arange(3, 9)[None]
    with pytest.raises(ValueError, match="which has 6 words and 1 labels"):
        model(input_ids=ids, labels=torch.tensor([[[0, 6, 0]]]))
    with pytest.raises(ValueError, match="word_ids must have shape"):
        model(input_ids=ids, word_ids=torch.ones(1, 5, dtype=torch.long))
    config = model.config.to_dict() | {"span_extraction": {"scoring": "words"}}
    with pytest.raises(StrictDataclassError, match="must be one of 'spans', 'tokens', got 'words'"):
        SequenceEncoderConfig.from_dict(config)


def test_descriptions_are_read_instead_of_names(tmp_path: Path) -> None:
    _, tokenizer = save_gliner(tmp_path)
    model: Any = convert(tmp_path)
    names = dict(zip("ABC", LABELS, strict=True))
    found = model.extract(TEXTS[0], names, tokenizer)
    assert found == [
        {**span, "label": "ABC"[LABELS.index(span["label"])]} for span in model.extract(TEXTS[0], LABELS, tokenizer)
    ]


@pytest.mark.parametrize("kind", ["safetensors", "pickled", "bi-encoder"])
def test_convert_writes_a_folder_that_works_without_the_package(
    kind: str, tmp_path: Path, without_package: Callable[..., Any]
) -> None:
    pickled, label_family = kind == "pickled", "bert" if kind == "bi-encoder" else None
    _, tokenizer = save_gliner(tmp_path / "gliner", pickled=pickled, label_family=label_family)
    expected = convert(tmp_path / "gliner").extract(TEXTS, LABELS, tokenizer)  # type: ignore[attr-defined]
    seen = inspect(tmp_path / "gliner")
    assert (seen.architecture, seen.obstacle, seen.where) == ("GLiNER", None, "in the package gliner")
    assert seen.parameters == convert(tmp_path / "gliner").num_parameters()
    convert_checkpoint(str(tmp_path / "gliner"), str(tmp_path / "ours"))
    own = AutoTokenizer.from_pretrained(tmp_path / "ours")
    found = AutoModel.from_pretrained(tmp_path / "ours").extract(TEXTS, LABELS, own)
    assert [as_tuples(text) for text in found] == [
        [(*span[:3], pytest.approx(span[3], abs=1e-6)) for span in as_tuples(text)] for text in expected
    ]
    code = """
import json, sys
from transformers import AutoModel, AutoTokenizer, pipeline
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
texts, labels = json.loads(sys.argv[2]), json.loads(sys.argv[3])
pipe = pipeline("zero-shot-entities", model=sys.argv[1], trust_remote_code=True)
print(json.dumps([model.extract(texts, labels, tokenizer), pipe(texts, labels=labels)]))
"""
    if not pickled:
        assert without_package(code, tmp_path / "ours", json.dumps(TEXTS), json.dumps(LABELS)) == [found, found]


def test_the_pipeline_takes_what_other_pipelines_take(tmp_path: Path) -> None:
    save_gliner(tmp_path / "gliner")
    convert_checkpoint(str(tmp_path / "gliner"), str(tmp_path / "ours"))
    pipe = pipeline("zero-shot-entities", model=str(tmp_path / "ours"), labels=LABELS, threshold=0)
    assert type(pipe) is sequence_encoder.ZeroShotEntitiesPipeline
    model: Any = AutoModel.from_pretrained(tmp_path / "ours")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    expected = model.extract(TEXTS, LABELS, tokenizer, threshold=0)
    assert any(expected)
    assert pipe(TEXTS) == pipe(TEXTS, batch_size=2) == expected
    assert pipe(TEXTS[0]) == model.extract(TEXTS[0], LABELS, tokenizer, threshold=0)
    assert pipe([]) == []
    dataset = KeyDataset([{"text": text} for text in TEXTS], "text")  # type: ignore[arg-type]
    for several in (iter(TEXTS), dataset):
        found = pipe(several)
        assert next(found) == expected[0]
        assert list(found) == expected[1:]
    assert pipe(TEXTS[0], labels={"a": "cat"}, nested=True) == model.extract(
        TEXTS[0], {"a": "cat"}, tokenizer, threshold=0, nested=True
    )
    with pytest.raises(ValueError, match="labels must be given"):
        sequence_encoder.ZeroShotEntitiesPipeline(model, tokenizer)("a cat")
    with pytest.raises(ValueError, match=r"method extract, which a SequenceEncoderModel lacks; use a Seq.*SpanExtract"):
        sequence_encoder.ZeroShotEntitiesPipeline(model.model, tokenizer)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"span_mode": "conv_conv"}, "span_mode='conv_conv' is not supported: it must be 'markerV0' or 'token_level'"),
        ({"labels_decoder": "gpt2"}, "labels_decoder='gpt2' is not supported"),
        ({"class_token_index": 3}, "class_token_index is 3"),
        ({"hidden_size": 18}, "needs"),
    ],
)
def test_gliners_that_cannot_be_converted_say_why(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_gliner(tmp_path)
    config = json.loads((tmp_path / "gliner_config.json").read_text())
    (tmp_path / "gliner_config.json").write_text(json.dumps(config | fields))
    with pytest.raises(ValueError, match=message):
        convert(tmp_path)


@pytest.mark.parametrize("config", [{}, {"model_type": "gliner"}])
def test_a_gliner_may_have_a_configuration_that_says_nothing(config: dict[str, str], tmp_path: Path) -> None:
    save_gliner(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert type(convert(tmp_path)) is SequenceEncoderForSpanExtraction


def test_a_damaged_configuration_and_hostile_weights_are_refused(tmp_path: Path) -> None:
    save_gliner(tmp_path, pickled=True)
    torch.save({"rnn.lstm.weight_ih_l0": torch.zeros(1).expand(10**9)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="must be a floating tensor"):
        convert(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="cannot be read as the weights of a GLiNER"):
        convert(tmp_path)
    (tmp_path / "gliner_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"gliner_config.json is damaged"):
        convert(tmp_path)


def test_a_bi_encoder_learns_from_label_inputs_and_checks_its_label_encoder(tmp_path: Path) -> None:
    save_gliner(tmp_path, label_family="bert")
    model: Any = convert(tmp_path)
    inputs = model.label_tokenizer(LABELS, padding=True, return_tensors="pt")
    batch = {"class_input_ids": inputs["input_ids"], "class_attention_mask": inputs["attention_mask"]}
    batch |= {"input_ids": torch.arange(5, 17).view(2, 6), "labels": torch.tensor([[[0, 1, 2]], [[-100] * 3]])}
    output = model.train()(**batch)
    output.loss.backward()
    assert output.logits.shape == (2, 6, WIDTH, 3)
    assert all(each.grad is not None for each in model.label_encoder.parameters())
    with pytest.raises(StrictDataclassError, match="must be fields of an encoder"):
        SequenceEncoderConfig(span_extraction={"label_encoder": {"span_extraction": {"max_width": 3}}})


@pytest.mark.parametrize("label_family", [None, "bert"])
def test_lora_adapts_all_linear_layers(label_family: str | None, tmp_path: Path) -> None:
    _, tokenizer = save_gliner(tmp_path, label_family=label_family)
    model: Any = convert(tmp_path)
    expected = model.extract(TEXTS, LABELS, tokenizer)
    adapted: Any = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear"))
    assert adapted.extract(TEXTS, LABELS, tokenizer) == expected
    assert any("scorer" in name for name, each in adapted.named_parameters() if each.requires_grad)


def test_the_package_exports_the_head() -> None:
    assert sequence_encoder.SequenceEncoderForSpanExtraction is SequenceEncoderForSpanExtraction


@pytest.mark.parametrize(
    ("scoring", "keys"),
    [
        (
            "spans",
            "first_proj.bias first_proj.weight first_word.down_proj first_word.up_proj label.down_proj label.up_proj "
            "last_proj.weight last_word.down_proj last_word.up_proj out_proj",
        ),
        ("tokens", "label label_proj.weight out_proj product_proj.weight word word_proj"),
    ],
)
def test_the_names_of_weights_are_pinned(
    scoring: str, keys: str, tiny_config: Callable[..., SequenceEncoderConfig]
) -> None:
    config = tiny_config(span_extraction={"scoring": scoring, "hidden_size": 16})
    found = sorted(name for name in SequenceEncoderForSpanExtraction(config).state_dict() if "model." not in name)
    kinds = ("bias", "weight")
    expected = [f"scorer.{key}" for key in keys.split() if key.endswith(kinds)]
    expected += [f"scorer.{key}.{kind}" for key in keys.split() if not key.endswith(kinds) for kind in kinds]
    lstm = [f"recurrent.{kind}_{part}_l0{way}" for kind in kinds for part in ("hh", "ih") for way in ("", "_reverse")]
    assert found == sorted([*expected, *lstm, "projection.bias", "projection.weight"])

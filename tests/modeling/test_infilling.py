"""Filling gaps: lengths, patterns, banned words, and the pipelines, with a model that has learned a grammar."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, pipeline

from sequence_encoder import InfillingPipeline, SequenceEncoderForMaskedLM
from sequence_encoder.tests.fixtures.grammar_models import PAD, SENTENCES, grammar_model, grammar_tokenizer

TOKENIZER = grammar_tokenizer()


@pytest.fixture(params=[True, False], ids=["empty masks", "tried lengths"])
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SequenceEncoderForMaskedLM:
    """Return the model, which leaves surplus masks empty, or has each length tried."""
    model = grammar_model()
    monkeypatch.setattr(model.generation_config, "fill_token_id", PAD if request.param else None)
    return model


def spaced(text: str) -> str:
    """Return a text as the grammar writes it, with a space before the full stop."""
    return re.sub(r" *\.$", " .", text)


def test_gaps_of_given_lengths_are_filled_in_place(model: SequenceEncoderForMaskedLM) -> None:
    texts = ["One  [MASK] cat [MASK]{2}.", "two RED [MASK]{2} walk.", "[MASK] small [MASK]{4}."]
    found = model.infill(texts, TOKENIZER)
    for text, result in zip(texts, found, strict=True):
        pieces = re.split(r"\[MASK\](?:{\d})?", text)
        assert result.text == pieces[0] + "".join(f + p for f, p in zip(result.fills, pieces[1:], strict=True))
        assert " ".join(spaced(result.text.lower()).split()) in SENTENCES
        assert 0 < result.score <= 1
    assert found[1] == model.infill(texts[1], TOKENIZER)
    assert model.infill([], TOKENIZER) == []


def test_the_model_chooses_the_length_of_a_gap(model: SequenceEncoderForMaskedLM) -> None:
    texts = ["two [MASK]{2,4} walk.", "one [MASK]{2,3} sleeps.", "one [MASK]{1,2} cat walks."]
    for result in model.infill(texts, TOKENIZER):
        assert spaced(result.text) in SENTENCES
        assert "[PAD]" not in result.text


def test_a_pattern_holds_for_each_gap(model: SequenceEncoderForMaskedLM) -> None:
    found = model.infill("two [MASK]{1,5} walk.", TOKENIZER, gap_regex="small (red|blue) cats")
    assert re.fullmatch("small (red|blue) cats", found.fills[0])
    found = model.infill(["one [MASK] dog [MASK]{2}."], TOKENIZER, gap_regex=[None, "walk(s|ing)"])
    assert found[0].fills[1] == "walks"
    for pattern, message in (
        ("green cats?", "matches the pattern 'green cats"),
        ("(", "cannot be compiled"),
        (["red"], "one pattern for each of 2 gaps, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            model.infill("one [MASK] [MASK]{1,2} walks.", TOKENIZER, gap_regex=pattern)


@pytest.mark.parametrize(("first", "second"), [("red", "blue"), ("blue", "red"), ("cat", "dog")])
def test_a_pattern_holds_with_the_smallest_length_of_a_gap(
    model: SequenceEncoderForMaskedLM, first: str, second: str
) -> None:
    text = "one [MASK]{2,3} walks."
    assert model.infill(text, TOKENIZER, gap_regex=f"{first}|{second} cat").fills == [f"{second} cat"]
    with pytest.raises(ValueError, match=r"No text of .*3 tokens matches the pattern 'red'"):
        model.infill(text, TOKENIZER, gap_regex="red")


def test_a_seed_writes_the_same_text_wherever_it_stands(model: SequenceEncoderForMaskedLM) -> None:
    texts = ["two [MASK]{2,4} walk.", "one [MASK] [MASK]{1,3} sleeps.", "[MASK].", "[MASK]{6} cat [MASK]{1,2}."]
    options = {"do_sample": True, "temperature": 3.0, "seed": 5, "num_return_sequences": 2}
    pipe = InfillingPipeline(model, TOKENIZER)

    def fills(given: Any, **others: Any) -> list[list[list[str]]]:
        return [[copy["fills"] for copy in found] for found in pipe(given, **{**options, **others})]

    together = fills(texts)
    assert fills(texts[::-1]) == together[::-1]
    assert [fills([text])[0] for text in texts] == together
    # More copies continue the same series, and a repeated text has its own.
    assert fills(texts[3:], num_return_sequences=3)[0][:2] == together[3]
    repeated = fills([texts[3]] * 3)
    assert repeated[0] == together[3]
    assert len({str(found) for found in repeated}) == 3


def test_banned_words_are_not_written(model: SequenceEncoderForMaskedLM) -> None:
    for seed in range(4):
        options = {"do_sample": True, "temperature": 2.0, "seed": seed, "bad_words": ["red", "blue cat", "small"]}
        found = model.infill("two [MASK] [MASK]{1,2} walk.", TOKENIZER, **options)
        assert not re.search("red|blue cat|small", found.text)


def test_a_gap_after_a_space_starts_with_a_word(model: SequenceEncoderForMaskedLM) -> None:
    options = {"do_sample": True, "temperature": 50.0, "num_return_sequences": 20, "seed": 0}
    found = model.infill("one red cat [MASK] walk.", TOKENIZER, **options)
    assert len(found) == 20
    assert all(result.fills != ["s"] for result in found)
    inside = model.infill("two red cat[MASK] walk.", TOKENIZER)
    assert inside.text == "two red cats walk."


def test_a_gap_before_letters_ends_with_a_space_if_the_model_reads_a_new_word(
    model: SequenceEncoderForMaskedLM,
) -> None:
    found = model.infill("[MASK]cat [MASK].", TOKENIZER)
    assert found.fills[0] in ("one ", "two ")
    assert found.text.startswith(found.fills[0] + "cat ")
    assert model.infill("one red [MASK]s walk.", TOKENIZER, bad_words=["cat"]).fills == ["dog"]
    assert model.infill("[MASK]cat sleeps.", TOKENIZER, gap_regex="one").text == "onecat sleeps."


@pytest.mark.parametrize("kind", ["unigram", "byte-level BPE"])
@pytest.mark.parametrize("empty", [True, False])
def test_gaps_are_filled_with_whole_characters_and_not_with_spaces(
    kind: str, empty: bool, tiny_config: Callable[..., Any]
) -> None:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if kind == "unigram":
        words = ["▁", "▁a", "b", "猫"]
        backend = Tokenizer(models.Unigram([(token, -1.0) for token in [*special, *words]], unk_id=3))
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    else:
        # The last ones are parts of characters.
        words = ["Ġ", "ĠĠ", "Ġa", "b", "c", "Ã", "©", "ç"]
        vocabulary = {token: number for number, token in enumerate([*special, *words])}
        backend = Tokenizer(models.BPE(vocabulary, []))
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    tokens = {"pad_token_id": 1, "mask_token_id": 4}
    model = SequenceEncoderForMaskedLM(tiny_config("bert", vocab_size=len(tokenizer), **tokens))
    options = {"do_sample": True, "temperature": 9.0, "num_return_sequences": 40, "seed": 0}
    options["fill_token_id"] = 1 if empty else None
    for text in ("b <mask> b", "b<mask>b", "<mask>{1,2} b"):
        fills = [found.fills[0] for found in model.infill(text, tokenizer, **options)]
        assert all(fill.strip() for fill in fills)
        if "{" not in text:
            assert "\ufffd" not in "".join(fills)


def test_a_model_may_have_more_tokens_than_its_tokenizer(tiny_config: Callable[..., Any]) -> None:
    model = SequenceEncoderForMaskedLM(tiny_config("bert", vocab_size=40, mask_token_id=TOKENIZER.mask_token_id))
    assert model.infill("one [MASK]{1,3} walks.", TOKENIZER, gap_regex="red cat").text == "one red cat walks."
    fewer = SequenceEncoderForMaskedLM(tiny_config("bert", vocab_size=10, mask_token_id=TOKENIZER.mask_token_id))
    with pytest.raises(ValueError, match="tokenizer has 16 tokens, but the model only 10"):
        fewer.infill("[MASK]", TOKENIZER)


def test_pipelines_return_the_same_as_the_methods(model: SequenceEncoderForMaskedLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    infilling = pipeline("infilling", model=str(tmp_path))
    assert isinstance(infilling, InfillingPipeline)
    texts = ["two [MASK]{2,4} walk.", "one [MASK] cat walks."]
    expected = model.infill(texts, TOKENIZER)
    assert infilling(texts) == [{"sequence": r.text, "fills": r.fills, "score": r.score} for r in expected]
    assert infilling(texts[0]) == infilling(texts)[0]
    several = infilling(texts, do_sample=True, num_return_sequences=3, seed=1)
    assert [len(results) for results in several] == [3, 3]
    assert pipeline("infilling", model=str(tmp_path), bad_words=["red"])("one [MASK] cat walks.")["fills"] == ["blue"]
    assert infilling([]) == []
    assert infilling(texts, batch_size=2) == infilling(texts)


def test_text_generation_continues_prompts_and_chats(tmp_path: Path) -> None:
    grammar_model().save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    writing = pipeline("text-generation", model=str(tmp_path), max_new_tokens=9, do_sample=False)
    starts = ["one", "two red cat", "two small "]
    found = [text for [result] in writing(starts, batch_size=3) for text in result.values()]
    assert set(found) <= set(SENTENCES)
    assert all(text.startswith(start) for text, start in zip(found, starts, strict=True))
    for start, text in zip(starts, found, strict=True):
        assert writing(start, add_special_tokens=False)[0]["generated_text"] == text
    assert starts[0] + writing(starts[0], return_full_text=False)[0]["generated_text"] == found[0]
    for start in ("[SEP]", "", "unknown"):
        result = writing(start, return_full_text=False)[0]["generated_text"]
        ids = TOKENIZER(start or "[CLS]", add_special_tokens=bool(start), return_tensors="pt").input_ids
        written = writing.model.generate(ids[:, : 1 + (start == "unknown")], max_new_tokens=9)
        assert result.strip() == TOKENIZER.decode(written[0], skip_special_tokens=True), start
        assert result.startswith(" ") == bool(start)
    writing.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    chat = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "small"}]
    reply = writing(chat)[0]["generated_text"][-1]["content"]
    assert f"one {reply}" in SENTENCES


WITHOUT_PACKAGE = """
import json
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline
folder = sys.argv[1]
model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
ids = tokenizer("one small", return_tensors="pt").input_ids
custom = {"custom_generate": folder, "trust_remote_code": True}
print(json.dumps({
    "infill": model.infill("two [MASK]{2,4} walk.", tokenizer, gap_regex="small .*").text,
    "pipeline": pipeline("infilling", model=folder, trust_remote_code=True)("two [MASK]{2,4} walk.")["sequence"],
    "generate": model.generate(ids, max_new_tokens=9).tolist(),
    "custom": model.generate(ids, max_new_tokens=9, **custom).tolist(),
    "continuation": pipeline("text-generation", model=folder, trust_remote_code=True)(
        "one small", max_new_tokens=9, do_sample=False
    )[0]["generated_text"],
}))
"""


def test_a_saved_folder_writes_the_same_without_the_package(
    model: SequenceEncoderForMaskedLM, without_package: Callable[..., Any], tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    found = without_package(WITHOUT_PACKAGE, tmp_path)
    expected = model.generate(TOKENIZER("one small", return_tensors="pt").input_ids, max_new_tokens=9).tolist()
    assert found == {
        "infill": model.infill("two [MASK]{2,4} walk.", TOKENIZER, gap_regex="small .*").text,
        "pipeline": model.infill("two [MASK]{2,4} walk.", TOKENIZER).text,
        "generate": expected,
        "custom": expected,
        "continuation": TOKENIZER.decode(expected[0], skip_special_tokens=True),
    }


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("no gap", {}, r"'no gap' has no gap; mark gaps with \[MASK\]"),
        ("[MASK]{0}", {}, r"The gap \[MASK\]\{0\} must have at least one token"),
        ("[MASK]{3,2}", {}, "its numbers must ascend"),
        ("one [MASK]{31}", {}, "but the model has only 32 positions"),
        ("[MASK]{1,99999999}", {}, r"The gap \[MASK\]\{1,99999999\} has up to 99999999 tokens, but"),
        (None, {}, "texts must be a text or several texts, got None"),
        (["[MASK]", 3], {}, "texts must be a text or several texts, got 3"),
        ("[MASK]", {"bad_words": [3]}, r"bad_words must be a list of words, got \[3\]"),
        ("one [MASK]{40}", {}, "but the model has only 32 positions"),
        ("[MASK]", {"max_new_tokens": 3}, "infill has no argument max_new_tokens"),
        ("[MASK]", {"colour": "red"}, "infill has no argument colour"),
        ("[MASK]", {"steps": 0}, "steps must be an integer at least 1"),
        ("[MASK]", {"bad_words": "red"}, "bad_words must be a list of words, got 'red'"),
    ],
)
def test_bad_arguments_are_refused(text: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grammar_model().infill(text, TOKENIZER, **options)

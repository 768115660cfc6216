"""Writing by unmasking: what a model writes that has learned a small grammar, and how much it computes for that."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from sequence_encoder import SequenceEncoderForMaskedLM
from sequence_encoder.modeling.generation import sampler
from sequence_encoder.tests.fixtures.grammar_models import (
    CLS,
    MASK,
    PAD,
    SENTENCES,
    SEP,
    grammar_model,
    grammar_tokenizer,
)

TOKENIZER = grammar_tokenizer()
UNMASKING = ("confidence", "margin", "entropy", "random")


@pytest.fixture(scope="module")
def model() -> SequenceEncoderForMaskedLM:
    return grammar_model()


def prompts(texts: list[str], side: str = "right") -> dict[str, torch.Tensor]:
    batch: Any = TOKENIZER(texts, padding=True, padding_side=side, return_tensors="pt")
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def texts_of(sequences: torch.Tensor) -> list[str]:
    return TOKENIZER.batch_decode(sequences, skip_special_tokens=True)


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize(
    ("unmasking", "block_length"), [*((rule, None) for rule in UNMASKING), ("confidence", 3), ("confidence", 6)]
)
def test_continuations_are_sentences_of_the_grammar(
    model: SequenceEncoderForMaskedLM, unmasking: str, do_sample: bool, block_length: int | None
) -> None:
    starts = ["one", "two red", "two small blue dogs", "one blue cat walks"]
    # Ancestral sampling writes several tokens at once, unless it has many steps.
    steps = 100 if unmasking == "random" else None
    options = {"unmasking": unmasking, "do_sample": do_sample, "block_length": block_length, "steps": steps, "seed": 3}
    for side in ("left", "right"):
        found = texts_of(model.generate(**prompts(starts, side), max_new_tokens=10, **options))
        assert set(found) <= set(SENTENCES)
        assert all(text.startswith(start) for text, start in zip(found, starts, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"remasking": 0.3},
        {"guidance_scale": 1.5},
        {"confidence_threshold": 0.95},
        {"unmasking": "entropy", "entropy_bound": 0.05},
        {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 3},
        {"generation_config": GenerationConfig(unmasking="margin", do_sample=True, top_k=2)},
    ],
)
def test_gaps_are_filled_without_changing_what_surrounds_them(
    model: SequenceEncoderForMaskedLM, options: dict[str, Any]
) -> None:
    gaps = ["one [MASK] [MASK] sleeps .", "[MASK] red cat [MASK] sleep .", "two [MASK] blue [MASK] [MASK] walk [MASK]"]
    batch = prompts(gaps)
    sequences = model.generate(**batch, seed=1, **options)
    given = batch["input_ids"] != MASK
    assert torch.equal(sequences[given], batch["input_ids"][given])
    assert not (sequences == MASK).any()
    assert set(texts_of(sequences)) <= set(SENTENCES)


def test_a_text_depends_on_its_seed_but_not_on_padding_or_other_texts(model: SequenceEncoderForMaskedLM) -> None:
    starts = ["one", "two small", "two"]
    options = {"max_new_tokens": 9, "do_sample": True, "temperature": 2.0, "seed": 3}
    together = texts_of(model.generate(**prompts(starts, "left"), **options))
    assert together == texts_of(model.generate(**prompts(starts), **options))
    assert together[0] == texts_of(model.generate(**prompts(starts[:1]), **options))[0]
    assert together != texts_of(model.generate(**prompts(starts), **{**options, "seed": 4}))
    torch.manual_seed(0)
    first = model.generate(**prompts(starts), **{**options, "seed": None})
    torch.manual_seed(0)
    torch.testing.assert_close(first, model.generate(**prompts(starts), **{**options, "seed": None}))


def test_it_writes_what_a_plain_loop_writes(model: SequenceEncoderForMaskedLM) -> None:
    batch = prompts(
        ["[MASK] [MASK] [MASK] sleep .", "[MASK] [MASK] [MASK] [MASK] [MASK] .", "one [MASK] [MASK] [MASK]"]
    )
    ids, mask = batch["input_ids"].clone(), batch["attention_mask"]
    steps = 2
    for step in range(steps):
        with torch.no_grad():
            logits = model(ids, mask).logits
        logits[..., [PAD, CLS, SEP, MASK]] = -torch.inf
        confidence, tokens = logits.softmax(-1).max(-1)
        for row in range(len(ids)):
            masked = (ids[row] == MASK).nonzero()[:, 0]
            count = -(-len(masked) // (steps - step))
            chosen = masked[confidence[row, masked].topk(count).indices]
            ids[row, chosen] = tokens[row, chosen]
    torch.testing.assert_close(model.generate(**batch, steps=steps), ids)


def test_only_masks_are_computed_in_the_end_and_only_texts_that_are_not_done(
    model: SequenceEncoderForMaskedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, predicted = [], []
    run, decode = model.model.forward, model.decoder.forward
    monkeypatch.setattr(
        model.model, "forward", lambda **given: read.append(len(given["cu_seq_lens_q"]) - 1) or run(**given)
    )
    monkeypatch.setattr(model.decoder, "forward", lambda states: predicted.append(len(states)) or decode(states))
    batch = prompts(["one [MASK] cat sleeps .", "two [MASK] [MASK] [MASK] walk .", "two [MASK] [MASK] sleep ."])
    output = model.generate(**batch, return_dict_in_generate=True)
    assert output.steps.tolist() == [1, 3, 2]
    assert read == [3, 2, 1]
    assert predicted == [6, 3, 1]
    assert ((output.confidence > 0) == (batch["input_ids"] == MASK)).all()


def test_a_threshold_or_a_bound_ends_early_where_the_model_is_sure(model: SequenceEncoderForMaskedLM) -> None:
    batch = prompts(["one red cat sleep[MASK] [MASK]", "two [MASK] [MASK] dog[MASK] [MASK] ."])
    for options in ({"confidence_threshold": 0.9}, {"unmasking": "entropy", "entropy_bound": 0.2}):
        steps = model.generate(**batch, return_dict_in_generate=True, **options).steps
        assert steps[0] == 1
        assert 1 < steps[1] <= 4
    assert model.generate(**batch, return_dict_in_generate=True, steps=2).steps.tolist() == [2, 2]


def test_a_text_ends_at_its_stop_token(model: SequenceEncoderForMaskedLM) -> None:
    sequences = model.generate(**prompts(["one red cat", "two small red"]), max_new_tokens=9)
    assert sequences.tolist()[0][-3:] != [PAD] * 3
    assert [int((row == SEP).sum()) for row in sequences] == [1, 1]
    full_stop = TOKENIZER.convert_tokens_to_ids(".")
    longer = model.generate(**prompts(["one red cat"]), max_new_tokens=9, eos_token_id=full_stop)
    assert longer[0, -1] == full_stop
    assert len(model.generate(**prompts(["one"]), max_new_tokens=2)[0]) == 4


def test_arguments_that_callers_of_transformers_pass_are_taken(model: SequenceEncoderForMaskedLM) -> None:
    batch: Any = TOKENIZER(["one", "two"], return_tensors="pt", return_token_type_ids=True)
    outputs = dict.fromkeys(("output_scores", "output_logits", "output_attentions", "output_hidden_states"), False)
    options = {"num_beams": 1, "use_cache": True, "remove_invalid_values": True, "bad_words_ids": [[1, 0]], **outputs}
    # `Seq2SeqTrainer` passes the first two.
    options |= {"labels": batch["input_ids"], "synced_gpus": False, "temperature": 0, "seed": np.int64(3)}
    sequences = model.generate(**batch, **options, max_new_tokens=np.int64(9))
    assert torch.equal(sequences, model.generate(batch["input_ids"], max_new_tokens=9))
    for least in (9, 12):
        assert model.generate(**batch, **options, max_new_tokens=12, min_new_tokens=least).shape[1] >= 2 + least


def test_remasking_keeps_the_end_of_a_text(model: SequenceEncoderForMaskedLM) -> None:
    options = {"do_sample": True, "temperature": 1.5, "num_return_sequences": 20, "seed": 3}
    found = model.generate(**prompts(["one"]), max_new_tokens=12, remasking=1.0, **options)
    assert ((found == SEP).sum(1) == 1).all()


def test_ancestral_sampling_only_predicts_what_it_writes(
    model: SequenceEncoderForMaskedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted, decode = [], model.decoder.forward
    monkeypatch.setattr(model.decoder, "forward", lambda states: predicted.append(len(states)) or decode(states))
    batch = prompts(["[MASK] [MASK] [MASK] walk .", "one [MASK] cat [MASK] ."])
    output = model.generate(**batch, unmasking="random", steps=50, seed=0, return_dict_in_generate=True)
    assert sum(predicted) == 5
    assert output.steps.tolist() == [3, 2]


def test_custom_code_gets_all_arguments(model: SequenceEncoderForMaskedLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "load_custom_generate", lambda *args, **kwargs: lambda model, **given: given)
    arguments = {
        **{"streamer": object(), "logits_processor": [object()], "generation_config": object()},
        **{"allowed_tokens": [5], "bad_words_ids": [[6]], "return_dict_in_generate": True, "steps": 2},
    }
    given = model.generate(**prompts(["one"]), custom_generate="folder", **arguments)
    assert {name: given[name] for name in arguments} == arguments


def test_constraints_hold(model: SequenceEncoderForMaskedLM) -> None:
    red, cat, small = TOKENIZER.convert_tokens_to_ids(["red", "cat", "small"])
    batch = prompts(["one [MASK] [MASK] sleeps .", "[MASK] [MASK] [MASK] walks ."], "left")
    everything = range(5, model.config.vocab_size)
    found = model.generate(**batch, allowed_tokens=[token for token in everything if token != red], seed=0)
    assert red not in found
    place = int((batch["input_ids"][0] == MASK).nonzero()[0])
    assert model.generate(**batch, allowed_tokens={place: [red]})[0, place] == red
    padded = prompts(["[MASK] cat", "[MASK] small red cat"], "left")
    assert model.generate(**padded, allowed_tokens={0: [red], place: [small]})[1, place] == small
    assert model.generate(**batch, allowed_tokens=[{place: [small]}, {}])[0, place] == small
    for seed in range(3):
        found = model.generate(**batch, bad_words_ids=[[red, cat], [small]], do_sample=True, temperature=3.0, seed=seed)
        pairs = [tuple(pair) for row in found.tolist() for pair in itertools.pairwise(row)]
        assert (red, cat) not in pairs
        assert small not in found


def test_joint_constraints_do_not_keep_the_logits_of_all_texts(
    model: SequenceEncoderForMaskedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, run = [], model.model.forward
    monkeypatch.setattr(
        model.model, "forward", lambda **given: read.append(len(given["cu_seq_lens_q"]) - 1) or run(**given)
    )
    monkeypatch.setattr(sampler, "_MAX_KEPT_LOGITS", 20 * model.config.vocab_size)
    batch = prompts(["one [MASK] cat sleeps ."] * 5)
    expected = model.generate(**batch)
    assert torch.equal(model.generate(**batch, bad_words_ids=[[SEP, SEP]]), expected)
    assert read == [5, 2, 2, 1]


def test_banned_words_of_the_model_hold(model: SequenceEncoderForMaskedLM, monkeypatch: pytest.MonkeyPatch) -> None:
    blue = TOKENIZER.convert_tokens_to_ids("blue")
    monkeypatch.setattr(model.generation_config, "bad_words_ids", [[blue]])
    config = GenerationConfig(steps=1)
    assert blue not in model.generate(**prompts(["one [MASK] cat"]), generation_config=config)


def test_processors_of_transformers_apply_to_each_mask(model: SequenceEncoderForMaskedLM) -> None:
    seen = []

    class OnlyDogs(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            seen.append((tuple(input_ids.shape), tuple(scores.shape)))
            return scores.index_fill(1, torch.tensor(TOKENIZER.convert_tokens_to_ids(["cat"])), -torch.inf)

    batch = prompts(["one red [MASK] sleeps .", "two small blue [MASK]s [MASK] ."])
    found = texts_of(model.generate(**batch, logits_processor=LogitsProcessorList([OnlyDogs()])))
    assert found[0] == "one red dog sleeps ."
    assert seen[0] == ((3, 9), (3, model.config.vocab_size))
    repeated = prompts(["red red red blue [MASK]"])
    assert "red" not in texts_of(model.generate(**repeated, repetition_penalty=100.0))[0].split()[4:]


def test_sampling_follows_the_distribution(model: SequenceEncoderForMaskedLM) -> None:
    start = prompts(["two red"])
    found = model.generate(**start, max_new_tokens=9, do_sample=True, num_return_sequences=60, seed=0)
    counts = {text: texts_of(found).count(text) for text in SENTENCES}
    assert [text for text, count in counts.items() if count] == [s for s in SENTENCES if s.startswith("two red")]
    assert min(count for count in counts.values() if count) > 5
    greedy = model.generate(**start, max_new_tokens=9)
    for same in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        assert torch.equal(model.generate(**start, max_new_tokens=9, do_sample=True, **same), greedy)


@pytest.mark.since("transformers", "5.11", "has TextDiffusionStreamer")
def test_a_streamer_shows_each_step(model: SequenceEncoderForMaskedLM) -> None:
    from transformers import TextDiffusionStreamer

    class Recorder(TextDiffusionStreamer):
        def __init__(self) -> None:
            super().__init__(TOKENIZER, skip_special_tokens=True)
            self.drafts: list[str] = []
            self.written = ""

        def put_draft(self, value: torch.Tensor, **kwargs: Any) -> None:
            self.drafts.append(TOKENIZER.decode(value))

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            self.written += text

    streamer = Recorder()
    found = model.generate(**prompts(["one red [MASK] sleep[MASK] ."]), streamer=streamer)
    assert [draft.count("[MASK]") for draft in streamer.drafts] == [2, 1, 0]
    assert streamer.written.split() == texts_of(found)[0].split()
    with pytest.raises(ValueError, match="only one text, got 2"):
        model.generate(**prompts(["one [MASK]", "two [MASK]"]), streamer=streamer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unmasking": "best"}, "unmasking='best' does not exist; choose one of confidence, margin, entropy, random"),
        ({"steps": 0}, "steps must be an integer at least 1, got 0"),
        ({"steps": 2.5}, "steps must be an integer"),
        ({"temperature": 0.0, "do_sample": True}, "temperature must be a number greater than 0"),
        ({"top_p": 1.5}, "top_p must be a number greater than 0 and at most 1, got 1.5"),
        ({"remasking": 2}, "remasking must be a number at least 0 and at most 1"),
        ({"entropy_bound": 0.1}, "entropy_bound needs unmasking='entropy', got unmasking='confidence'"),
        ({"confidence_threshold": 0.9, "unmasking": "random"}, "confidence_threshold needs unmasking='confidence'"),
        ({"block_length": 4}, "block_length needs max_new_tokens"),
        ({"num_return_sequences": 2}, "num_return_sequences=2 needs do_sample=True"),
        ({"num_beams": 3}, "num_beams=3 is not supported"),
        ({"no_repeat_ngram_size": 1}, "no_repeat_ngram_size=1 is not supported"),
        ({"forced_bos_token_id": 0}, "forced_bos_token_id=0 is not supported"),
        ({"do_sample": "yes"}, "do_sample must be True or False, got 'yes'"),
        ({"eos_token_id": [3, 99]}, "eos_token_id must be an integer at least 0 and at most 15, got 99"),
        ({"fill_token_id": -1}, "fill_token_id must be an integer at least 0 and at most 15, got -1"),
        ({"pad_token_id": "x"}, "pad_token_id must be an integer at least 0, got 'x'"),
        ({"attention_mask": torch.tensor([[1, 1, 0, 1, 1]])}, "must be 0 only at the ends of a row, but .* row 0"),
        ({"input_ids": [[MASK]], "attention_mask": None}, r"tensor of integers .*, got \[\[4\]\]"),
        ({"generation_config": GenerationConfig(num_beams=3)}, "num_beams=3 is not supported"),
        ({"generation_config": {"steps": 1}}, r"generation_config must be a GenerationConfig, got \{'steps': 1\}"),
        ({"colour": False}, "generate has no argument colour"),
        ({"synced_gpus": True}, "generate has no argument synced_gpus"),
        ({"max_length": 9}, "max_length=9 is not supported; pass max_new_tokens"),
        ({"output_scores": True}, "generate has no argument output_scores"),
        (
            {"min_new_tokens": 5, "max_new_tokens": 4},
            "min_new_tokens must be an integer at least 0 and at most 4, got 5",
        ),
        ({"token_type_ids": torch.ones(1, 5)}, "token_type_ids must be 0"),
        ({"max_new_tokens": 30}, "max_new_tokens=30, but the model has only 32 positions"),
        ({"allowed_tokens": [9999]}, "allowed_tokens must be a list of token ids from 0 to 15"),
        ({"bad_words_ids": [[]]}, r"bad_words_ids\[0\] must be a list of token ids"),
        ({"allowed_tokens": [{}, {}]}, "one dict for each of 1 rows, got 2"),
        ({"allowed_tokens": [MASK]}, "the constraints leave no token"),
        ({"attention_mask": torch.ones(1, 2)}, "attention_mask must have the shape of input_ids"),
        ({"input_ids": torch.tensor([[CLS, 7, SEP]]), "attention_mask": None}, "Text 0 has no mask"),
        ({"inputs": torch.tensor([[MASK]])}, "Pass either inputs or input_ids"),
        ({"input_ids": torch.tensor([MASK]), "attention_mask": None}, r"integers of shape \(B, S\), got torch.int64"),
    ],
)
def test_bad_options_are_refused(model: SequenceEncoderForMaskedLM, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(**{**prompts(["one [MASK] cat"]), **options})


def test_a_model_without_a_mask_token_cannot_write(tiny_config: Callable[..., Any]) -> None:
    model = SequenceEncoderForMaskedLM(tiny_config("bert", mask_token_id=None))
    with pytest.raises(ValueError, match="mask_token_id is None"):
        model.generate(torch.tensor([[5, 6]]), max_new_tokens=2)

"""Pipelines on saved folders without the package, and question answering in detail."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

import sequence_encoder
from sequence_encoder import QuestionAnsweringPipeline, SequenceEncoderForQuestionAnswering, SequenceEncoderTokenizer

Build = Callable[..., Any]

TEXTS = ["the quick brown fox jumps over the lazy dog", "packing leaves the padding out"]
MASKED = "the quick [MASK] fox"
QUESTION = {"question": "who jumps over the dog", "context": TEXTS[0]}
HEADS = {
    "feature-extraction": "SequenceEncoderModel",
    "fill-mask": "SequenceEncoderForMaskedLM",
    "text-classification": "SequenceEncoderForSequenceClassification",
    "zero-shot-classification": "SequenceEncoderForSequenceClassification",
    "token-classification": "SequenceEncoderForTokenClassification",
    "question-answering": "SequenceEncoderForQuestionAnswering",
}
CALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "feature-extraction": (TEXTS[0], {}),
    "fill-mask": (MASKED, {"top_k": 3}),
    "text-classification": (TEXTS, {"top_k": None, "batch_size": 2}),
    "zero-shot-classification": (TEXTS[0], {"candidate_labels": ["animals", "software"]}),
    "token-classification": (TEXTS[0], {"ignore_labels": []}),
    "question-answering": (QUESTION, {"top_k": 3}),
}

RUN = """
import json, pathlib, transformers
saved, calls = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
results = {}
for task, (inputs, options) in calls.items():
    pipe = transformers.pipeline(task, model=str(saved / task), trust_remote_code=True)
    assert type(pipe.model).__module__.startswith("transformers_modules."), task
    results[task] = pipe(inputs, **options)
model = transformers.AutoModel.from_pretrained(saved / "feature-extraction", trust_remote_code=True)
tokenizer = transformers.AutoTokenizer.from_pretrained(saved / "feature-extraction", trust_remote_code=True)
results["encode"] = model.encode(json.loads(sys.argv[3]), tokenizer, normalize_embeddings=True).tolist()
print(json.dumps(results, default=float))
"""


@pytest.fixture(scope="module")
def tokenizer() -> SequenceEncoderTokenizer:
    return SequenceEncoderTokenizer.train_from_iterator(TEXTS * 2, vocab_size=97, show_progress=False)


@pytest.fixture(scope="module")
def saved(tiny_config: Build, randomize: Build, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines")
    labels = {0: "contradiction", 1: "neutral", 2: "entailment"}
    for task, name in HEADS.items():
        config = tiny_config("bert", id2label=labels, label2id={label: id_ for id_, label in labels.items()})
        randomize(getattr(sequence_encoder, name)(config)).save_pretrained(folder / task)
        tokenizer.save_pretrained(folder / task)
    return folder


@pytest.fixture(scope="module")
def results(saved: Path, without_package: Build) -> dict[str, Any]:
    return without_package(RUN, saved, json.dumps(CALLS), json.dumps(TEXTS))


@pytest.mark.parametrize("task", sorted(HEADS.keys() - {"question-answering"}))
def test_pipelines_give_the_same_results_without_the_package(results: Any, saved: Path, task: str) -> None:
    inputs, options = CALLS[task]
    expected = json.loads(json.dumps(pipeline(task, model=str(saved / task))(inputs, **options), default=float))
    assert results[task] == expected


def test_encode_gives_the_same_vectors_without_the_package(results: Any, saved: Path, tokenizer: Any) -> None:
    model = sequence_encoder.SequenceEncoderModel.from_pretrained(saved / "feature-extraction")
    assert results["encode"] == model.encode(TEXTS, tokenizer, normalize_embeddings=True).tolist()


def test_models_name_the_pipeline_of_their_task_if_it_is_ours(saved: Path, tmp_path: Path) -> None:
    ours = {HEADS[task]: {task} for task in ("question-answering", "text-classification", "token-classification")}
    ours["SequenceEncoderForMaskedLM"] = {"infilling", "text-generation"}
    for task, model_class in HEADS.items():
        config = json.loads((saved / task / "config.json").read_text())
        assert set(config.get("custom_pipelines", ())) == ours.get(model_class, set())
    model = sequence_encoder.SequenceEncoderForMaskedLM.from_pretrained(saved / "question-answering")
    model.config.custom_pipelines["mine"] = {"impl": "mine.Mine"}
    model.save_pretrained(tmp_path)
    assert set(json.loads((tmp_path / "config.json").read_text())["custom_pipelines"]) == {
        "mine",
        *ours["SequenceEncoderForMaskedLM"],
    }


# Question answering, with a model whose scores depend only on each token


@pytest.fixture
def answering(tiny_config: Build, randomize: Build, tokenizer: Any, saved: Path) -> QuestionAnsweringPipeline:
    """Build a model without layers and positions, where each token determines its own start and end scores."""
    model = randomize(
        SequenceEncoderForQuestionAnswering(tiny_config("bert", num_hidden_layers=0, max_position_embeddings=24))
    )
    model.model.embeddings.positions.table.weight.data.zero_()
    return QuestionAnsweringPipeline(model=model, tokenizer=tokenizer)


def favour(answering: Any, word: str, start: float = 1, end: float = 1, other: float = 0) -> None:
    """Make a token a likely start and end of answers. `other` adds a direction that reduces both scores."""
    directions = torch.nn.functional.normalize(answering.model.qa_outputs.weight.data)
    aside = torch.randn(directions.shape[1], generator=torch.Generator().manual_seed(3))
    token = answering.tokenizer.convert_tokens_to_ids(word)
    vector = start * directions[0] + end * directions[1] + other * torch.nn.functional.normalize(aside, dim=0)
    answering.model.model.embed_tokens.weight.data[token] = 500 * vector


@pytest.mark.parametrize("place", [0, 1, 9, 10, 11, 12, 30, 58, 59])
def test_an_answer_is_found_anywhere_in_a_long_context(answering: Any, place: int) -> None:
    favour(answering, "fox")
    words = ["the"] * 60
    words[place] = "fox"
    answer = answering(question="who jumps", context=" ".join(words), max_seq_len=16, doc_stride=4)
    assert (answer["answer"], answer["start"]) == ("fox", 4 * place)
    assert answer["score"] > 0.5


def test_an_answer_in_one_window_beats_no_answer_in_others(answering: QuestionAnsweringPipeline) -> None:
    favour(answering, "fox")
    favour(answering, answering.tokenizer.cls_token, other=1)
    ask = {"question": "who jumps", "handle_impossible_answer": True, "max_seq_len": 14, "doc_stride": 3}
    assert answering(context=" ".join(["the"] * 40), **ask)["answer"] == ""
    for words in (["fox", *["the"] * 40], [*["the"] * 40, "fox"]):
        assert answering(context=" ".join(words), **ask)["answer"] == "fox"


def test_extreme_scores_and_contexts_without_tokens_are_answered(answering: QuestionAnsweringPipeline) -> None:
    for scale in (1.0, 3e3):
        answering.model.qa_outputs.weight.data *= scale
        answer = answering(**QUESTION)
        assert answer["answer"] == QUESTION["context"][answer["start"] : answer["end"]] != ""
        assert 0 <= answer["score"] <= 1
    nothing = {"score": 0.0, "start": 0, "end": 0, "answer": ""}
    assert answering(question="who", context="\x00") == nothing
    assert answering(question="who", context="\x00", top_k=2) == []
    assert answering([]) == []


def test_lists_of_questions_and_contexts_are_answered_in_pairs(answering: QuestionAnsweringPipeline) -> None:
    questions = ["who jumps", "what is lazy"]
    pairs = [answering(question=question, context=TEXTS[0]) for question in questions]
    assert answering(question=questions, context=TEXTS[0]) == pairs
    assert answering(question=questions, context=[TEXTS[0]] * 2) == pairs
    with pytest.raises(ValueError, match=r"the same number of texts.*got 2 and 1"):
        answering(question=questions, context=TEXTS[:1])


def test_answers_do_not_depend_on_threads_that_share_the_tokenizer(answering: Any) -> None:
    context = " ".join(TEXTS * 6)
    asked = {"question": "who", "context": context, "doc_stride": 2}
    lengths = (12, 16, 20, 24)
    expected = {length: answering(**asked, max_seq_len=length) for length in lengths}
    done = threading.Event()

    def pad() -> None:
        while not done.is_set():
            answering.tokenizer(TEXTS, padding="max_length", truncation=True, max_length=5)

    with ThreadPoolExecutor(5) as pool:
        other = pool.submit(pad)
        found = list(pool.map(lambda length: answering(**asked, max_seq_len=length), lengths * 8))
        done.set()
        other.result()
    assert found == [expected[length] for length in lengths * 8]


def test_windows_use_the_maximum_length_of_tokenizer_and_model(answering: Any) -> None:
    seen: list[int] = []
    answering.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    long = {"question": "who " * 50, "context": TEXTS[0] * 9}
    answering(**long, max_question_len=7)
    assert max(seen) == answering.model.config.max_position_embeddings == 24
    seen.clear()
    answering.tokenizer.model_max_length = 18
    answering(**long, max_question_len=7)
    answering.tokenizer.model_max_length = 10**30
    assert max(seen) == 18


def test_the_empty_answer_is_returned_only_if_allowed(answering: QuestionAnsweringPipeline) -> None:
    favour(answering, answering.tokenizer.cls_token)
    assert answering(**QUESTION)["answer"] != ""
    answer = answering(**QUESTION, handle_impossible_answer=True)
    assert (answer["answer"], answer["start"], answer["end"]) == ("", 0, 0)
    assert 0.5 < answer["score"] <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"question": "", "context": "a"}, "question must be a non-empty string, got ''"),
        ({"question": "a", "context": None}, "context must be a non-empty string, got None"),
        ({**QUESTION, "top_k": 0}, "top_k must be an integer of at least 1, got 0"),
        ({**QUESTION, "max_seq_len": 8}, "max_seq_len=8 leaves no room"),
        ({**QUESTION, "top_k": True}, "top_k must be an integer of at least 1, got True"),
        ({**QUESTION, "doc_stride": -5}, "doc_stride must be an integer of at least 0, got -5"),
        ({**QUESTION, "doc_stride": 1.5}, r"doc_stride must be an integer of at least 0, got 1\.5"),
        ({**QUESTION, "handle_impossible_answer": "no"}, "handle_impossible_answer must be True or False, got 'no'"),
    ],
)
def test_invalid_questions_and_options_are_rejected(answering: Any, call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        answering(**call)


def test_other_heads_and_slow_tokenizers_are_rejected(saved: Path, tokenizer: Any, answering: Any) -> None:
    with pytest.raises(ValueError, match="must have a question answering head, got a SequenceEncoderModel"):
        QuestionAnsweringPipeline(model=answering.model.model, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="tokenizer must be a fast tokenizer"):
        QuestionAnsweringPipeline(model=answering.model, tokenizer=object())

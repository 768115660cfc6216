"""Write short texts with a positive or negative sentiment, of four kinds, as JSON Lines.

The texts are those that Hutto and Gilbert (2014, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of
Social Media Text") had rated: sentences of movie reviews, product reviews and newspaper editorials, and tweets. The
source distribution of vaderSentiment, which has the MIT licence, contains them.

pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
python sentiment.py vaderSentiment-3.3.2.tar.gz sentiment   # writes movies-train, movies-test, products, news, tweets
"""

from __future__ import annotations

import argparse
import html
import io
import json
import random
import tarfile
from pathlib import Path

SOURCES = {
    "movies": "movieReviewSnippets",
    "products": "amazonReviewSnippets",
    "news": "nytEditorialSnippets",
    "tweets": "tweets",
}
# The mean of the ratings, from -4 to 4, that is the nearest to 0 to count as a sentiment.
LEAST_RATING = 0.5
TEST_SHARE = 0.2
Row = dict[str, str]


def read_sentiment(archive: Path, seed: int = 0) -> dict[str, list[Row]]:
    """Return the rows of each kind, each with `text` and `label`, in random order. The movies are split in two.

    Args:
        archive: The source distribution of vaderSentiment.
        seed: The seed of the order.

    Raises:
        ValueError: If the archive does not contain the ratings.
    """
    with tarfile.open(archive) as outer:
        inner = next((file for file in outer if file.name.endswith("/hutto_ICWSM_2014.tar.gz")), None)
        if inner is None or (packed := outer.extractfile(inner)) is None:
            raise ValueError(f"{archive} does not contain hutto_ICWSM_2014.tar.gz; pass the sdist of vaderSentiment.")
        with tarfile.open(fileobj=io.BytesIO(packed.read())) as ratings:
            found = {name: _rows(ratings, source) for name, source in SOURCES.items()}
    for rows in found.values():
        random.Random(seed).shuffle(rows)
    movies = found.pop("movies")
    held_out = round(TEST_SHARE * len(movies))
    return {"movies-train": movies[held_out:], "movies-test": movies[:held_out], **found}


def _rows(ratings: tarfile.TarFile, source: str) -> list[Row]:
    file = ratings.extractfile(f"hutto_ICWSM_2014/{source}_GroundTruth.txt")
    if file is None:
        raise ValueError(f"{source}_GroundTruth.txt is not a file.")
    labels: dict[str, str] = {}  # a text that occurs twice counts once
    for line in file.read().decode("utf-8").splitlines():
        _, rating, text = line.split("\t")
        if abs(float(rating)) > LEAST_RATING:
            # Some texts were escaped twice.
            text = html.unescape(html.unescape(text)).strip()
            labels.setdefault(text, "positive" if float(rating) > 0 else "negative")
    return [{"text": text, "label": label} for text, label in labels.items()]


def write_sentiment(archive: Path, folder: Path) -> None:
    """Write a file for each kind into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in read_sentiment(archive).items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("sentiment"))
    arguments = parser.parse_args()
    write_sentiment(arguments.archive, arguments.folder)

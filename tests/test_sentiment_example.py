"""`examples/sentiment.py` reads the ratings of texts from an archive in an archive."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from sequence_encoder.examples.sentiment import SOURCES, write_sentiment

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

"""Labels that people give in a browser are on the disk at once, and nothing else in the file changes."""

from __future__ import annotations

import gzip
import os
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from sequence_encoder import create_app
from sequence_encoder.command_line import UsageError
from sequence_encoder.data.label_file import ConflictError, LabelFile
from sequence_encoder.tests.fixtures.serving_apps import ask, served_models

CONTENT = 'id,text,label,note\n07,"a\nb, ""c""",,NA\n08,d,good,\n09,e,,é\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "chosen.csv"
    path.write_text(CONTENT)
    return path


def test_each_label_is_written_and_all_else_is_kept(file: Path, tmp_path: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + CONTENT.encode())
    file.chmod(0o640)
    link = tmp_path / "link.csv"
    link.symlink_to(file)
    (tmp_path / "names.txt").write_text("bad\ngood\n\n")
    labels = LabelFile(str(link), str(tmp_path / "names.txt"))
    assert labels.names == ["bad", "good"]
    labels.set(0, " so, so ", "")
    assert file.read_bytes() == b"\xef\xbb\xbf" + CONTENT.replace('c""",,', 'c""","so, so",').encode()
    assert labels.names == ["bad", "good", "so, so"]
    # Persian has invisible characters inside words, and French has spaces that do not break.
    for label, before in (("می\u200cشود", "so, so"), ("à\u00a0voir", "می\u200cشود"), ("", "à\u00a0voir")):
        labels.set(0, label, before)
    assert file.read_bytes() == b"\xef\xbb\xbf" + CONTENT.encode()
    assert file.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["chosen.csv", "link.csv", "names.txt"]


def test_labels_of_others_are_not_lost(file: Path) -> None:
    labels = LabelFile(str(file))
    with pytest.raises(ConflictError, match="labelled 'good' in the meantime"):
        labels.set(1, "bad", "")
    labels.set(1, "good", "")
    # A spreadsheet saves the file.
    file.write_text(CONTENT.replace("09,e,,", "09,e,bad,"))
    labels.set(0, "good", "")
    assert [row["label"] for row in LabelFile(str(file)).rows] == ["good", "good", "bad"]
    for content, message in (("text,label\nother,\n", "changed the texts"), ('text,label\n"half', "not valid CSV")):
        file.write_text(content)
        # Once more, as somebody would who has not read the message.
        for _ in range(2):
            with pytest.raises(ValueError, match=message):
                labels.set(0, "bad", "good")
        assert file.read_text() == content


def test_labels_that_arrive_together_are_all_kept(tmp_path: Path) -> None:
    file = tmp_path / "many.csv"
    file.write_text("text,label\n" + "".join(f"{number},\n" for number in range(24)))
    labels = LabelFile(str(file))
    threads = [threading.Thread(target=labels.set, args=(row, str(row), "")) for row in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_text() == "text,label\n" + "".join(f"{number},{number}\n" for number in range(24))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\n", "has no rows"),
        ("id,label\n1,\n", "has no column text; it has id, label"),
        ("text,other\na,b\n", "has no column label"),
        ("text;label\na;b\n", r"with .;. between them\. Save it as UTF-8, and CSV with commas\.$"),
    ],
)
def test_a_file_that_cannot_be_labelled_is_refused(file: Path, content: str, message: str) -> None:
    file.write_text(content)
    with pytest.raises(UsageError, match=message):
        LabelFile(str(file))


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "chosen.csv.gz"
    file.write_bytes(gzip.compress(CONTENT.encode()))
    with pytest.raises(UsageError, match=r"--label_file must end in \.csv"):
        LabelFile(str(file))


def test_the_routes_need_the_key_and_this_site(file: Path) -> None:
    app = create_app([served_models()["encoder"]], api_key="key", labels=LabelFile(str(file)))
    key = {"Authorization": "Bearer key"}
    body: dict[str, Any] = {"row": 0, "label": "bad", "before": ""}
    for path, content in (("/labels", None), ("/labels.csv", None), ("/labels", body)):
        assert ask(app, path, content).status_code == 401
    page = ask(app, "/label")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "//" not in page.text.replace("</", "")
    elsewhere = {**key, "Origin": "http://elsewhere"}
    assert ask(app, "/labels", body, headers=elsewhere).status_code == 403
    assert file.read_text() == CONTENT
    found = ask(app, "/labels", body, headers={**key, "Origin": "http://server"})
    assert (found.status_code, found.json()) == (200, {"names": ["good", "bad"]})
    assert file.read_text() == ask(app, "/labels.csv", headers=key).text == CONTENT.replace('c""",,', 'c""",bad,')
    shown = ask(app, "/labels", headers=key).json()
    assert shown["rows"][1] == {"text": "d", "label": "good", "reason": ""}
    assert ask(app, "/labels", body, headers=key).status_code == 200
    assert ask(app, "/labels", {**body, "label": "x"}, headers=key).status_code == 409
    assert ask(app, "/labels", {**body, "row": 3}, headers=key).status_code == 400
    assert ask(app, "/labels", {**body, "label": "a\nb", "before": "bad"}, headers=key).status_code == 400
    # A reload of the page shows what another program has written.
    file.write_text(CONTENT.replace("09,e,,", "09,e,new,"))
    found = ask(app, "/labels", headers=key).json()
    assert [row["label"] for row in found["rows"]] == ["", "good", "new"]
    assert found["names"] == ["good", "bad", "new"]
    file.unlink()
    for path, content in (("/labels", None), ("/labels.csv", None), ("/labels", body)):
        assert "No such file" in ask(app, path, content, headers=key).json()["error"]
    without = create_app([served_models()["encoder"]])
    assert "--label_file" in ask(without, "/labels").json()["error"]

"""Promise 7 for folders: nothing is half-written, and nothing but an older model is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from sequence_encoder.hub.whole_folders import check_replaceable, written_whole


def model_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "sequence_encoder"}')
    (folder / "model.safetensors").write_text("old")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_new_or_empty_or_a_saved_model_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_replaceable(tmp_path / "new", False, "--force")
    check_replaceable(tmp_path / "empty", False, "--force")
    check_replaceable(model_folder(tmp_path / "model"), True, "--force")
    with pytest.raises(FileExistsError, match=r"model exists; .*--force"):
        check_replaceable(tmp_path / "model", False, "--force")


def test_nothing_else_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "notes.txt").write_text("of long work")
    for name, content in (("list", "[1]"), ("other", '{"name": "of another program"}'), ("broken", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
    (tmp_path / "link").symlink_to(model_folder(tmp_path / "model"))
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in ("precious", "precious/notes.txt", "list", "other", "broken", "link", "dangling"):
        with pytest.raises(FileExistsError, match=f"{path} exists, and is no folder"):
            check_replaceable(tmp_path / path, True, "--force")


@pytest.mark.parametrize("name", ["notes.txt", "checkpoint-500", "data.csv"])
def test_what_is_no_part_of_a_model_is_not_lost_with_it(tmp_path: Path, name: str) -> None:
    (model_folder(tmp_path / "model") / name).mkdir()
    with pytest.raises(FileExistsError, match=f"more in it than a saved model, such as {name}"):
        check_replaceable(tmp_path / "model", True, "--force")


def test_where_one_is_and_what_is_read_are_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outer = model_folder(tmp_path / "outer")
    inner = model_folder(outer / "checkpoint-500")
    for kept in (outer, inner):
        with pytest.raises(FileExistsError, match=f"outer holds .*{kept.name}"):
            check_replaceable(outer, True, "--force", kept=kept)
    check_replaceable(inner, True, "--force", kept=outer)
    monkeypatch.chdir(inner)
    for path in (outer, inner, Path()):
        with pytest.raises(FileExistsError, match="where you are"):
            check_replaceable(path, True, "--force")


def test_a_finished_folder_takes_the_place_of_the_older_one(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "deep" / "model")
    with written_whole(folder, True, "--force") as written:
        (written / "new").write_text("new")
        assert names(folder) == ["config.json", "model.safetensors"]
    assert names(folder) == ["new"]
    assert names(folder.parent) == ["model"]


def test_an_error_leaves_everything_as_it_was(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")

    def fail() -> None:
        with written_whole(folder, True, "--force") as written:
            (written / "half").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (folder / "model.safetensors").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_the_older_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")

    def lose() -> None:
        with written_whole(folder, True, "--force") as written:
            written.rmdir()

    with pytest.raises(FileNotFoundError):
        lose()
    assert (folder / "model.safetensors").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_a_folder_reached_through_one_that_is_not_there_yet_is_not_replaced(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "notes.txt").write_text("of long work")
    with pytest.raises(FileExistsError, match="no folder of a saved model"):
        check_replaceable(tmp_path / "new" / ".." / "precious", True, "--force")

    def write() -> None:
        with written_whole(tmp_path / "new" / ".." / "precious", False, "--force"):
            pass

    with pytest.raises(FileExistsError, match="no folder of a saved model"):
        write()
    assert names(precious) == ["notes.txt"]
    assert names(tmp_path) == ["precious"]


def test_what_came_to_be_there_during_the_work_stays(tmp_path: Path) -> None:
    folder = tmp_path / "model"

    def write(replace: bool) -> None:
        with written_whole(folder, replace, "--force") as written:
            (written / "config.json").write_text("{}")
            folder.mkdir()
            (folder / "notes.txt").write_text("of another")

    for replace in (False, True):
        with pytest.raises(FileExistsError, match="model exists"):
            write(replace)
        assert names(folder) == ["notes.txt"]
        (folder / "notes.txt").unlink()
        folder.rmdir()


def test_the_modules_of_sentence_transformers_are_parts_of_a_model(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    for name in ("1_Pooling", "2024_runs"):
        (folder / name).mkdir()
    (folder / "modules.json").write_text('[{"path": ""}, {"path": "1_Pooling"}]')
    with pytest.raises(FileExistsError, match="such as 2024_runs"):
        check_replaceable(folder, True, "--force")
    (folder / "2024_runs").rmdir()
    check_replaceable(folder, True, "--force")

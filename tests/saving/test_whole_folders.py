"""Folders are written completely or not at all, and only older models are replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from sequence_encoder.saving.card_mark import save_card
from sequence_encoder.saving.custom_generate import CUSTOM_GENERATE_MARK
from sequence_encoder.saving.whole_folders import atomic_folder, check_replaceable


def model_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "sequence_encoder"}')
    (folder / "model.safetensors").write_text("old")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_new_and_empty_folders_and_saved_models_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_replaceable(tmp_path / "new", False, "--overwrite")
    check_replaceable(tmp_path / "empty", False, "--overwrite")
    check_replaceable(model_folder(tmp_path / "model"), True, "--overwrite")
    with pytest.raises(FileExistsError, match=r"model exists; .*--overwrite"):
        check_replaceable(tmp_path / "model", False, "--overwrite")


def test_other_files_and_folders_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "notes.txt").write_text("of long work")
    for name, content in (("list", "[1]"), ("other", '{"name": "of another program"}'), ("broken", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
    (tmp_path / "link").symlink_to(model_folder(tmp_path / "model"))
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in ("precious", "precious/notes.txt", "list", "other", "broken", "link", "dangling"):
        with pytest.raises(FileExistsError, match=f"{path} exists and (is a file|does not contain)"):
            check_replaceable(tmp_path / path, True, "--overwrite")


USER_FILES = {
    "my_research.py": "mine",
    "README.md": "# My notes on this model",
    "LICENSE": "mine",
    "results.json": '{"mine": 1}',
    "runs/log.txt": "mine",
    "adapter/adapter_config.json": '{"peft_type": "LORA"}',
    "adapter/adapter_model.safetensors": "mine",
    "base/model.safetensors": "mine",
    "checkpoint-500/model.safetensors": "mine",
    "1_Pooling/notes.txt": "mine",
    "2024_runs/config.json": "mine",
    "__pycache__/my_research.cpython-311.pyc": "mine",
    ".git/config": "mine",
    ".gitattributes": "mine",
    "tokenizer_notes.md": "mine",
    "xgb.model": "mine",
    "my_tokens_v2.json": "mine",
    "sequence_encoder_experiments.py": "mine",
    "app_config.json": "mine",
    "my.safetensors": "mine",
}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_user_files_are_kept_and_files_of_the_older_model_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = model_folder(tmp_path / "model")
    older = {
        "modules.json": '[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]',
        "sequence_encoder_auto_classes.py": "from .sequence_encoder_of_older_releases import *",
        **dict.fromkeys(("1_Pooling/config.json", "2_Dense/model.safetensors", "vocab.txt"), "old"),
        **dict.fromkeys(("model-00001-of-00002.safetensors", "model.safetensors.index.json"), "old"),
        "custom_generate/generate.py": f"{CUSTOM_GENERATE_MARK}\n",
        **dict.fromkeys(("chat_template.jinja", "training_args.bin", "sequence_encoder_of_older_releases.py"), "old"),
    }
    write(folder, {**USER_FILES, **older})
    (folder / "link").symlink_to(tmp_path)
    new = {"config.json": "new", "model.safetensors": "new", "1_Pooling/config.json": "new"}
    with atomic_folder(folder, True, "--overwrite") as written:
        write(written, new)
    (folder / "link").unlink()
    assert contents(folder) == {**USER_FILES, **new}
    assert not (folder / "2_Dense").exists()
    assert not (folder / "custom_generate").exists()
    assert [name for name in USER_FILES if name.partition("/")[0] not in caplog.text] == []
    assert names(tmp_path) == ["model"]


def test_new_files_do_not_overwrite_user_files(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    write(folder, USER_FILES)
    new = {"config.json": "new", "README.md": "new", "LICENSE": "mine", "adapter/adapter_config.json": "new"}
    for _ in range(2):
        with atomic_folder(folder, True, "--overwrite") as written:
            write(written, new)
            save_card(written / "README.md", "a new card")
        (folder / "config.json").write_text('{"model_type": "bert"}')
    found = contents(folder)
    assert USER_FILES.items() <= found.items()
    assert "a new card" in found["README.new.md"]
    assert found["adapter.new/adapter_config.json"] == "new"
    assert "README.new1.md" not in found


def test_a_card_is_replaced_until_someone_edits_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for edition in ("first", "second"):
        with atomic_folder(folder, True, "--overwrite") as written:
            (written / "config.json").write_text('{"model_type": "bert"}')
            save_card(written / "README.md", edition)
        assert (folder / "README.md").read_text().startswith(edition)
    edited = (folder / "README.md").read_text().replace("second", "second, and mine")
    (folder / "README.md").write_text(edited)
    with atomic_folder(folder, True, "--overwrite") as written:
        save_card(written / "README.md", "third")
    assert (folder / "README.md").read_text() == edited
    assert (folder / "README.new.md").read_text().startswith("third")


def test_the_target_of_a_link_is_neither_removed_nor_written(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    write(tmp_path / "elsewhere", {"config.json": "mine"})
    (folder / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    write(folder, {"modules.json": '[{"path": "1_Pooling"}]'})
    before = contents(folder)

    def replace() -> None:
        with atomic_folder(folder, True, "--overwrite") as written:
            write(written, {"config.json": "new", "1_Pooling/config.json": "new"})

    with pytest.raises(FileExistsError, match="1_Pooling is a link"):
        replace()
    assert contents(folder) == before
    assert contents(tmp_path / "elsewhere") == {"config.json": "mine"}


def test_a_failure_while_replacing_is_rolled_back(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    write(folder, {**USER_FILES, "sub": "a file of the user"})
    before = contents(folder)

    def replace() -> None:
        with atomic_folder(folder, True, "--overwrite") as written:
            write(written, {"config.json": "new", "model.safetensors": "new", "modules.json": '[{"path": "sub"}]'})
            write(written, {"sub/config.json": "new"})

    with pytest.raises(OSError, match="sub"):
        replace()
    assert contents(folder) == before


def test_an_adapter_that_would_load_with_the_new_model_is_rejected(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="contains a peft adapter"):
        check_replaceable(folder, True, "--overwrite")


def test_a_path_that_cannot_be_written_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in ("file/model", "file/deep/model", "dangling/model"):
        with pytest.raises(NotADirectoryError, match=f"{path} cannot be written: .* is not a folder"):
            check_replaceable(tmp_path / path, True, "--overwrite")
    if Path("/proc").is_dir():
        with pytest.raises(PermissionError, match="/proc/model cannot be written: /proc is not writable"):
            check_replaceable(Path("/proc/model"), True, "--overwrite")


def test_the_current_folder_and_folders_being_read_are_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = model_folder(tmp_path / "outer")
    inner = model_folder(outer / "checkpoint-500")
    for kept in (outer, inner):
        with pytest.raises(FileExistsError, match=f"outer contains .*{kept.name}"):
            check_replaceable(outer, True, "--overwrite", kept=kept)
    check_replaceable(inner, True, "--overwrite", kept=outer)
    monkeypatch.chdir(inner)
    for path in (outer, inner, Path()):
        with pytest.raises(FileExistsError, match="is the current folder"):
            check_replaceable(path, True, "--overwrite")


def test_an_error_changes_nothing(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")

    def fail() -> None:
        with atomic_folder(folder, True, "--overwrite") as written:
            (written / "half").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (folder / "model.safetensors").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_files_that_appear_during_the_work_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "model"

    def write(replace: bool) -> None:
        with atomic_folder(folder, replace, "--overwrite") as written:
            (written / "config.json").write_text("{}")
            folder.mkdir()
            (folder / "notes.txt").write_text("of another")

    for replace in (False, True):
        with pytest.raises(FileExistsError, match="model exists"):
            write(replace)
        assert names(folder) == ["notes.txt"]
        (folder / "notes.txt").unlink()
        folder.rmdir()

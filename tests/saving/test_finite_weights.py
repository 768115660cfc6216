"""Loading and saving warn of weights that are NaN or infinite, which never overwrite saved weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sequence_encoder import SequenceEncoderForMaskedLM, SequenceEncoderModel
from sequence_encoder.saving.finite_weights import find_non_finite
from sequence_encoder.saving.whole_folders import atomic_folder

Build = Callable[..., Any]


def spoil(model: Any, value: float, name: str = "layers.1.mlp.down_proj.weight") -> Any:
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1] = value
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_saving_and_loading_warn(
    tiny_config: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture, dtype: torch.dtype, value: float
) -> None:
    model = spoil(SequenceEncoderModel(tiny_config()).to(dtype), value)
    model.save_pretrained(tmp_path)
    assert "weights of this SequenceEncoderModel are NaN or infinite in layers.1.mlp.down_proj.weight." in caplog.text
    caplog.clear()
    again = SequenceEncoderModel.from_pretrained(tmp_path)
    assert f"weights of {tmp_path} are NaN or infinite in layers.1.mlp.down_proj.weight," in caplog.text
    assert find_non_finite(again) == ["layers.1.mlp.down_proj.weight"]
    caplog.clear()
    SequenceEncoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert "NaN or infinite" in caplog.text


@pytest.mark.parametrize("max_shard_size", ["50GB", "10KB"])
def test_weights_that_are_not_finite_do_not_overwrite_others(
    tiny_config: Build, tmp_path: Path, max_shard_size: str
) -> None:
    model = SequenceEncoderForMaskedLM(tiny_config("bert"))
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    spoiled = {name: tensor * float("nan") for name, tensor in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"SequenceEncoderForMaskedLM are NaN .* and \d+ more, and would replace those"
    ):
        model.save_pretrained(tmp_path, state_dict=spoiled)
    with pytest.raises(ValueError, match=rf"NaN or infinite in head.norm.bias, and would replace those in {tmp_path}"):
        spoil(model, float("inf"), "head.norm.bias").save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_replacing_a_whole_folder_keeps_its_finite_weights(tiny_config: Build, tmp_path: Path) -> None:
    """`convert --overwrite` and `adapt --overwrite` replace folders in this way."""
    model, folder = SequenceEncoderModel(tiny_config()), tmp_path / "model"

    def replace() -> None:
        with atomic_folder(folder, True, "--overwrite") as written:
            model.save_pretrained(written / "adapter")
            SequenceEncoderModel(tiny_config()).save_pretrained(written)

    replace()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    spoil(model, float("inf"))
    with pytest.raises(FileExistsError, match=rf"infinite in layers.1.mlp.down_proj.weight, .* those in {folder}; cho"):
        replace()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    # A new folder has nothing to lose.
    folder = tmp_path / "new"
    replace()


def test_meta_and_empty_weights_are_not_checked(tiny_config: Build) -> None:
    assert find_non_finite(SequenceEncoderModel(tiny_config()).to("meta")) == []
    assert find_non_finite(torch.nn.Linear(0, 3)) == []

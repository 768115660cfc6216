"""Save tiny models as the version of the package that is imported does, for `tests/hub/test_earlier_folders.py`.

There is an archive for each version that saved other folders:

    without_code    c3ba486   weights, configuration and tokenizer alone
    first_code      fb398ba   code in files such as `losses.py`, found by `auto_map`
    prefixed_code   ac899be   code in files such as `sequence_encoder_losses.py`; adapters
    merged_code     7c44627   the code of all models in three files such as `modeling_sequence_encoder.py`

This makes another one:

    git worktree add /tmp/earlier/sequence_encoder COMMIT
    PYTHONPATH=/tmp/earlier python tests/hub/earlier_folders/save.py tests/hub/earlier_folders/NAME.tar.xz
"""

from __future__ import annotations

import lzma
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

import sequence_encoder

TEXTS = ["a bad cab", "dab"]
TINY: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
    "num_labels": 3,
}
MODELS = {
    "AutoModelForMaskedLM": ("vanilla", {}),
    "AutoModelForPreTraining": ("bert", {}),
    "AutoModelForSequenceClassification": ("roberta", {}),
    "AutoModelForQuestionAnswering": ("modernbert", {"sliding_window": 2}),
}


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save a model with random weights of few bits, its tokenizer, and what they compute for the texts."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_((weight + 0.3 * torch.randn(weight.shape)).mul(32).round().div(32))
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**batch)
    save_file({"input_ids": batch["input_ids"], **outputs}, folder / "expected.safetensors")


def without_owner(file: tarfile.TarInfo) -> tarfile.TarInfo:
    file.uid = file.gid = file.mtime = 0
    file.uname = file.gname = ""
    return file


def main(archive: str) -> None:
    """Save a folder for each model, and for an adapter if the version has one, and pack them."""
    torch.manual_seed(0)
    tokenizer = sequence_encoder.SequenceEncoderTokenizer.train_from_iterator(
        TEXTS * 3, vocab_size=30, show_progress=False
    )
    with tempfile.TemporaryDirectory() as temporary:
        for auto_class, (preset, fields) in MODELS.items():
            # The first version does not take these fields from a tokenizer.
            special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "cls_token_id", "sep_token_id")}
            fields = {**TINY, **fields, **special, "vocab_size": len(tokenizer)}
            config = sequence_encoder.SequenceEncoderConfig.from_preset(preset, **fields)
            model = getattr(transformers, auto_class).from_config(config)
            save(model, tokenizer, Path(temporary, auto_class))
        if hasattr(sequence_encoder, "TaskAdapter"):
            encoder = transformers.AutoModel.from_pretrained(Path(temporary, "AutoModelForMaskedLM"))
            folder = Path(temporary, "AutoModelForSequenceClassification-adapter")
            save(sequence_encoder.TaskAdapter(encoder, 3), tokenizer, folder)
        with tarfile.open(archive, "w:xz", preset=9 | lzma.PRESET_EXTREME) as packed:
            for path in sorted(Path(temporary).rglob("*")):
                if path.is_file():
                    packed.add(path, path.relative_to(temporary), filter=without_owner)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Save tiny models as the version of the package that is imported does, for `tests/hub/test_earlier_folders.py`.

There is an archive for each version that saved other folders:

    without_code      c3ba486   weights, configuration and tokenizer alone
    first_code        fb398ba   code in files such as `losses.py`, found by `auto_map`
    prefixed_code     ac899be   code in files such as `sequence_encoder_losses.py`; adapters
    merged_code       7c44627   the code of all models in three files such as `modeling_sequence_encoder.py`
    code_for_a_model  32f429d   the code that a model needs in two files; folders of the kinds in `answers.py`

This makes another one:

    git worktree add /tmp/earlier/sequence_encoder COMMIT
    PYTHONPATH=/tmp/earlier python tests/hub/earlier_folders/save.py tests/hub/earlier_folders/NAME.tar.xz
"""

from __future__ import annotations

import json
import lzma
import random
import runpy
import sys
import tarfile
import tempfile
from dataclasses import replace
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
ANSWERS = runpy.run_path(str(Path(__file__).with_name("answers.py")))


def randomize(model: Any) -> Any:
    """Give a model random weights of few bits."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_((weight + 0.3 * torch.randn(weight.shape)).mul(32).round().div(32))
    return model.eval()


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save a model with random weights of few bits, its tokenizer, and what they compute for the texts."""
    randomize(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**batch)
    save_file({"input_ids": batch["input_ids"], **outputs}, folder / "expected.safetensors")


def fields_for(tokenizer: Any) -> dict[str, Any]:
    # The first version does not take these fields from a tokenizer.
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "cls_token_id", "sep_token_id")}
    return {**TINY, **special, "vocab_size": len(tokenizer)}


def save_kinds(tokenizer: Any, kinds: Path) -> None:
    """Save a folder of each kind in `answers.py`, and what it answers."""
    rng = random.Random(0)
    home, away = (
        [" ".join(rng.choices(words.split(), k=rng.randint(1, 8))) for _ in range(60)]
        for words in ("a bad cab dab", "cad dad add")
    )
    labels = [{"text": text, "label": f"LABEL_{rng.randrange(3)}"} for text in home]

    def make(head: str, preset: str = "bert", **fields: Any) -> Any:
        fields = {**fields_for(tokenizer), "mask_token_id": tokenizer.mask_token_id, **fields}
        config = sequence_encoder.SequenceEncoderConfig.from_preset(preset, **fields)
        return randomize(getattr(sequence_encoder, f"SequenceEncoder{head}")(config))

    def keep(model: Any, kind: str) -> None:
        model.save_pretrained(kinds / kind)
        tokenizer.save_pretrained(kinds / kind)

    static = sequence_encoder.static_encoder(torch.randn(len(tokenizer), 6).mul(32).round().div(32))
    keep(static, "static-encoder")
    encoder = make("Model", "modernbert", sliding_window=2)
    encoder.embedding_recipe = replace(static.embedding_recipe, pooling=("mean", "cls"), max_length=6)
    keep(encoder, "encoder")
    Path(kinds, "texts.jsonl").write_text("".join(json.dumps({"text": text, "n": len(text)}) + "\n" for text in home))
    index = kinds / "search-index"
    sequence_encoder.index_corpus(kinds / "encoder", kinds / "texts.jsonl", index, columns=["n"], dtype="float32")
    Path(kinds, "texts.jsonl").unlink()
    eight_bit = make("Model")
    sequence_encoder.quantize(eight_bit, tokenizer, home, target=0.5)
    keep(eight_bit, "eight-bit-encoder")
    keep(make("ForSequenceClassification", "deberta-v3"), "classifier")
    calibrated = make("ForSequenceClassification")
    sequence_encoder.calibrate(calibrated, tokenizer, labels, away=away, scaling="adaptive")
    keep(calibrated, "calibrated-classifier")
    tokenizer.add_tokens(["<<ENT>>", "<<SEP>>"], special_tokens=True)
    label_token, separator = tokenizer.convert_tokens_to_ids(["<<ENT>>", "<<SEP>>"])
    spans = {"label_token_id": label_token, "separator_token_id": separator, "max_width": 3}
    # Probabilities that are not all close to 1.
    spans |= {"logit_scale": 0.5, "logit_offset": -5.5}
    keep(make("ForSpanExtraction", span_extraction=spans, max_position_embeddings=32), "extractor")
    for folder in sorted(kinds.iterdir()):
        _, answer = ANSWERS["KINDS"][folder.name](folder)
        (folder / "expected.json").write_text(json.dumps(answer))


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
            fields = {**fields_for(tokenizer), **fields}
            config = sequence_encoder.SequenceEncoderConfig.from_preset(preset, **fields)
            model = getattr(transformers, auto_class).from_config(config)
            save(model, tokenizer, Path(temporary, auto_class))
        if hasattr(sequence_encoder, "TaskAdapter"):
            encoder = transformers.AutoModel.from_pretrained(Path(temporary, "AutoModelForMaskedLM"))
            folder = Path(temporary, "AutoModelForSequenceClassification-adapter")
            save(sequence_encoder.TaskAdapter(encoder, 3), tokenizer, folder)
        if hasattr(sequence_encoder, "static_encoder"):
            save_kinds(tokenizer, Path(temporary, "kinds"))
        with tarfile.open(archive, "w:xz", preset=9 | lzma.PRESET_EXTREME) as packed:
            for path in sorted(Path(temporary).rglob("*")):
                if path.is_file():
                    packed.add(path, path.relative_to(temporary), filter=without_owner)


if __name__ == "__main__":
    main(*sys.argv[1:])

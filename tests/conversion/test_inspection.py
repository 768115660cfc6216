"""`sequence-encoder inspect` says whether and how a checkpoint can be converted, from its `config.json` alone."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModel

import sequence_encoder
from sequence_encoder import (
    SequenceEncoderConfig,
    SequenceEncoderForMaskedLM,
    SequenceEncoderForTokenClassification,
    SequenceEncoderModel,
    TaskAdapterConfig,
    convert,
)
from sequence_encoder.__main__ import main
from sequence_encoder.conversion.inspection import Inspection, in_words, inspect
from sequence_encoder.tests.fixtures.hub_client import ClientError, HubClient
from sequence_encoder.tests.fixtures.hub_server import Hub
from sequence_encoder.tests.fixtures.other_families import SIZES
from sequence_encoder.tests.fixtures.remote_code_models import MODELS, RemoteCodeModel


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return `write(**fields)`, which writes only a `config.json` and returns its folder."""

    def write_fields(**fields: Any) -> Path:
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(fields))
        return folder

    return write_fields


def bert(**fields: Any) -> dict[str, Any]:
    return {**SIZES, "model_type": "bert", "architectures": ["BertForMaskedLM"], **fields}


@pytest.mark.parametrize(
    ("family", "model_class", "config"),
    [
        ("bert", "BertForMaskedLM", transformers.BertConfig(**SIZES)),
        ("bert", "BertModel", transformers.BertConfig(**SIZES)),
        ("roberta", "XLMRobertaForTokenClassification", transformers.XLMRobertaConfig(**SIZES, num_labels=5)),
        ("mpnet", "MPNetForMaskedLM", transformers.MPNetConfig(**SIZES)),
    ],
)
def test_the_printed_command_converts_to_a_model_of_the_stated_size(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    family: str,
    model_class: str,
    config: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    original = getattr(transformers, model_class)(config)
    original.save_pretrained("a model")
    main(["inspect", "a model"])
    printed = capsys.readouterr().out
    assert re.search(rf"^family +{family}$", printed, re.MULTILINE)
    assert re.search(r"^convertible +yes$", printed, re.MULTILINE)
    (command,) = re.findall(r"^next +(sequence-encoder .*)$", printed, re.MULTILINE)
    assert command == "sequence-encoder convert 'a model' --output_dir 'a model-sequence-encoder'"
    main(shlex.split(command)[1:])
    (head,) = json.loads(Path("a model-sequence-encoder", "config.json").read_text())["architectures"]
    converted = getattr(sequence_encoder, head).from_pretrained("a model-sequence-encoder")
    assert inspect("a model").parameters == converted.num_parameters()
    assert f"{converted.num_parameters():,}" in printed


def test_the_encoder_can_be_converted_without_its_head(write: Callable[..., Path]) -> None:
    found = inspect(write(**bert(model_type="electra", architectures=["ElectraForPreTraining"], embedding_size=15)))
    assert found.family == "electra"
    assert "ElectraForPreTraining cannot be converted" in str(found.obstacle)
    assert found.command is not None
    assert found.command.endswith("model-sequence-encoder --base_model")
    assert "ForPreTraining" not in found.heads
    assert str(found).splitlines()[3].startswith("convertible   only the encoder: ElectraForPreTraining")


def test_a_head_that_the_configuration_rules_out(write: Callable[..., Path]) -> None:
    """ELECTRA's prediction head always has GELU, whatever the layers have."""
    fields = bert(model_type="electra", architectures=["ElectraForMaskedLM"], hidden_act="relu", embedding_size=15)
    found = inspect(write(**fields))
    assert found.heads["Model"] is None
    assert "hidden_act='relu' is not supported" in str(found.heads["ForMaskedLM"])
    assert found.obstacle == found.heads["ForMaskedLM"]
    lines = str(found).splitlines()
    assert "  ForMaskedLM                 no, for the same reason" in lines
    assert "  ForTokenClassification      yes" in lines
    assert found.parameters == SequenceEncoderModel(_electra_as_ours(write)).num_parameters()


def _electra_as_ours(write: Callable[..., Path]) -> SequenceEncoderConfig:
    config = transformers.ElectraConfig(**SIZES, embedding_size=15, hidden_act="relu")
    return convert(transformers.ElectraModel(config)).config


def test_every_field_in_the_way_is_named(write: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(**bert(is_decoder=True, position_embedding_type="relative_key"))
    main(["inspect", str(folder)])
    printed = capsys.readouterr().out
    assert "no: is_decoder=True is not supported" in printed
    assert "position_embedding_type='relative_key' is not supported" in printed
    assert re.search(r"^next +use it with transformers", printed, re.MULTILINE)
    assert inspect(folder).parameters is inspect(folder).command is None
    assert "parameters" not in printed


def test_a_family_that_is_not_supported(write: Callable[..., Path]) -> None:
    found = inspect(write(model_type="gpt2", architectures=["GPT2LMHeadModel"], n_embd=24, n_layer=1, n_head=3))
    assert found.family is None
    assert found.heads == {}
    assert re.search(r"^family +not supported$", str(found), re.MULTILINE)
    assert "The supported families are bert, roberta" in str(found)
    unknown = inspect(write(model_type="mine", architectures=["MyModel"]))
    assert (unknown.architecture, unknown.family) == ("MyModel", None)
    assert unknown.obstacle == "the model type 'mine' is not supported; the installed transformers does not have it."


def test_a_sequence_encoder_names_the_families_that_it_can_go_back_to(
    tiny_config: Callable[..., SequenceEncoderConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    model = SequenceEncoderForMaskedLM(tiny_config("bert"))
    model.save_pretrained("ours")
    main(["inspect", "ours"])
    printed = capsys.readouterr().out
    assert re.search(r"^convertible +back to bert, .*ernie", printed, re.MULTILINE)
    assert "sequence-encoder convert ours --output_dir ours-bert --to bert" in printed
    found = inspect("ours")
    assert found.parameters == model.num_parameters()
    main(shlex.split(str(found.command))[1:])
    assert transformers.AutoModelForMaskedLM.from_pretrained("ours-bert").config.model_type == "bert"
    SequenceEncoderModel(tiny_config("vanilla")).save_pretrained("vanilla")
    assert inspect("vanilla").back == ()
    assert "back to no family" in str(inspect("vanilla"))
    assert "load it with transformers" in str(inspect("vanilla"))


@pytest.mark.parametrize("place", ["", "0_Transformer"])
def test_a_folder_of_sentence_transformers(bert_folder: Path, place: str) -> None:
    if place:
        (bert_folder / place).mkdir()
        (bert_folder / "config.json").rename(bert_folder / place / "config.json")
        modules = [{"path": place, "type": "sentence_transformers.models.Transformer"}]
        (bert_folder / "modules.json").write_text(json.dumps(modules))
    for weights in bert_folder.glob("*.safetensors"):
        weights.unlink()
    found = inspect(bert_folder)
    assert (found.family, found.architecture, found.obstacle) == ("bert", "BertForMaskedLM", None)
    assert shlex.split(str(found.command))[2] == str(bert_folder)


@pytest.mark.parametrize("spelling", [".", "../model", "./", "{}/"])
def test_the_target_of_the_command_has_a_name(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    folder = write(**bert())
    monkeypatch.chdir(folder)
    assert shlex.split(str(inspect(spelling.format(folder)).command))[4] == "model-sequence-encoder"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config\.json is damaged"),
        ("[]", r"config\.json must contain a JSON object"),
        ('{"model_type": "bert", "hidden_size": "big"}', "hidden_size"),
        ('{"model_type": "bert", "architectures": "BertModel"}', r"architectures[\s\S]* 'BertModel'"),
        ('{"model_type": "neobert", "architectures": [3]}', r"architectures is \[3\]"),
        ('{"model_type": 7}', "model_type must be a string"),
        ('{"model_type": "bert", "num_labels": 1e30}', "num_labels must be an integer"),
        ('{"model_type": "bert", "dtype": 3}', "dtype must be a floating dtype"),
        (
            '{"model_type": "sequence_encoder", "architectures": ["Other"]}',
            "architecture 'Other', which is not a model",
        ),
        ("{}", "model_type"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_damaged_configuration_ends_with_a_message(
    write: Callable[..., Path], text: str, message: str, options: list[str]
) -> None:
    folder = write()
    (folder / "config.json").write_text(text)
    with pytest.raises(SystemExit, match=rf"^sequence-encoder inspect: [\s\S]*{message}"):
        main(["inspect", str(folder), *options])


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ({"hidden_act": "x"}, "hidden_act"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"hidden_size": 10**30}, "hidden_size"),
    ],
)
def test_fields_with_which_transformers_fails_are_named(
    write: Callable[..., Path], field: dict[str, Any], named: str
) -> None:
    folder = write(**bert(architectures=["BertModel"], **field))
    assert named in str(inspect(folder).obstacle)
    transformers.BertModel(transformers.BertConfig(**SIZES)).save_pretrained(folder / "whole")
    (folder / "whole" / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match=rf"{named}|cannot build a BertModel .*`sequence-encoder inspect"):
        convert(folder / "whole")


def test_json_has_the_same_facts(write: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(**bert())
    main(["inspect", str(folder), "--json"])
    printed = json.loads(capsys.readouterr().out)
    found = inspect(folder)
    assert printed == found.as_dict()
    assert printed["convertible"]
    assert printed["encoder_convertible"]
    assert printed["family"] == "bert"
    assert printed["memory"] == {"float32": 4 * printed["parameters"]} | dict.fromkeys(
        ("bfloat16", "float16"), 2 * printed["parameters"]
    )
    assert set(printed["heads"].values()) == {None}
    main(["inspect", str(write(**bert(is_decoder=True))), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert not printed["convertible"]
    assert not printed["encoder_convertible"]
    assert printed["parameters"] is printed["command"] is None
    assert "is_decoder=True" in printed["obstacle"]


def test_edited_code_in_a_folder_is_found(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    config = tiny_config("bert")
    SequenceEncoderForTokenClassification(config).save_pretrained(tmp_path)
    assert "which is installed, writes it" in str(inspect(tmp_path).code)
    assert f"code          {inspect(tmp_path).code}" in str(inspect(tmp_path))
    code = tmp_path / "modeling_sequence_encoder.py"
    written = code.read_text()
    code.write_text(written.replace("return", "pass; return", 1))
    assert "changed since the package wrote it" in str(inspect(tmp_path).code)
    # The code of another model, as another version could have written it.
    AutoModel.from_config(config).save_pretrained(tmp_path / "encoder")
    for name in ("modeling_sequence_encoder.py", "configuration_sequence_encoder.py"):
        shutil.copy(tmp_path / "encoder" / name, tmp_path)
    assert "unchanged since version" in str(inspect(tmp_path).code)
    code.unlink()
    assert inspect(tmp_path).code is None


def test_code_in_other_files_is_named(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    SequenceEncoderForTokenClassification(tiny_config("bert")).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    fields["auto_map"]["AutoModel"] = "theirs.Model"
    fields["custom_pipelines"]["token-classification"]["impl"] = "them/other--modeling_sequence_encoder.Pipeline"
    (tmp_path / "config.json").write_text(json.dumps(fields))
    (tmp_path / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": [null, "words.Tokenizer"]}}')
    said = str(inspect(tmp_path).code)
    assert "which is installed, writes it; trust_remote_code=True also runs " in said
    assert "theirs.Model, words.Tokenizer, them/other--modeling_sequence_encoder.Pipeline; read it first" in said


def test_sizes_are_in_readable_units() -> None:
    def words(parameters: int) -> str:
        return in_words(Inspection("m", "BertModel", "bert", None, parameters=parameters).memory)

    assert words(4_433) == "17.3 KiB in float32, 8.7 KiB in bfloat16 or float16"
    assert words(22_713_216) == "86.6 MiB in float32, 43.3 MiB in bfloat16 or float16"
    assert words(109_482_240) == "418 MiB in float32, 209 MiB in bfloat16 or float16"
    assert words(7_000_000_000) == "26.1 GiB in float32, 13.0 GiB in bfloat16 or float16"


@pytest.mark.parametrize("name", MODELS)
def test_families_whose_code_is_on_the_hub(write: Callable[..., Path], name: str) -> None:
    fields = MODELS[name].fields
    found = inspect(write(**fields))
    assert (found.family, found.architecture) == (name, fields["architectures"][0])
    assert found.obstacle is None
    assert found.remote_code
    assert found.command is not None
    assert "it is not run" in str(found)
    with_more = inspect(write(**fields, sandwich_norm=True))
    assert with_more.unknown_fields == ("sandwich_norm",)
    assert "sandwich_norm: these fields could change the outputs" in str(with_more)


def test_what_stands_in_the_way_of_families_whose_code_is_on_the_hub(write: Callable[..., Path]) -> None:
    fields = MODELS["new"].fields
    found = inspect(write(**{**fields, "architectures": ["NewForRetroMAE"]}))
    assert "NewForRetroMAE cannot be converted" in str(found.obstacle)
    assert str(found.command).endswith("--base_model")
    found = inspect(write(**{**fields, "layer_norm_type": "rms_norm", "logn_attention_scale": True}))
    assert "layer_norm_type='rms_norm'" in str(found.obstacle)
    assert "logn_attention_scale=True" in str(found.obstacle)
    assert found.command is None
    assert "use it with its own code" in str(found)
    found = inspect(write(**{**fields, "hidden_size": "24"}))
    assert found.family == "new"
    assert "hidden_size must be a number" in str(found.obstacle)
    auto_map = {"AutoModel": "someone/code--modeling.MyModel"}
    found = inspect(write(model_type="mine", architectures=["MyModel"], auto_map=auto_map))
    assert (found.family, found.remote_code) == (None, True)
    assert "this package does not run code from the Hub" in str(found)


def test_the_size_of_a_model_whose_code_is_on_the_hub(write: Callable[..., Path]) -> None:
    def size(model: RemoteCodeModel, **more: int) -> int:
        shapes = model.shapes(model.fields).values()
        return sum(int(torch.Size(shape).numel()) for shape in shapes) + sum(more.values())

    fields = MODELS["neobert"].fields
    assert inspect(write(**fields)).parameters == size(MODELS["neobert"], weight=97 * 24, bias=97)
    assert inspect(write(**{**fields, "architectures": ["NeoBERT"]})).parameters == size(MODELS["neobert"])


@pytest.fixture(scope="module")
def reader(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubClient]:
    """Start a client that uploads and reads."""
    client = HubClient(hub.url, tmp_path_factory.mktemp("inspector"), token="hf_of_the_user")
    yield client
    client.close()


def test_a_hub_id_is_inspected_without_its_weights(hub: Hub, reader: HubClient, bert_folder: Path) -> None:
    reader.call("upload", str(bert_folder), "user/whole")
    inner = bert_folder / "0_Transformer"
    inner.mkdir()
    for path in [path for path in bert_folder.iterdir() if path.is_file()]:
        path.rename(inner / path.name)
    modules = [{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]
    (bert_folder / "modules.json").write_text(json.dumps(modules))
    (inner / "model.safetensors").rename(inner / "model.safetensors.bak")
    reader.call("upload", str(bert_folder), "user/nested")
    hub.requests.clear()
    for name in ("user/whole", "user/nested"):
        found = reader.call("inspect", name)
        assert (found["family"], found["checkpoint"], found["obstacle"]) == ("bert", name, None)
        assert (
            found["command"]
            == f"sequence-encoder convert {name} --output_dir {os.path.basename(name)}-sequence-encoder"
        )
    assert not any(path.endswith("model.safetensors") for _, path in hub.requests)
    with pytest.raises(ClientError, match="user/nothing"):
        reader.call("inspect", "user/nothing")


def test_the_command_says_the_same_without_torch(
    tiny_config: Callable[..., SequenceEncoderConfig],
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The script does not import torch, which would take most of its time."""
    monkeypatch.chdir(tmp_path)
    for name, config in (
        ("ours", tiny_config("modernbert", architectures=["SequenceEncoderForMaskedLM"], dtype="bfloat16")),
        ("frozen", TaskAdapterConfig(encoder_config=transformers.BertConfig(**SIZES))),
        ("theirs", transformers.DebertaV2Config(**SIZES, architectures=["DebertaV2ForMaskedLM"])),
    ):
        config.save_pretrained(name)
    write(**MODELS["neobert"].fields).rename("remote")
    program = f"""
import runpy, sys
for name in sys.argv[1:]:
    sys.argv[1:] = ["inspect", name]
    runpy.run_path({str(Path(sequence_encoder.__file__).parent / "sequence_encoder_cli.py")!r}, run_name="__main__")
print([name for name in ("torch", "sequence_encoder.modeling") if name in sys.modules])
"""
    names = ["ours", "frozen", "theirs", "remote"]
    found = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, check=True)
    for name in names:
        main(["inspect", name])
    assert found.stdout == capsys.readouterr().out + "[]\n"
    assert found.stderr == ""

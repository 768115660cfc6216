"""A push to a Hub is complete or changes nothing, and the pushed model loads by its name with the same outputs."""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers

from sequence_encoder import SequenceEncoderTokenizer, TaskAdapter
from sequence_encoder.tests.fixtures.hub_client import ClientError, HubClient, outputs
from sequence_encoder.tests.fixtures.hub_repositories import LARGE_SIZE
from sequence_encoder.tests.fixtures.hub_server import Hub

Build = Callable[..., Any]
Outputs = list[list[Any]]

# All models are saved with the same code and the same `auto_map`, which test_code_bundle.py compares.
AUTO_CLASSES = ("AutoModel", "AutoModelForPreTraining", "AutoModelForMultipleChoice")
TEXT = "packing leaves the padding out"


@pytest.fixture(scope="module")
def saved(tiny_config: Build, randomize: Build, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return `saved(auto_class, seed=0, size="1GB", **fields)`, which saves a model and returns its folder and outputs.

    `size` is the maximum size of a file of weights. The outputs come from the reloaded model, since another memory
    layout can change the last bit of a sum.
    """
    tokenizer = SequenceEncoderTokenizer.train_from_iterator([TEXT] * 3, vocab_size=97, show_progress=False)

    def save(auto_class: str, seed: int = 0, size: str = "1GB", **fields: Any) -> tuple[str, Outputs]:
        config = tiny_config("bert", num_labels=2, **fields)
        model_class = getattr(transformers, auto_class)
        folder = tmp_path_factory.mktemp("model")
        randomize(model_class.from_config(config), seed).save_pretrained(folder, max_shard_size=size)
        tokenizer.save_pretrained(folder)
        return str(folder), outputs(model_class.from_pretrained(folder))

    return save


@pytest.fixture(scope="module")
def names() -> Iterator[str]:
    """Return an iterator of unused repository names."""
    return (f"user/model-{number}" for number in itertools.count())


@pytest.fixture
def name(names: Iterator[str]) -> str:
    return next(names)


@pytest.fixture(scope="module")
def user(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubClient]:
    """Start a client that pushes."""
    client = HubClient(hub.url, tmp_path_factory.mktemp("user"), token="hf_of_the_user")
    yield client
    client.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cache folder of the reader."""
    return tmp_path_factory.mktemp("reader")


@pytest.fixture(scope="module")
def reader(hub: Hub, home: Path) -> Iterator[HubClient]:
    """Start a client that loads without a token and without the package."""
    client = HubClient(hub.url, home, package=False)
    yield client
    client.close()


@pytest.mark.parametrize("auto_class", AUTO_CLASSES)
def test_a_pushed_model_loads_by_its_name_with_the_same_outputs(
    auto_class: str, hub: Hub, user: HubClient, reader: HubClient, name: str, saved: Build
) -> None:
    folder, expected = saved(auto_class)
    user.call("push", auto_class, folder, name)
    for client in (user, reader):
        assert client.call("load", auto_class, name) == expected
    files = hub.files(name)
    assert files["model.safetensors"].large
    assert not files["config.json"].large


def test_a_pushed_adapter_loads_by_its_name_with_the_same_outputs(
    hub: Hub, user: HubClient, reader: HubClient, name: str, saved: Build, tmp_path: Path
) -> None:
    auto_class = "AutoModelForSequenceClassification"
    TaskAdapter(transformers.AutoModel.from_pretrained(saved("AutoModel")[0]), 3).save_pretrained(tmp_path)
    user.call("push", auto_class, str(tmp_path), name)
    expected = outputs(getattr(transformers, auto_class).from_pretrained(tmp_path))
    assert reader.call("load", auto_class, name) == expected
    assert "the encoder is frozen" in hub.files(name)["README.md"].content.decode()


def test_the_card_of_a_pushed_model_is_valid(hub: Hub, user: HubClient, name: str, saved: Build) -> None:
    user.call("push", "AutoModel", saved("AutoModel")[0], name)
    card = hub.files(name)["README.md"].content.decode()
    user.call("push_card", name, card)
    with pytest.raises(ClientError, match=r"model-index\[0\].results\[0\].task.type"):
        user.call("push_card", name, card.replace("---\n", "---\nmodel-index: [{name: x, results: [{}]}]\n", 1))
    assert hub.files(name)["README.md"].content.decode() == card


@pytest.mark.parametrize("sizes", [("1GB", "20KB"), ("20KB", "1GB"), ("20KB", "30KB")])
def test_weights_of_an_earlier_push_are_removed(
    hub: Hub, user: HubClient, reader: HubClient, name: str, saved: Build, sizes: tuple[str, str]
) -> None:
    for seed, size in enumerate(sizes):
        folder, expected = saved("AutoModel", seed, size=size)
        user.call("push", "AutoModel", folder, name, max_shard_size=size)
    assert reader.call("load", "AutoModel", name) == expected
    files = hub.files(name)
    index = files.get("model.safetensors.index.json")
    named = set(json.loads(index.content)["weight_map"].values()) if index else {"model.safetensors"}
    assert {path for path in files if path.endswith(".safetensors")} == named
    assert (index is None) == (sizes[1] == "1GB")


def test_an_invalid_repository_name_is_rejected_before_anything_is_saved(
    user: HubClient, saved: Build, tmp_path: Path
) -> None:
    folder, _ = saved("AutoModel")
    with pytest.raises(ClientError, match="Repo id must"):
        user.call("save_and_push", "AutoModel", folder, folder, str(tmp_path / "model"), "not a/repo id")
    assert list(tmp_path.iterdir()) == []


def test_a_private_repository_needs_a_token(user: HubClient, reader: HubClient, name: str, saved: Build) -> None:
    folder, expected = saved("AutoModel")
    user.call("push", "AutoModel", folder, name, private=True)
    for auto_class in ("AutoModel", "AutoTokenizer"):
        with pytest.raises(ClientError, match=f"(?s){name} is not a local folder.*pass a token"):
            reader.call("load", auto_class, name)
    assert reader.call("load", "AutoModel", name, token="hf_of_the_user") == expected


@pytest.mark.parametrize("cut", ["upload", "commit"])
def test_an_interrupted_push_changes_nothing_and_can_be_repeated(
    cut: str, hub: Hub, user: HubClient, reader: HubClient, name: str, saved: Build
) -> None:
    # The body exceeds the socket buffers, so that the connection is cut while the client sends.
    large = {"vocab_size": LARGE_SIZE // 4 // 24 + 1}
    # No other test may have uploaded these weights, because the Hub stores each file once.
    seeds = (f"{name}-{version}" for version in ("before", "after"))
    (before, outputs_before), (after, outputs_after) = (
        saved("AutoModel", zlib.crc32(seed.encode()), **large) for seed in seeds
    )
    user.call("push", "AutoModel", before, name)
    branches, commits = dict(hub.repositories[name].branches), dict(hub.repositories[name].commits)

    hub.cut = cut
    with pytest.raises(ClientError):
        user.call("push", "AutoModel", after, name)
    assert hub.cut is None
    assert (hub.repositories[name].branches, hub.repositories[name].commits) == (branches, commits)
    assert reader.call("load", "AutoModel", name) == outputs_before

    user.call("push", "AutoModel", after, name)
    assert reader.call("load", "AutoModel", name) == outputs_after


def test_an_unmodified_trainer_pushes_the_trained_model(
    hub: Hub, user: HubClient, reader: HubClient, name: str, saved: Build, tmp_path: Path
) -> None:
    folder, untrained = saved("AutoModelForSequenceClassification")
    trained = user.call("train", "AutoModelForSequenceClassification", folder, name, str(tmp_path))
    assert trained != untrained
    messages = [commit.message for commit in hub.repositories[name].commits.values()]
    assert "Training in progress, step 1" in messages
    assert reader.call("load", "AutoModelForSequenceClassification", name) == trained
    assert reader.call("tokenize", name, TEXT) == SequenceEncoderTokenizer.from_pretrained(folder)(TEXT)["input_ids"]


def test_a_cached_model_loads_offline(
    hub: Hub, user: HubClient, reader: HubClient, home: Path, name: str, saved: Build
) -> None:
    folder, expected = saved("AutoModelForTokenClassification")
    for auto_class in ("AutoModelForTokenClassification", "AutoTokenizer"):
        user.call("push", auto_class, folder, name)
    reader.call("load", "AutoModelForTokenClassification", name)
    tokens = reader.call("tokenize", name, TEXT)
    offline = HubClient(hub.url, home, offline=True, package=False)
    asked = len(hub.requests)
    assert offline.call("load", "AutoModelForTokenClassification", name) == expected
    assert offline.call("tokenize", name, TEXT) == tokens
    assert len(hub.requests) == asked
    offline.close()

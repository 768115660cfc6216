"""Model cards on a Hub: each push renders one, but never replaces a card that contains more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from sequence_encoder import SequenceEncoderForSequenceClassification, SequenceEncoderTokenizer
from sequence_encoder.hub.card.rules import check_card
from sequence_encoder.hub.card.section_marks import section_marks
from sequence_encoder.saving.card_mark import marked, remove_mark
from sequence_encoder.tests.fixtures.hub_client import HubClient
from sequence_encoder.tests.fixtures.hub_server import Hub

Build = Callable[..., Any]
TEXTS = ["the quick brown fox jumps over the lazy dog", "packing leaves the padding out"]
HEAD = "AutoModelForSequenceClassification"


@pytest.fixture(scope="module")
def tokenizer() -> SequenceEncoderTokenizer:
    return SequenceEncoderTokenizer.train_from_iterator(TEXTS * 2, vocab_size=97, show_progress=False)


@pytest.fixture(scope="module")
def user(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Any:
    client = HubClient(hub.url, tmp_path_factory.mktemp("user"), token="hf_of_the_user")
    yield client
    client.close()


@pytest.fixture
def saved(tiny_config: Build, tokenizer: Any, tmp_path: Path) -> str:
    SequenceEncoderForSequenceClassification(tiny_config("bert")).save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    return str(tmp_path / "saved")


def readme(hub: Hub, name: str) -> str:
    return hub.files(name)["README.md"].content.decode()


def test_a_pushed_model_has_a_card_even_if_its_tokenizer_was_pushed_first(
    hub: Hub, user: HubClient, saved: str
) -> None:
    user.call("push", "AutoTokenizer", saved, "user/card")
    assert "README.md" not in hub.files("user/card")
    user.call("push", HEAD, saved, "user/card", tags=["books"])
    card = ModelCard(readme(hub, "user/card"))
    assert check_card(card.content) == ([], [])
    assert card.data.pipeline_tag == "text-classification"
    assert "books" in card.data.tags
    assert 'model="user/card"' in card.text


def test_a_card_on_the_hub_is_rendered_again_unless_someone_edited_it(hub: Hub, user: HubClient, saved: str) -> None:
    user.call("push", HEAD, saved, "user/again")
    first = readme(hub, "user/again")
    mine = first.replace("learned, for up to", "learned for")
    assert mine != first
    user.call("push_card", "user/again", marked(remove_mark(mine), alone=True))
    user.call("push", HEAD, saved, "user/again")
    assert readme(hub, "user/again") == first
    user.call("push_card", "user/again", mine)
    user.call("push", HEAD, saved, "user/again")
    assert ModelCard(readme(hub, "user/again")).text == ModelCard(mine).text
    start, end = section_marks("calibration")
    user.call("push_card", "user/again", f"{mine}\n{start}\nof an older model\n{end}\n")
    user.call("push", HEAD, saved, "user/again", tags=["books"])
    assert ModelCard(readme(hub, "user/again")).text.rstrip() == ModelCard(mine).text.rstrip()
    assert ModelCard(readme(hub, "user/again")).data.tags == ["sequence-encoder", "books"]


def test_a_derived_model_names_its_base_repository(hub: Hub, user: HubClient, saved: str) -> None:
    user.call("push", HEAD, saved, "user/base")
    user.call("push", HEAD, "user/base", "user/derived")
    assert ModelCard(readme(hub, "user/derived")).data.base_model == "user/base"
    user.call("push", HEAD, "user/base", "user/base")
    assert ModelCard(readme(hub, "user/base")).data.base_model is None


@pytest.mark.parametrize("trainer", ["Trainer", "HubTrainer"])
def test_every_push_during_training_includes_the_code(
    hub: Hub, user: HubClient, saved: str, tmp_path: Path, trainer: str
) -> None:
    name = f"user/{trainer.lower()}"
    if trainer == "HubTrainer":
        # This tokenizer class belongs to transformers, so that saving it does not save our code.
        config = Path(saved, "tokenizer_config.json")
        config.write_text(json.dumps({**json.loads(config.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}))
    user.call("train", HEAD, saved, name, str(tmp_path / "run"), trainer=trainer)
    commits = [commit.files for commit in hub.repositories[name].commits.values() if "config.json" in commit.files]
    assert len(commits) >= 2
    assert all("modeling_sequence_encoder.py" in files for files in commits)
    assert ("## Architecture" in readme(hub, name)) == (trainer == "HubTrainer")

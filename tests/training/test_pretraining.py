"""`sequence-encoder pretrain` trains models that load and have learned, with each of its options."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from sequence_encoder import SequenceEncoderForMaskedLM, SequenceEncoderForPreTraining
from sequence_encoder.__main__ import main
from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.pretraining_runs import command, losses, rewind, run_here, write_corpus
from sequence_encoder.training.checkpoints import CompleteCheckpointsCallback
from sequence_encoder.training.pretraining.pretrain import run_pretraining
from sequence_encoder.training.pretraining.run import parse
from sequence_encoder.training.pretraining.trainer import settle_rates


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the command line, and return its output folder."""
    output = tmp_path_factory.mktemp("finished")
    main(["pretrain", *command(corpus, output, max_steps=40, eval_documents=4, report_to="tensorboard")])
    return output


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_output_folder_has_a_model_and_its_tokenizer(finished: Path) -> None:
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(finished), AutoTokenizer.from_pretrained(finished)
    logits = model(**tokenizer(["One [MASK] of text."], return_tensors="pt")).logits
    assert logits.shape[-1] == len(tokenizer) == model.config.vocab_size
    assert logits.isfinite().all()
    assert tokenizer.model_max_length == 48


def test_the_loss_falls(finished: Path) -> None:
    logged = [entry["mlm_loss"] for entry in losses(finished)]
    # Single steps mask few tokens, so that their losses vary by more than the model learns between them.
    assert mean(logged[-10:]) < mean(logged[:10]) - 0.2
    history = json.loads((finished / "trainer_state.json").read_text())["log_history"]
    evaluated = [entry["eval_mlm_loss"] for entry in history if "eval_mlm_loss" in entry]
    assert len(evaluated) > 2
    assert evaluated[-1] < evaluated[0] < logged[0]


def test_the_same_seed_gives_the_same_tokenizer_and_weights(corpus: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        run_here(corpus, tmp_path / name)
    for file in ("tokenizer.json", "model.safetensors"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_every_log_has_the_objectives_and_the_speed(finished: Path) -> None:
    for entry in losses(finished):
        assert 0 < entry["mlm_loss"] < 10
        assert "mlm_accuracy" not in entry  # It would need the logits.
        assert entry["tokens_per_second"] > 0
        assert 0 < entry["share_of_peak"] < 1
    # Some packs have no pair of segments.
    with_pairs = [entry for entry in losses(finished) if "sop_loss" in entry]
    assert len(with_pairs) > 5
    for entry in with_pairs:
        assert 0 < entry["sop_loss"] < 4
        assert 0 <= entry["sop_accuracy"] <= 1


def test_the_run_writes_loss_curves_a_card_and_tensorboard_events(finished: Path) -> None:
    assert (finished / "loss.png").read_bytes().startswith(b"\x89PNG")
    card = (finished / "README.md").read_text()
    for expected_text in ("MuonWithAdamW", "warmup_stable_decay", "mlm_loss"):
        assert expected_text in card
    assert list((finished / "runs").rglob("events*"))


def test_the_learning_rate_rises_stays_and_falls(finished: Path) -> None:
    rates = [entry["learning_rate"] for entry in losses(finished)]
    highest = max(rates)
    assert highest == 0.01
    assert rates[0] < highest
    assert sum(rate == highest for rate in rates) > 20
    assert rates[-1] < highest / 5


@pytest.mark.parametrize("preset", ["vanilla", "bert", "modernbert"])
def test_every_preset_trains(corpus: Path, tmp_path: Path, preset: str) -> None:
    trainer = run_here(corpus, tmp_path, preset=preset, max_steps=2)
    expected = {"vanilla": "sinusoidal", "bert": "learned", "modernbert": "rotary"}[preset]
    assert trainer.model.config.position_embedding == expected
    assert all(math.isfinite(entry["loss"]) for entry in losses(tmp_path))


@pytest.mark.parametrize(
    ("options", "kind", "there", "missing"),
    [
        ({"sop_weight": 0}, SequenceEncoderForMaskedLM, "mlm_loss", "sop_loss"),
        ({"mlm_weight": 0}, SequenceEncoderForPreTraining, "sop_loss", "mlm_loss"),
        ({"bow_weight": 0}, SequenceEncoderForPreTraining, "sop_loss", "bow_loss"),
        ({"sop_weight": 0, "bow_weight": 2}, SequenceEncoderForMaskedLM, "bow_loss", "sop_loss"),
        ({"mlm_weight": 2, "sop_weight": 0.5, "bow_weight": 0}, SequenceEncoderForPreTraining, "mlm_loss", None),
    ],
)
def test_objectives_can_be_disabled_or_weighted(
    corpus: Path, tmp_path: Path, options: dict[str, Any], kind: type, there: str, missing: str | None
) -> None:
    trainer = run_here(corpus, tmp_path, max_steps=3, max_tokens=2048, **options)
    assert type(trainer.model) is kind
    for entry in losses(tmp_path):
        assert there in entry
        assert missing not in entry
        if missing is None:
            # The sum weighs sentence order by the masked tokens of pairs, but the log is the mean over pairs.
            assert 0 < entry["loss"] - 2 * entry["mlm_loss"] < 0.5 * entry["sop_loss"]
    if missing is None:
        run_here(corpus, tmp_path / "equal", max_steps=1, max_tokens=2048, bow_weight=0)
        weighted, equal = losses(tmp_path)[0], losses(tmp_path / "equal")[0]
        # Before the first step, the weights of both models are the same.
        expected = 2 * equal["mlm_loss"] + 0.5 * (equal["loss"] - equal["mlm_loss"])
        assert weighted["loss"] == pytest.approx(expected, rel=1e-4)


def test_a_stream_trains_for_max_steps(corpus: Path, tmp_path: Path) -> None:
    run_here(corpus, tmp_path, streaming=True, shuffle_buffer=3, eval_documents=2, max_steps=30)
    assert len(losses(tmp_path)) == 30
    assert losses(tmp_path)[-1]["mlm_loss"] < losses(tmp_path)[0]["mlm_loss"]


def test_a_checkpoint_of_another_family_continues_with_its_tokenizer(
    corpus: Path, tmp_path: Path, bert_folder: Path
) -> None:
    trainer = run_here(
        corpus, tmp_path / "out", config_overrides=None, **{"model": bert_folder, "max_length": 16, "max_steps": 2}
    )
    before, after = AutoTokenizer.from_pretrained(bert_folder), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert after.get_vocab() == before.get_vocab()
    # The weights are one small step from the checkpoint, and not random.
    theirs = AutoModelForMaskedLM.from_pretrained(bert_folder).get_input_embeddings().weight
    ours = trainer.model.get_input_embeddings().weight
    assert torch.nn.functional.cosine_similarity(theirs, ours).min() > 0.9


def test_a_sentence_encoder_is_announced(
    corpus: Path, tmp_path: Path, bert_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"model": bert_folder, "config_overrides": None, "max_length": 16, "max_steps": 1}
    run_here(corpus, tmp_path / "sentences", **options)
    assert f"{bert_folder} is a sentence encoder." in capsys.readouterr().out
    (bert_folder / "modules.json").unlink()
    run_here(corpus, tmp_path / "tokens", **options)
    assert "is a sentence encoder" not in capsys.readouterr().out


def test_the_averaged_weights_are_saved(corpus: Path, tmp_path: Path) -> None:
    run_here(corpus, tmp_path, ema_decay=0.5, save_steps=1, save_total_limit=0, max_steps=5)
    name = "model.embed_tokens.weight"
    after = [weights(tmp_path / f"checkpoint-{step}")[name] for step in range(1, 6)]
    # The learning rate rises from zero, so that the first step changes nothing.
    average = after[0]
    for step, weight in enumerate(after, start=1):
        average = torch.lerp(average, weight, 1 - min(0.5, (1 + step) / (10 + step)))
    torch.testing.assert_close(weights(tmp_path)[name], average, rtol=0, atol=1e-7)
    assert not torch.allclose(average, after[-1], atol=1e-4)


def test_the_weights_before_the_training_have_a_share_of_the_final_ones(
    corpus: Path, finished: Path, tmp_path: Path
) -> None:
    options = {"model": finished, "config_overrides": None, "max_steps": 4, "save_steps": 2}
    run_here(corpus, tmp_path / "trained", **options)
    output = tmp_path / "mean"
    run_here(corpus, output, **options, start_share=0.25)
    before, after, found = weights(finished), weights(tmp_path / "trained"), weights(output)
    assert before.keys() == found.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, torch.lerp(after[name], before[name], 0.25), rtol=0, atol=1e-6)
    assert not torch.allclose(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"], atol=1e-3)
    assert "share of the weights before the training" in (output / "README.md").read_text().lower()
    # The checkpoints have the weights without the mean.
    rewind(output, 2)
    run_here(corpus, output, **options, start_share=0.25, resume=True)
    for name, weight in weights(output).items():
        assert torch.equal(weight, found[name])
    with pytest.raises(UsageError, match=r"these differ: start_share \(was 0.25, is 0.5\)"):
        run_here(corpus, output, **options, start_share=0.5, resume=True)


@pytest.mark.parametrize(
    ("given", "steps", "rate", "decay"),
    [
        ([], 10, 5e-3, 1),
        ([], 320, 5e-3, 1),
        ([], 1280, 2.5e-3, 0.5),
        ([], 1_000_000, 1e-3, 0.2),
        (["--muon"], 1280, 2.5e-3, 0.5),
        (["--learning_rate", "1e-2"], 1280, 1e-2, 2),
        (["--weight_decay", "0.1"], 1280, 2.5e-3, 0.1),
        (["--muon", "False"], 1280, 1e-3, 0.01),
        (["--no_muon"], 1280, 1e-3, 0.01),
        (["--optim", "adamw_torch"], 1280, 1e-3, 0.01),
        (["--optim", "adamw_torch", "--muon"], 1280, 2.5e-3, 0.5),
        (["--muon", "False", "--learning_rate", "3e-3"], 1280, 3e-3, 0.01),
        (["--objective", "diffusion"], 1280, 5e-3, 0.01),
        (["--preset", "bert"], 1280, 5e-4, 0.01),
        (["--preset", "bert", "--muon"], 1280, 5e-4, 0.01),
        (["--model", "some/model"], 1280, 5e-4, 0.01),
    ],
)
def test_the_default_rate_and_weight_decay_depend_on_preset_optimizer_and_steps(
    given: list[str], steps: int, rate: float, decay: float
) -> None:
    args = parse(given).args
    settle_rates(args, steps)
    assert (args.learning_rate, args.weight_decay) == (rate, pytest.approx(decay))


def test_a_run_trains_with_the_rates_for_its_number_of_steps(corpus: Path, tmp_path: Path) -> None:
    trainer = run_here(corpus, tmp_path, learning_rate=None, max_steps=4)
    groups = trainer.optimizer.param_groups
    assert {group["initial_lr"] for group in groups} == {5e-3}
    assert {group["weight_decay"] for group in groups} == {0, 1}


def test_a_finished_model_is_replaced_only_with_overwrite(finished: Path, corpus: Path) -> None:
    before = weights(finished)
    with pytest.raises(FileExistsError, match=r"finished after \d+ steps; .* larger --max_steps .* --overwrite"):
        run_here(corpus, finished)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(finished).items())


def test_overwrite_does_not_delete_the_checkpoint_to_start_from(corpus: Path, tmp_path: Path) -> None:
    run_here(corpus, tmp_path, max_steps=4)
    options = {"config_overrides": None, "model": tmp_path / "checkpoint-4"}
    with pytest.raises(UsageError, match="would be deleted"):
        run_here(corpus, tmp_path, overwrite=True, **options)
    assert (tmp_path / "checkpoint-4" / "model.safetensors").exists()


def test_very_long_words_and_texts_are_trained_on(tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    # Chinese has no spaces.
    chinese = "".join(chr(0x4E00 + number % 50) for number in range(5_000))
    texts = ["a" * 1_000_000, "one two three. " * 50_000, "short enough. And more.", chinese]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    trainer = run_here(file, tmp_path / "out", max_steps=2)
    assert trainer.train_dataset.tokens > 200_000
    assert trainer.train_dataset.fullness > 0.97
    assert trainer.processing_class.unk_token_id not in trainer.processing_class(chinese)["input_ids"]


def test_many_unknown_tokens_are_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    letters = [chr(0x4E00 + number) for number in range(400)]
    (tmp_path / "many.txt").write_text("\n".join("".join(letters[start::7]) for start in range(400)))
    for algorithm, vocab_size in (("wordpiece", 400), ("byte_level_bpe", 400), ("wordpiece", 900)):
        run_here(
            tmp_path / "many.txt",
            tmp_path / "out",
            max_steps=1,
            algorithm=algorithm,
            vocab_size=vocab_size,
            overwrite=True,
        )
        warned = "of the tokens are unknown to the tokenizer. With --algorithm byte_level_bpe, none are."
        assert (warned in capsys.readouterr().out) == (vocab_size < 900 and algorithm == "wordpiece")


def test_seconds_set_the_number_of_steps(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"max_steps": None, "seconds": 1, "num_train_epochs": 50, "eval_documents": 4}
    steps = run_here(corpus, tmp_path / "timed", **options, ema_decay=0.9).state.max_steps
    assert steps >= 10
    run_here(corpus, tmp_path / "counted", max_steps=steps, eval_documents=4, ema_decay=0.9)
    assert (tmp_path / "timed/model.safetensors").read_bytes() == (tmp_path / "counted/model.safetensors").read_bytes()
    assert "within 1 seconds" in capsys.readouterr().out

    saved = CompleteCheckpointsCallback.on_save

    def stop(*given: Any, **kwargs: Any) -> None:
        saved(*given, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(CompleteCheckpointsCallback, "on_save", stop)
        with pytest.raises(KeyboardInterrupt, match="--resume"):
            run_here(corpus, tmp_path / "stopped", **options)
    planned = json.loads((tmp_path / "stopped/_pretraining/budget.json").read_text())["steps"]
    assert run_here(corpus, tmp_path / "stopped", **options, resume=True).state.max_steps == planned

    resumed = ["--output_dir", str(tmp_path / "stopped"), "--resume", "--max_steps", str(planned + 2)]
    assert run_pretraining(parse(resumed)).state.global_step == planned + 2

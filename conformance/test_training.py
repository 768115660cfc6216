"""Transformers' tests of training: on one process, sharded with FSDP2, and tensor-parallel, on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tests.test_fsdp_mixin as test_fsdp_mixin
import tests.test_tensor_parallel_mixin as test_tensor_parallel_mixin
from model_tester import EncoderTester
from subjects import Subject, cases
from tests.test_training_mixin import TrainingTesterMixin
from transformers import AutoModelForMaskedLM

# They load models that generate; the loss over the vocabulary that an encoder has is that of its masked tokens.
test_fsdp_mixin.AutoModelForCausalLM = AutoModelForMaskedLM
# Transformers runs them for a choice of its models, and these are the switches for all others.
test_fsdp_mixin.FSDP_DISTRIBUTED_TEST_MODEL_TYPES = None
test_tensor_parallel_mixin.TP_DISTRIBUTED_TEST_MODEL_TYPES = None


def run_on_rank(implementation: Callable[..., None], rank: int, *args: Any, **kwargs: Any) -> None:
    """Runs a test's part of a rank, whose process has imported this module, and with it what is set above."""
    implementation(rank, *args, **kwargs)


class TrainingTests(
    TrainingTesterMixin, test_fsdp_mixin.FSDPTesterMixin, test_tensor_parallel_mixin.TensorParallelTesterMixin
):
    """The tests, of a `subject`."""

    subject: Subject
    model_tester: Any = None

    def setUp(self) -> None:
        """Makes the tester. Without dropout: they compare steps on one process with steps on several."""
        self.model_tester = EncoderTester(self.subject, with_dropout=False)
        self.all_model_classes = tuple(self.subject.classes.values())

    def _run_fsdp2_distributed_test(self, name: str, implementation: Callable[..., None], *args: Any, **kw: Any) -> Any:
        on_rank = functools.partial(run_on_rank, implementation)
        return super()._run_fsdp2_distributed_test(name, on_rank, *args, **kw)

    def _skip_if_insufficient_devices(self, world_size: int) -> None:
        """Not needed: on the CPU there may be more ranks than cores."""

    def test_tp_forward_of_other_heads(self) -> None:
        """The heads whose outputs compare like those of the mixin's own model."""
        for head in ("ForSequenceClassification", "ForTokenClassification"):
            with self.subTest(head):
                self.model_tester.causal_lm_class = self.subject.classes[head]
                self.test_tp_forward_0()

    def test_tp_generation(self) -> None:
        """Left out."""
        self.skipTest("Encoders do not generate.")


globals().update(cases(TrainingTests, __name__))

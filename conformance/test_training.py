"""Transformers' tests of training on the CPU: in one process, sharded with FSDP2, and tensor-parallel."""

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

# The mixin loads causal models. For an encoder, the loss over the vocabulary is that of masked tokens.
test_fsdp_mixin.AutoModelForCausalLM = AutoModelForMaskedLM
# By default, the mixins only run for some models of transformers.
test_fsdp_mixin.FSDP_DISTRIBUTED_TEST_MODEL_TYPES = None
test_tensor_parallel_mixin.TP_DISTRIBUTED_TEST_MODEL_TYPES = None


def run_on_rank(implementation: Callable[..., None], rank: int, *args: Any, **kwargs: Any) -> None:
    """Run a rank's part of a test. Its process imports this module, and so applies the settings above."""
    implementation(rank, *args, **kwargs)


def _missing(model: Any) -> None:
    raise AttributeError("generate")


class TrainingTests(
    TrainingTesterMixin, test_fsdp_mixin.FSDPTesterMixin, test_tensor_parallel_mixin.TensorParallelTesterMixin
):
    """The tests of a `subject`."""

    subject: Subject
    model_tester: Any = None

    def setUp(self) -> None:
        """Create the tester, without dropout because the tests compare one process with several."""
        self.model_tester = EncoderTester(self.subject, with_dropout=False)
        self.all_model_classes = tuple(self.subject.classes.values())

    def _get_trainable_model_class(self) -> Any:
        """Hide `generate`: the test trains without masks, after which a model cannot write by unmasking."""
        original = super()._get_trainable_model_class()
        return type(original.__name__, (original,), {"generate": property(_missing)})

    def _run_fsdp2_distributed_test(self, name: str, implementation: Callable[..., None], *args: Any, **kw: Any) -> Any:
        on_rank = functools.partial(run_on_rank, implementation)
        return super()._run_fsdp2_distributed_test(name, on_rank, *args, **kw)

    def _skip_if_insufficient_devices(self, world_size: int) -> None:
        """Skip nothing, because there may be more ranks than cores on the CPU."""

    def test_tp_forward_of_other_heads(self) -> None:
        """Test the heads whose outputs the mixin can compare."""
        for head in ("ForSequenceClassification", "ForTokenClassification"):
            with self.subTest(head):
                self.model_tester.causal_lm_class = self.subject.classes[head]
                self.test_tp_forward_0()

    def test_tp_unit_plan_forward_backward(self) -> None:
        """Skip a test that sets `head_dim`, which our configuration derives from the number of heads."""
        self.skipTest("`head_dim` cannot be set.")

    def test_tp_generation(self) -> None:
        """Skip generation, which the mixin does with causal models."""
        self.skipTest("The models are not causal.")


globals().update(cases(TrainingTests, __name__))

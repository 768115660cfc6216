"""Transformers' common tests of models and configurations, for every subject and all its heads."""

from __future__ import annotations

from typing import Any

from accepted_skips import ACCEPTED_SKIPS
from model_tester import EncoderTester
from subjects import SUBJECTS, Subject, cases
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin
from transformers import PreTrainedModel
from unmasking_tests import UnmaskingTests

import sequence_encoder
from sequence_encoder import PRESETS


class ModelTests(ModelTesterMixin, UnmaskingTests):
    """The tests of a `subject`."""

    subject: Subject
    # Transformers' tests of `generate` are for models that write in order, and the masked language model unmasks.
    all_generative_model_classes = ()

    def setUp(self) -> None:
        """Create the tester, and skip what does not apply."""
        self.model_tester = EncoderTester(self.subject)
        self.all_model_classes = tuple(self.subject.classes.values())
        self.unmasking_class = self.subject.classes["ForMaskedLM"] if self.subject.counterpart else None
        # The mixin looks for a year in the configuration's file, and takes models without one for older than 2023.
        self.test_can_init_all_missing_weights_before_2023 = self.subject.counterpart is not None
        positions = getattr(self.model_tester.get_config(), "rope_parameters", None)
        if "_rope_" in self._testMethodName and not positions:
            # The mixin only checks for the field, which our configuration has even if positions are not rotary.
            self.skipTest("Positions are not rotary.")
        if self.subject.counterpart and self._testMethodName in ACCEPTED_SKIPS:
            self.skipTest(ACCEPTED_SKIPS[self._testMethodName])

    def _prepare_for_class(self, inputs_dict: dict[str, Any], model_class: Any, return_labels: bool = False) -> Any:
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels and model_class is self.subject.classes.get("ForPreTraining"):
            inputs.update(self.model_tester.pretraining_labels())
        return inputs

    def test_config(self) -> None:
        """Run all checks of `ConfigTester`."""
        config = self.model_tester.get_config()
        fields = {k: v for k, v in config.to_diff_dict().items() if k not in ("model_type", "transformers_version")}
        ConfigTester(self, config_class=type(config), **fields).run_common_tests()


globals().update(cases(ModelTests, __name__))


def test_every_public_model_is_tested_with_every_preset() -> None:
    """Models that are added later must be tested too."""
    public = vars(sequence_encoder).values()
    models = {item for item in public if isinstance(item, type) and issubclass(item, PreTrainedModel)}
    # A task adapter works with any encoder, and `tests` tests it with several.
    models -= {sequence_encoder.SequenceEncoderPreTrainedModel, sequence_encoder.TaskAdapter}
    ours = {subject.name: set(subject.classes.values()) for subject in SUBJECTS if subject.counterpart}
    assert ours == dict.fromkeys(PRESETS, models)

"""Tests of `generate` for models that write by unmasking.

Each does for unmasking what the test of its name in transformers' `GenerationTesterMixin` does for models that write in
order. The others of that mixin test caches and beams, which unmasking does not have.
"""

from typing import Any

import torch
from transformers import GenerationConfig

_NEW = 5
_MASK, _END = 4, 2
_FIRST_WORD = 5


class UnmaskingTests:
    """Tests of a class that writes by unmasking, `unmasking_class`, unless that is None."""

    model_tester: Any
    skipTest: Any
    unmasking_class: Any = None

    def _model_and_prompts(self) -> tuple[Any, torch.Tensor]:
        if self.unmasking_class is None:
            self.skipTest("The family does not write.")
        config = self.model_tester.get_config()
        model = self.unmasking_class(config).eval()
        model.generation_config = GenerationConfig(
            mask_token_id=_MASK, eos_token_id=_END, pad_token_id=config.pad_token_id or 0
        )
        return model, torch.randint(_FIRST_WORD, config.vocab_size, (3, 7))

    def test_greedy_generate(self) -> None:
        """A continuation keeps its prompt, has the length that is asked for, and is always the same."""
        model, prompts = self._model_and_prompts()
        options = {"max_new_tokens": _NEW, "min_new_tokens": _NEW, "do_sample": False}
        written = model.generate(prompts, **options)
        self._check_continuations(written, prompts)
        assert torch.equal(model.generate(prompts, attention_mask=torch.ones_like(prompts), **options), written)

    def test_greedy_generate_dict_outputs(self) -> None:
        """`return_dict_in_generate` returns the same texts."""
        model, prompts = self._model_and_prompts()
        options = {"max_new_tokens": _NEW, "do_sample": False}
        found = model.generate(prompts, return_dict_in_generate=True, **options)
        assert torch.equal(found.sequences, model.generate(prompts, **options))

    def test_sample_generate(self) -> None:
        """Each prompt gets as many texts as asked for, which torch's seed repeats."""
        model, prompts = self._model_and_prompts()
        options = {"min_new_tokens": _NEW, "do_sample": True, "top_k": 10, "top_p": 0.7, "temperature": 0.7}
        runs = []
        for _ in range(2):
            torch.manual_seed(0)
            runs.append(model.generate(prompts, max_new_tokens=_NEW, num_return_sequences=2, **options))
        assert torch.equal(*runs)
        self._check_continuations(runs[0], prompts.repeat_interleave(2, dim=0))

    def test_left_padding_compatibility(self) -> None:
        """Padding on the left does not change a continuation."""
        model, prompts = self._model_and_prompts()
        options = {"max_new_tokens": _NEW, "min_new_tokens": _NEW, "do_sample": False}
        padding = torch.full((3, 4), model.generation_config.pad_token_id)
        mask = torch.cat([torch.zeros_like(padding), torch.ones_like(prompts)], 1)
        written = model.generate(torch.cat([padding, prompts], 1), attention_mask=mask, **options)
        assert torch.equal(written[:, 4:], model.generate(prompts, **options))

    def test_bad_words_are_not_generated(self) -> None:
        """`bad_words_ids` changes what a model would have written."""
        model, prompts = self._model_and_prompts()
        options = {"max_new_tokens": _NEW, "min_new_tokens": _NEW, "do_sample": False}
        new = model.generate(prompts, **options)[:, prompts.shape[1] :]
        others = model.generate(prompts, bad_words_ids=[[token] for token in new.unique().tolist()], **options)
        assert not torch.isin(others[:, prompts.shape[1] :], new).any()

    def _check_continuations(self, written: torch.Tensor, prompts: torch.Tensor) -> None:
        length = prompts.shape[1]
        assert written.shape == (len(prompts), length + _NEW)
        assert torch.equal(written[:, :length], prompts)
        assert not torch.isin(written[:, length:], torch.tensor([_MASK, _END])).any()

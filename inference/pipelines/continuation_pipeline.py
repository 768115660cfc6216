"""A pipeline for text generation in which prompts and continuations of masked language models join."""

from typing import Any

from transformers.pipelines.text_generation import ReturnType, TextGenerationPipeline

# `Any`, because the parameters differ from those of the base class.
_TextGenerationPipeline: Any = TextGenerationPipeline


class ContinuationPipeline(_TextGenerationPipeline):
    """Transformers' pipeline for text generation, with masked language models of this package.

    Transformers cuts as many tokens from a result as the prompt has, and decodes the others alone. So a prompt here
    ends without a separator, which a continuation replaces. And all tokens are decoded together, since tokens of
    WordPiece and SentencePiece have another text at the start: "one" with the new token "red" becomes "one red".

    For other models, it is the same as transformers' pipeline. `transformers.pipeline("text-generation", model=...)`
    returns it.
    """

    def check_model_type(self, supported_models: Any) -> None:
        """Accept models of this package, which transformers knows only with the package."""
        if not hasattr(self.model, "infill"):
            super().check_model_type(supported_models)

    def preprocess(self, *args: Any, **options: Any) -> Any:
        """Return the tokens of a prompt without separators at the end."""
        inputs = super().preprocess(*args, **options)
        ids, separator = inputs["input_ids"], getattr(self.model.config, "sep_token_id", None)
        # `generate` would remove another one, and the results would no longer start with the prompt.
        while hasattr(self.model, "infill") and ids.shape[1] and int(ids[0, -1]) == separator:
            ids = ids[:, :-1]
            for name in self.tokenizer.model_input_names:
                if name in inputs:
                    inputs[name] = inputs[name][:, : ids.shape[1]]
        return inputs

    def _forward(self, model_inputs: Any, **options: Any) -> Any:
        # Configurations of converted checkpoints may not know the mask token.
        if hasattr(self.model, "infill") and self.tokenizer.mask_token_id is not None:
            options = {"mask_token_id": self.tokenizer.mask_token_id, **options}
        return super()._forward(model_inputs, **options)

    def postprocess(self, model_outputs: Any, return_type: Any = ReturnType.FULL_TEXT, **options: Any) -> Any:
        """Return the results of transformers' pipeline, whose continuations follow their prompts."""
        ids, sequences = model_outputs["input_ids"], model_outputs["generated_sequence"][0]
        records = super().postprocess(model_outputs, return_type=return_type, **options)
        prompt = _continued_text(model_outputs["prompt_text"], options.get("continue_final_message"))
        if not hasattr(self.model, "infill") or prompt is None or ids is None or return_type == ReturnType.TENSORS:
            return records
        full = return_type == ReturnType.FULL_TEXT
        for record, sequence in zip(records, sequences.tolist(), strict=True):
            text = self._continuation(sequence, ids.shape[-1], **options)
            if text is None:
                continue
            if not prompt or (full and prompt[-1].isspace()):
                text = text.removeprefix(" ")
            text = prompt * full + text
            if isinstance(record["generated_text"], list):
                record["generated_text"][-1]["content"] = text
            else:
                record["generated_text"] = text
        return records

    def _continuation(
        self,
        sequence: list[int],
        length: int,
        skip_special_tokens: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        **_: Any,
    ) -> str | None:
        """Return what a text adds to that of its first tokens, or None if it changes that."""
        prompt, added = sequence[:length], sequence[length:]
        if skip_special_tokens is not False:
            special = {*self.tokenizer.all_special_ids}
            added = [token for token in added if token not in special]
        # With the special tokens of the prompt, since an unknown word separates words, too.
        before, whole = self.tokenizer.batch_decode(
            [prompt, prompt + added], clean_up_tokenization_spaces=clean_up_tokenization_spaces
        )
        return str(whole[len(before) :]) if whole.startswith(before) else None


def _continued_text(prompt: Any, continue_final_message: bool | None) -> str | None:
    """Return the text that a result continues, or None if it is a new message of a chat."""
    if isinstance(prompt, str):
        return prompt
    last = prompt.messages[-1]
    continued = last["role"] == "assistant" if continue_final_message is None else continue_final_message
    return last["content"] if continued and isinstance(last["content"], str) else None

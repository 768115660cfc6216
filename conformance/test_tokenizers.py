"""Transformers' tests of tokenizers, for both of ours and for BERT's and ModernBERT's with the same vocabularies."""

from __future__ import annotations

import shutil
import tempfile
import unittest
from pathlib import Path

from tests.test_tokenization_common import TokenizerTesterMixin
from transformers import BertTokenizer, PreTrainedTokenizerFast

from sequence_encoder import SequenceEncoderTokenizer

# These files have enough prose and code to train a vocabulary.
FILES = sorted(Path(__file__).parent.glob("*.py"))


class TokenizerTests(TokenizerTesterMixin):
    """The tests of an `algorithm` and of the class that loads the trained tokenizer."""

    algorithm: str

    @classmethod
    def setUpClass(cls) -> None:
        """Train a tokenizer, and save it where the tests look for one."""
        texts = [line for path in FILES for line in path.read_text(encoding="utf-8").splitlines()]
        trained = SequenceEncoderTokenizer.train_from_iterator(
            texts, vocab_size=2000, algorithm=cls.algorithm, show_progress=False
        )
        cls.trained = tempfile.mkdtemp()
        trained.save_pretrained(cls.trained)
        cls.from_pretrained_id = cls.trained
        super().setUpClass()

    @classmethod
    def tearDownClass(cls) -> None:
        """Remove the tokenizer."""
        super().tearDownClass()
        shutil.rmtree(cls.trained)


for _name, _tokenizer_class, _algorithm in (
    ("wordpiece", SequenceEncoderTokenizer, "wordpiece"),
    ("byte_level_bpe", SequenceEncoderTokenizer, "byte_level_bpe"),
    ("BertModel", BertTokenizer, "wordpiece"),
    ("ModernBertModel", PreTrainedTokenizerFast, "byte_level_bpe"),
):
    _fields = {"tokenizer_class": _tokenizer_class, "rust_tokenizer_class": _tokenizer_class, "algorithm": _algorithm}
    globals()[_name] = type(_name, (TokenizerTests, unittest.TestCase), {**_fields, "__module__": __name__})

"""data2vec for text (Baevski et al., 2022): RoBERTa under other names."""

from __future__ import annotations

from dataclasses import replace

from .roberta import ROBERTA

DATA2VEC_TEXT = replace(ROBERTA, name="data2vec_text", model_prefixes=("Data2VecText",))

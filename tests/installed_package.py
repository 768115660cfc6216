"""Install each archive of a release into an empty environment, and use the package there.

    python tests/installed_package.py dist/*

The archives are wheels or source distributions. `make build` builds them and runs this script.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

# This code reads each kind of file in the package: modules, the card template, and the sources that a save merges.
USE = """
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoModel
from transformers.utils.logging import disable_progress_bar

import sequence_encoder
from sequence_encoder import SequenceEncoderConfig, SequenceEncoderModel
from sequence_encoder import model_card

installed = Path(sequence_encoder.__file__).parent
assert installed.is_relative_to(sys.prefix), installed
assert (installed / "py.typed").is_file()
assert (installed / "search" / "static_site" / "page" / "index.html").is_file()
assert sequence_encoder.__version__ == version("sequence-encoder")

disable_progress_bar()
sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40}
model = SequenceEncoderModel(SequenceEncoderConfig(vocab_size=97, **sizes)).eval()
input_ids = torch.arange(1, 11).reshape(2, 5)
with torch.no_grad():
    vectors = model(input_ids).last_hidden_state
    model.save_pretrained("saved")
    assert torch.equal(AutoModel.from_pretrained("saved")(input_ids).last_hidden_state, vectors)
assert vectors.shape == (2, 5, 24) and vectors.isfinite().all()
assert "sequence_encoder" in str(model_card(model, "saved"))
print(sequence_encoder.__version__)
"""


def check(archive: Path) -> str:
    """Install one archive, use the package and its command, and return the version that both report."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with tempfile.TemporaryDirectory() as folder:

        def run(*command: str | Path) -> str:
            finished = subprocess.run(
                command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
            )
            return finished.stdout.strip()

        binaries = Path(folder, "environment", "bin")
        run(sys.executable, "-m", "venv", "environment")
        run(binaries / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", archive)
        version = run(binaries / "python", "-c", USE)
        reported = run(binaries / "sequence-encoder", "--version")
        assert reported == version, f"sequence-encoder --version reports {reported}, the package {version}"
    return version


def main(archives: list[Path]) -> None:
    """Check each archive, and stop at the first that does not work."""
    if not archives:
        sys.exit("Name the archives to check: python tests/installed_package.py dist/*")
    for archive in archives:
        print(f"{archive.name}: version {check(archive.resolve())} is installed and works", flush=True)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])

"""Transformers' common tests, from the source distribution of the installed version.

Wheels do not contain them. As a script, this module downloads the source archive once, unpacks its tests into the
Python environment that runs it, and adds stand-ins for what the archive lacks (`stand_ins/`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import transformers

CACHE = Path(sys.prefix) / "conformance"
ROOT = CACHE / f"transformers-{transformers.__version__}"
STAND_INS = Path(__file__).parent / "stand_ins"


def download() -> Path:
    """Download the source distribution from the package index, unless it is already there."""
    archive = CACHE / f"transformers-{transformers.__version__}.tar.gz"
    if not archive.exists():
        requirement = f"transformers=={transformers.__version__}"
        options = ["--no-binary", ":all:", "--no-deps", "--no-build-isolation", "--dest", str(CACHE)]
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *options, requirement], check=True
        )
    return archive


def unpack(archive: Path) -> None:
    """Unpack the tests, add the stand-ins for what is missing, and link the installed sources."""
    shutil.rmtree(ROOT, ignore_errors=True)
    with tarfile.open(archive) as files:
        tests = [member for member in files if "tests" in Path(member.name).parts[1:2]]
        files.extractall(CACHE, tests, filter="data")
    for stand_in in STAND_INS.rglob("*.*"):
        target = ROOT / "tests" / stand_in.relative_to(STAND_INS)
        if "__pycache__" not in target.parts and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(stand_in, target)
    # The tests read the sources at the path that they have in the repository.
    (ROOT / "src").mkdir()
    (ROOT / "src" / "transformers").symlink_to(Path(transformers.__file__).parent, target_is_directory=True)


def make_importable() -> None:
    """Put the tests on the path as the package `tests`, in this process and those that it starts.

    Raises:
        FileNotFoundError: If they have not been unpacked.
    """
    if not ROOT.exists():
        raise FileNotFoundError(f"The tests of transformers are not in {ROOT}; run `make conformance`.")
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
        # A fork server gets the module path only through the environment.
        here = str(Path(__file__).parent)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), here, *filter(None, [os.environ.get("PYTHONPATH")])])


if __name__ == "__main__":
    unpack(download())

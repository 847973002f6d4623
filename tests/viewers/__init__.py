"""Other people's viewers against `medsam2 serve`, each in an environment of its own: `scripts/viewers` runs what is here.

No ordinary run of the tests collects this folder: its files are named where they are run.
"""

from pathlib import Path

ROOT = Path(__file__).parents[2]
OUT = ROOT / "out" / "viewers"  # what was seen stays here
NAPARI = OUT / "napari-venv" / "bin" / "python"

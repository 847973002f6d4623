"""The gate of the consensus in volumes: what it is fitted on."""

from argparse import Namespace
from pathlib import Path

from benchmarks.consensus import _real  # pyright: ignore[reportPrivateUsage]
from tests.data.nnunet import picture_set, volume_set


def test_structures_of_drawn_volumes(tmp_path: Path) -> None:
    """Each structure by its name, on the grid of its image; pictures are left alone."""
    drawn = [*_real(volume_set(tmp_path / "Dataset001_Volumes", cases=3), Namespace(seed=0, cases=2))]
    assert {path for path, *_ in drawn} == {"Dataset001_Volumes"}
    assert len({name for _, name, *_ in drawn}) == len(drawn) >= 2
    assert all(truth.shape == volume.shape and truth.any() for _, _, volume, truth in drawn)
    assert not [*_real(picture_set(tmp_path / "Dataset002_Pictures"), Namespace(seed=0, cases=2))]

"""Names and colours beside a label map, as ITK-SNAP, 3D Slicer, FreeSurfer and BIDS have them."""

from pathlib import Path

import numpy as np
import pytest

from medical_sam2 import io
from medical_sam2.errors import FormatError
from medical_sam2.io import label_table
from medical_sam2.io.label_table import LabelEntry
from medical_sam2.volume import COLOURS, Segmentation, Volume, colour_of

LIKE = Volume(np.zeros((4, 5, 6), np.int16), np.eye(4))
LABELS = np.zeros(LIKE.shape, np.uint8)
LABELS[1, 2, 3], LABELS[2:, 0, 0], LABELS[0, 0, 0] = 1, 9, 4
FOUND = Segmentation(LABELS, LIKE.affine, {1: "left kidney", 9: "cyst", 30: "not found"}, colours={9: (255, 1, 128)})


@pytest.mark.parametrize("suffix", label_table.SUFFIXES)
@pytest.mark.parametrize("mask", ["m.nii.gz", "m.nii", "m.nrrd", "m.mha"])
def test_names_and_colours_come_back_beside_a_mask(tmp_path: Path, suffix: str, mask: str) -> None:
    assert io.save(FOUND, tmp_path / mask, LIKE) == [f"{mask} does not hold names and colours"]
    blank = suffix in (".ctbl", ".txt")
    assert label_table.save(FOUND, tmp_path / f"m{suffix}") == ([f"m{suffix} holds names with _ for blanks"] if blank else [])
    found = io.load_segmentation(tmp_path / mask, LIKE)
    np.testing.assert_array_equal(found.labels, LABELS)
    assert found.names == {1: "left_kidney" if blank else "left kidney", 9: "cyst"}
    assert found.colours == {1: COLOURS[0], 4: COLOURS[3], 9: (255, 1, 128)}
    assert io.load_segmentation(tmp_path / mask, LIKE, io.MaskRule(value=9)).names == {9: "cyst"}


def test_lines_of_freesurfer_have_six_words(tmp_path: Path) -> None:
    label_table.save(FOUND, tmp_path / "lut.txt")
    lines = [line.split() for line in (tmp_path / "lut.txt").read_text().splitlines() if not line.startswith("#")]
    assert [len(line) for line in lines] == [6] * 5
    assert lines[0] == ["0", "Unknown", "0", "0", "0", "0"]


FOREIGN = {
    ".label": (
        '# x\n    0     0    0    0        0  0  0    "Clear Label"\n  2  0 255 0 0.5 1 1 "Label ""A"""\n',
        'Label ""A""',
    ),
    ".ctbl": ("# Color table file f.ctbl\n# 3 values\n0 Background 0 0 0 0\n2 liver_dome 0 255 0 255\n", "liver_dome"),
    ".txt": ("#$Id$\n\n2   Left-Cerebral-White-Matter          0   255 0 0\n", "Left-Cerebral-White-Matter"),
    ".tsv": ("index\tname\tabbreviation\tcolor\n2\tcaudal anterior\tCA\t#00FF00\n", "caudal anterior"),
}


@pytest.mark.parametrize("suffix", FOREIGN)
def test_tables_of_other_programs(tmp_path: Path, suffix: str) -> None:
    content, name = FOREIGN[suffix]
    (tmp_path / f"m{suffix}").write_text(content)
    table = label_table.load(tmp_path / f"m{suffix}")
    assert table is not None
    assert table[2] == LabelEntry(2, name, (0, 255, 0))


@pytest.mark.parametrize(
    "content", ["", "patient notes\n", "1 2 3\n", "index\tvolume\n1\t3\n", "1 liver 300 0 0 0\nx", "\x00\xff"]
)
@pytest.mark.parametrize("suffix", label_table.SUFFIXES)
def test_what_is_no_table_says_nothing(tmp_path: Path, content: str, suffix: str) -> None:
    (tmp_path / f"m{suffix}").write_bytes(content.encode("latin-1"))
    io.save(FOUND, tmp_path / "m.nii.gz", LIKE)
    assert io.load_segmentation(tmp_path / "m.nii.gz", LIKE).names == {}


def test_a_label_with_two_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("1 liver 0 0 0 0\n1 spleen 0 0 0 0\n")
    io.save(FOUND, tmp_path / "m.nii.gz", LIKE)
    with pytest.raises(FormatError, match=r"m\.txt: it names label 1 twice"):
        io.load_segmentation(tmp_path / "m.nii.gz", LIKE)


def test_a_table_that_names_other_objects_is_told_when_labels_are_written(tmp_path: Path) -> None:
    for suffix in label_table.SUFFIXES:
        label_table.save(FOUND, tmp_path / f"m{suffix}")
        own = ["m.nii.gz does not hold names and colours"]
        assert io.save(FOUND, tmp_path / "m.nii.gz", LIKE) == own
        assert io.save(LABELS * 0.5, tmp_path / "m.nii.gz", LIKE) == []  # a map of numbers has no names
        name = "left_kidney" if suffix in (".ctbl", ".txt") else "left kidney"
        (told,) = io.save(LABELS, tmp_path / "m.nii.gz", LIKE)
        assert told == (
            f"m{suffix}, which lies beside m.nii.gz, calls object 1 '{name}', as whoever reads these labels will: "
            "remove it, or write theirs in its place (--label-table)"
        )
        others = Segmentation(LABELS, LIKE.affine, {1: "left kidney", 9: "metastasis"})
        assert "calls object 9 'cyst'" in io.save(others, tmp_path / "m.nii.gz", LIKE)[-1]
        assert len(io.save(FOUND, tmp_path / "m.seg.nrrd", LIKE)) == 0  # it names its segments itself
        (tmp_path / f"m{suffix}").unlink()
    assert io.save(LABELS, tmp_path / "m.nii.gz", LIKE) == []


def test_labels_are_written_beside_a_table_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("1 liver 0 0 0 0\n1 spleen 0 0 0 0\n")
    (told,) = io.save(LABELS, tmp_path / "m.nii.gz", LIKE)
    assert told.startswith("m.nii.gz is not read while a table lies beside it that cannot be: ")
    assert "m.txt: it names label 1 twice" in told


@pytest.mark.parametrize("suffix", label_table.SUFFIXES)
def test_files_of_single_objects_share_a_table(tmp_path: Path, suffix: str) -> None:
    """As `segment --separate --label-table` writes them."""
    label_table.save(FOUND, tmp_path / f"m{suffix}")
    for label in (1, 4, 9):
        io.save(LABELS * (label == LABELS), tmp_path / f"m-{label}.nii.gz", LIKE)
    assert io.load_segmentation(tmp_path / "m-9.nii.gz", LIKE).names == {9: "cyst"}
    assert io.load_segmentation(tmp_path / "m-9.nii.gz", LIKE).colours == {9: (255, 1, 128)}
    assert io.load_segmentation(tmp_path / "m-4.nii.gz", LIKE).names == {}
    assert [each.name for each in io.load_named_labels(tmp_path / "m-9.nii.gz", LIKE)[1]] == ["cyst"]
    io.save(LABELS, tmp_path / "m-2.nii.gz", LIKE)  # a label map whose name ends in a number
    assert io.load_segmentation(tmp_path / "m-2.nii.gz", LIKE).names == {}
    own = Segmentation(LABELS, LIKE.affine, {9: "metastasis"})
    label_table.save(own, tmp_path / f"m-9{suffix}")
    assert io.load_segmentation(tmp_path / "m-9.nii.gz", LIKE).names == {9: "metastasis"}


def test_colours_that_nobody_chose_are_not_said_to_be_lost(tmp_path: Path) -> None:
    """As they come back from a table of labels or from segments."""
    usual = {1: colour_of(1), 9: colour_of(9)}
    plain, chosen = (Segmentation(LABELS, LIKE.affine, colours={**usual, **more}) for more in ({}, {9: (255, 1, 128)}))
    assert io.save(plain, tmp_path / "m.nii.gz", LIKE) == []
    assert io.save(chosen, tmp_path / "m.nii.gz", LIKE) == ["m.nii.gz does not hold colours"]

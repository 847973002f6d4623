"""Labels belong to an image by where they lie, never by their indices."""

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medical_sam2 import io
from medical_sam2.errors import AmbiguousError, FormatError, GeometryError
from medical_sam2.io.prompt_file import load_prompts
from medical_sam2.volume import Volume
from tests.io.making import affines
from tests.io.test_nifti import AFFINE as NIFTI_AFFINE
from tests.io.test_nifti import ARRAY, raw

LABELS = np.random.default_rng(0).integers(0, 4, (3, 4, 5)).astype(np.uint8)
TURNS = [(order, flips) for order in permutations(range(3)) for flips in product((1, -1), repeat=3)]


def turned(labels: np.ndarray, affine: np.ndarray, order: tuple[int, ...], flips: tuple[int, ...]) -> Volume:
    """The same labels in the same places, stored in another order."""
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for axis, (source, flip) in enumerate(zip(order, flips, strict=True)):
        change[source, axis] = flip
        change[source, 3] += labels.shape[source] - 1 if flip < 0 else 0
    stored = labels.transpose(order)[tuple(slice(None, None, flip) for flip in flips)]
    return Volume(stored, affine @ change)


def fitted(labels: Volume, like: Volume, folder: Path) -> Volume:
    io.save(labels.array, folder / "labels.nrrd", labels)
    return io.load_labels(folder / "labels.nrrd", like)


@given(affine=affines(), turn=st.sampled_from(TURNS), kind=st.sampled_from(["uint8", "float64", "int32", "bool"]))
@settings(max_examples=40)
def test_any_order_is_turned_to_the_image(
    tmp_path_factory: pytest.TempPathFactory, affine: np.ndarray, turn: tuple[tuple[int, ...], tuple[int, ...]], kind: str
) -> None:
    labels = LABELS.astype(kind)
    found = fitted(turned(labels, affine, *turn), Volume(LABELS, affine), tmp_path_factory.mktemp("labels"))
    np.testing.assert_array_equal(found.array, labels)
    np.testing.assert_array_equal(found.affine, affine)
    assert found.array.dtype == np.uint8
    assert bool(found.warnings) == (turn != ((0, 1, 2), (1, 1, 1)))


@pytest.mark.parametrize(("moved_mm", "fits"), [(0.0, True), (5e-4, True), (2e-3, False), (1.0, False)])
def test_a_thousandth_of_a_millimetre_is_rounding(tmp_path: Path, moved_mm: float, fits: bool) -> None:
    affine = np.diag([-1.0, 2, 3, 1])
    affine[0, 3] = moved_mm
    if fits:
        np.testing.assert_array_equal(
            fitted(Volume(LABELS, affine), Volume(LABELS, np.diag([-1.0, 2, 3, 1])), tmp_path).array, LABELS
        )
        return
    with pytest.raises(GeometryError, match="mm away"):
        fitted(Volume(LABELS, affine), Volume(LABELS, np.diag([-1.0, 2, 3, 1])), tmp_path)


def test_a_mirrored_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="away"):
        fitted(Volume(LABELS, np.diag([1.0, 2, 3, 1])), Volume(LABELS, np.diag([-1.0, 2, 3, 1])), tmp_path)


def test_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="shape"):
        fitted(Volume(LABELS[:-1], np.eye(4)), Volume(LABELS, np.eye(4)), tmp_path)


@pytest.mark.parametrize("bad", [0.5, np.nan, np.inf, -1.0])
def test_values_that_are_no_labels_are_refused(tmp_path: Path, bad: float) -> None:
    labels = LABELS.astype(np.float64)
    labels[0, 0, 0] = bad
    with pytest.raises(FormatError, match=r"integer|negative"):
        fitted(Volume(labels, np.eye(4)), Volume(LABELS, np.eye(4)), tmp_path)


def test_an_empty_mask_needs_no_warning(tmp_path: Path) -> None:
    assert fitted(Volume(LABELS * 0, np.eye(4)), Volume(LABELS, np.eye(4)), tmp_path).warnings == ()


def test_a_coloured_mask_is_refused_and_a_grey_one_counts_once(tmp_path: Path) -> None:
    image = Volume(np.zeros((2, 2, 2), np.int16), NIFTI_AFFINE)
    for kind in ([("R", "u1"), ("G", "u1"), ("B", "u1")], [("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")]):
        colours = np.zeros((2, 2, 2), kind)
        for name in "RGB":
            colours[name][0, 0] = 255
        (tmp_path / "m.nii").write_bytes(raw(colours))
        (outline,) = io.load_outlines(tmp_path / "m.nii", image)
        assert (outline.label, int(outline.inside.sum())) == (1, 2)
        colours["B"][0] = 0
        (tmp_path / "m.nii").write_bytes(raw(colours))
        with pytest.raises(FormatError, match="coloured"):
            io.load_outlines(tmp_path / "m.nii", image)
        with pytest.raises(FormatError, match="coloured"):
            io.load_labels(tmp_path / "m.nii", image)


MIRRORED = [2.0, 0, 0, 7]  # srow_x of an sform that contradicts the qform
DRAWN = (ARRAY % 7 < 2).astype(np.uint8)


@pytest.mark.parametrize("form", ["sform", "qform"])
def test_the_form_that_is_chosen_for_an_image_counts_for_its_labels(tmp_path: Path, form: io.Form) -> None:
    """They mostly have the header of their image, and would contradict themselves as it does."""
    (tmp_path / "image.nii").write_bytes(raw(srow_x=MIRRORED))
    (tmp_path / "m.nii").write_bytes(raw(DRAWN, srow_x=MIRRORED))
    (tmp_path / "p.json").write_text('{"objects": [{"label": 3, "masks": [{"file": "m.nii", "label": 1}]}]}')
    image = io.load(tmp_path / "image.nii", geometry_from=form)
    labels = io.load_labels(tmp_path / "m.nii", image)
    assert (labels.array == DRAWN).all()
    assert labels.warnings == ()
    assert (io.load_named_labels(tmp_path / "m.nii", image)[0].array == DRAWN).all()
    assert (io.load_segmentation(tmp_path / "m.nii", image).labels == DRAWN).all()
    assert all(mask.object == 3 for mask in load_prompts(tmp_path / "p.json", image).prompts)
    with pytest.raises(AmbiguousError, match=r"m\.nii: sform and qform contradict each other .*--geometry-from sform"):
        load_prompts(tmp_path / "p.json", Volume(image.array, image.affine))


def test_labels_without_the_chosen_form_lie_where_they_say(tmp_path: Path) -> None:
    (tmp_path / "image.nii").write_bytes(raw(srow_x=MIRRORED))
    image = io.load(tmp_path / "image.nii", geometry_from="qform")
    io.save(DRAWN, tmp_path / "m.nrrd", image)
    (tmp_path / "same.nii").write_bytes(raw(DRAWN, qform_code=0))
    (tmp_path / "broken.nii").write_bytes(raw(DRAWN, quatern_b=1.0, quatern_c=0.9))
    for name in ("m.nrrd", "same.nii", "broken.nii"):
        assert (io.load_labels(tmp_path / name, image).array == DRAWN).all()
    (tmp_path / "mirrored.nii").write_bytes(raw(DRAWN, qform_code=0, srow_x=MIRRORED))
    with pytest.raises(GeometryError, match="mm away"):
        io.load_labels(tmp_path / "mirrored.nii", image)

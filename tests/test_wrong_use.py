"""The Python interface, used wrongly: one line of the package's own errors, which says what was got and what to give."""

import pickle
from collections.abc import Callable
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import medical_sam2
from medical_sam2 import Box, FramePrompt, Mask, MedicalSam2Error, Point, Segmentation, Segmenter, Volume, io, metrics, preview
from medical_sam2.errors import ConfigError, PromptError
from medical_sam2.io import MaskRule
from medical_sam2.model.nano import nano
from medical_sam2.statistics import measure
from medical_sam2.strokes import Brush, Lasso, Scribble, ShapeInterpolation, SliceRange
from medical_sam2.tracking.cropping import VolumePlan
from medical_sam2.tracking.finishing import FinishingSteps, finish
from medical_sam2.tracking.template import Template
from tests.phantoms import Phantom, phantom, segmenter

LINE: Any = ((1, 1, 2), (4, 5, 2))


@pytest.fixture(scope="module")
def case() -> Phantom:
    return phantom()


@pytest.fixture(scope="module")
def network() -> Segmenter:
    return segmenter()


def grey() -> Any:
    return np.arange(81, dtype=np.uint8).reshape(9, 9)


def moved(volume: Volume, by_mm: float = 2.0) -> Volume:
    """The same image elsewhere in the patient."""
    affine = volume.affine.copy()
    affine[2, 3] += by_mm
    return Volume(volume.array, affine)


def outline_all(network: Segmenter, images: Any) -> object:
    """All images, from a click on the first one."""
    return list(network.segment_images(images, {0: {1: FramePrompt.click(4, 4)}}))


Use = Callable[[Segmenter, Any, Any, Any], object]
"""Segmenter, phantom, its segmentation, a click → whatever."""
USES: dict[str, tuple[Use, str]] = {
    "array": (
        lambda s, p, r, c: s.segment_volume(p.volume.array, [c]),
        "something of type ndarray is no Volume; give what io.load",
    ),
    "path": (lambda s, p, r, c: s.segment_volume("ct.nii", [c]), "something of type str is no Volume"),
    "list": (lambda s, p, r, c: s.segment_volume([[1]], [c]), "something of type list is no Volume"),
    "template": (lambda s, p, r, c: s.segment_by_template("ct.nii", Template(p.volume, r)), "type str is no Volume"),
    "template of arrays": (lambda s, p, r, c: Template(p.volume, r.labels), "type ndarray is no Segmentation"),
    "no list": (
        lambda s, p, r, c: s.segment_volume(p.volume, c),
        r"Point\(index_ijk.* is not in a list; give a list of prompts",
    ),
    "tuples": (
        lambda s, p, r, c: s.segment_volume(p.volume, [(1, 2, 3)]),
        r"^\(1, 2, 3\) is no prompt; give a list of prompts",
    ),
    "numbers": (lambda s, p, r, c: s.segment_volume(p.volume, (1, 2, 3)), r"^1 is no prompt; give a list of prompts, such as"),
    "none": (lambda s, p, r, c: s.segment_volume(p.volume, None), "^None is not in a list"),
    "of images": (lambda s, p, r, c: s.segment_volume(p.volume, [FramePrompt.click(1, 1)]), "FramePrompt.* is no prompt"),
    "another plan": (
        lambda s, p, r, c: s.segment_volume(p.volume, [c], plan=VolumePlan.of(p.volume, [Point((1, 2, 3))], "one")),
        "^the plan is of another volume, or of other prompts; make it anew",
    ),
    "views by name": (lambda s, p, r, c: s.segment_volume(p.volume, [c], views=["axial"]), "^'axial' is no view; give a name"),
    "no views": (lambda s, p, r, c: s.segment_volume(p.volume, [c], views=None), "^None is no view; give a name"),
    "earlier list": (
        lambda s, p, r, c: s.segment_volume(p.volume, [c], earlier=[1]),
        r"^a list is no earlier result; give a Seg",
    ),
    "earlier halves": (
        lambda s, p, r, c: s.segment_volume(p.volume, [c], earlier=r.labels / 2),
        "^earlier: its values are not int",
    ),
    "earlier negative": (
        lambda s, p, r, c: s.segment_volume(p.volume, [c], earlier=-r.labels.astype(int)),
        "^earlier: it holds neg",
    ),
    "earlier shape": (lambda s, p, r, c: s.segment_volume(p.volume, [c], earlier=r.labels[1:]), "the earlier result has shape"),
    "earlier place": (
        lambda s, p, r, c: s.segment_volume(p.volume, [c], earlier=Segmentation(r.labels, np.eye(4))),
        "the earlier result lies elsewhere than the image",
    ),
    "point in 2D": (lambda s, p, r, c: Point((18, 33)), r"^point \(18, 33\) is no voxel; give three numbers"),
    "point of words": (lambda s, p, r, c: Point("123"), "^point '123' is no voxel"),
    "point of one": (lambda s, p, r, c: Point(3), "^point 3 is no voxel"),
    "box in 2D": (lambda s, p, r, c: Box((1, 1), (3, 4)), r"^corner \(1, 1\) is no voxel"),
    "scribble in 2D": (lambda s, p, r, c: Scribble(((1, 2), (3, 4))), r"^place of a scribble \(1, 2\) is no voxel"),
    "point's object": (
        lambda s, p, r, c: Point((1, 2, 3), "liver"),
        "^object 'liver' is no label; number objects from 1 to 65535",
    ),
    "point of NaN": (
        lambda s, p, r, c: s.segment_volume(p.volume, [Point((1, 2, np.nan))]),
        r"^point at \(1\.0, 2\.0, nan\) lies outside the image: it is no number; give voxel indices",
    ),
    "wide scribble": (lambda s, p, r, c: Scribble(LINE, width="a"), "^a scribble cannot be 'a' wide; give a width of 1"),
    "no scribble": (lambda s, p, r, c: Scribble(LINE, width=0), "^a scribble cannot be 0 wide"),
    "half slices": (lambda s, p, r, c: SliceRange(8.5, 14), r"^slices 8\.5 to 14 are none; give the first and the last, whole"),
    "size in words": (
        lambda s, p, r, c: Segmenter.from_pretrained(image_size="256"),
        r"^no network takes images of '256' pixels \(a str\); give a multiple of 32",
    ),
    "outlines of images": (
        lambda s, p, r, c: [*s.segment_images([grey()], {0: {1: grey() > 9}})],
        r"^object 1 on image 0 is prompted by a ndarray; give a FramePrompt: \.click",
    ),
    "clicks of volumes": (lambda s, p, r, c: [*s.segment_images([grey()], {0: {1: c}})], "is prompted by a Point; give a"),
    "lists of prompts": (
        lambda s, p, r, c: [*s.segment_images([grey()], {0: {1: [FramePrompt.click(1, 1)]}})],
        "is prompted by a list; give",
    ),
    "prompts of no object": (
        lambda s, p, r, c: [*s.segment_images([grey()], {0: FramePrompt.click(1, 1)})],
        r"^a FramePrompt on image 0 does not say which object it is of; give \{image",
    ),
    "prompts of no image": (
        lambda s, p, r, c: [*s.segment_images([grey()], [{1: FramePrompt.click(1, 1)}])],
        "^prompts of type list do not say which image they are of; give",
    ),
    "box's object": (lambda s, p, r, c: Box((1, 1, 2), (3, 4, 2), 0), "^object 0 is no label"),
    "mask's object": (lambda s, p, r, c: Mask(p.truth == 1, 1.5), "^object 1.5 is no label"),
    "lasso's object": (lambda s, p, r, c: Lasso(LINE, None), "^object None is no label"),
    "brush's object": (lambda s, p, r, c: Brush(np.ones((1, 3), int), -1), "^object -1 is no label"),
    "slices' object": (lambda s, p, r, c: SliceRange(1, 2, True), "^object True is no label"),
    "shapes' object": (lambda s, p, r, c: ShapeInterpolation("1"), "^object '1' is no label"),
    "image's object": (
        lambda s, p, r, c: [*s.segment_images([np.eye(9)], {0: {"cell": FramePrompt.click(1, 1)}})],
        "object 'cell' is",
    ),
    "PIL images": (
        lambda s, p, r, c: outline_all(s, [grey(), Image.fromarray(grey())]),
        r"^image 1 is of type Image, no array; give np\.asarray\(image\)$",
    ),
    "images as lists": (
        lambda s, p, r, c: outline_all(s, [grey().tolist()]),
        r"^image 0 is of type list, no array; give np\.asarray",
    ),
    "images one by one": (
        lambda s, p, r, c: outline_all(s, (grey() for _ in range(2))),
        r"^images of type generator cannot be counted; give a list, such as list\(images\)$",
    ),
    "complex images": (
        lambda s, p, r, c: outline_all(s, [grey(), grey() * 1j]),
        "^image 1: an array of type complex128 is no",
    ),
    "masked images": (
        lambda s, p, r, c: outline_all(s, [np.ma.masked_less(grey(), 9)]),
        "^image 0: a masked array is no",
    ),
    "transparent images": (
        lambda s, p, r, c: outline_all(s, [grey(), np.dstack([grey()] * 4)]),
        r"^image 1 has shape \(9, 9, 4\); give arrays \(H, W\) or \(H, W, 3\), such as image\[\.\.\., :3\]$",
    ),
    "masked volume": (
        lambda s, p, r, c: Volume(np.ma.masked_less(p.volume.array, 0.5), np.eye(4)),
        r"^a masked array is no image; fill what is masked, such as array\.filled\(0\)$",
    ),
    "labels as mask": (
        lambda s, p, r, c: Mask(p.truth),
        "the mask of object 1 holds 0 and 1, 2: which is inside is not clear; give Tr",
    ),
    "nan in a mask": (lambda s, p, r, c: Mask(np.where(p.truth > 0, np.nan, 0)), "holds 0 and nan"),
    "soft mask": (lambda s, p, r, c: Mask(p.volume.array), r"holds 0 and 0\.\d+, 0\.\d+, 0\.\d+ …: which is inside"),
    "probability as mask": (
        lambda s, p, r, c: Mask(0.02 * (p.truth == 1)),
        r"^the mask of object 1 holds 0\.02 where it is not 0: a probability, not an outline; say from which value on",
    ),
    "mask of a negative number": (
        lambda s, p, r, c: FramePrompt.mask(-(p.truth[:, :, 8] == 1).astype(np.int8)),
        "^an outline holds -1 where it is not 0, which is no label; give True and False, such as array > 0$",
    ),
    "mask of a fraction over 1": (
        lambda s, p, r, c: Mask((p.truth == 1) * 1.5),
        r"^the mask of object 1 holds 1\.5 where it is not 0, which is no label; give True and False",
    ),
    "words as mask": (lambda s, p, r, c: Mask("mask.nii.gz"), "the mask of object 1 is of type <U11; give an array of True"),
    "mask in 2D": (
        lambda s, p, r, c: Mask(p.truth[:, :, 8] == 1),
        r"the mask of object 1 has shape \(11, 13\); give one of the im",
    ),
    "outline of labels": (lambda s, p, r, c: FramePrompt.mask(p.truth.max(1)), "an outline holds 0 and 1, 2"),
    "complex": (
        lambda s, p, r, c: Volume(p.volume.array * 1j, np.eye(4)),
        "an array of type complex64 is no image; give a numpy",
    ),
    "objects": (lambda s, p, r, c: Volume(p.volume.array.astype(object), np.eye(4)), "an array of type object is no image"),
    "lists": (lambda s, p, r, c: Volume([[[1.0]]], np.eye(4)), "something of type list is no image"),
    "labels as floats": (
        lambda s, p, r, c: Segmentation(r.labels / 1.0, np.eye(4)),
        "type float64 is no label map; give a numpy",
    ),
    "save": (lambda s, p, r, c: io.save(r, "a.nii.gz", like="ct.nii.gz"), "something of type str is no Volume"),
    "save elsewhere": (
        lambda s, p, r, c: io.save(r, "nowhere/a.nii.gz", like=moved(p.volume)),
        "^the labels lie up to 2 mm away from the image's voxels; give a segmentation of this image$",
    ),
    "measure elsewhere": (lambda s, p, r, c: measure(moved(p.volume), r), "^the labels lie up to 2 mm away"),
    "montage elsewhere": (lambda s, p, r, c: preview.montage(moved(p.volume), r), "^the labels lie up to 2 mm away"),
    "film elsewhere": (lambda s, p, r, c: preview.animation(moved(p.volume), r), "^the labels lie up to 2 mm away"),
    "finish what is not there": (
        lambda s, p, r, c: finish(r, {7: FinishingSteps(largest=True)}),
        "^there is no object 7 to finish; give labels of objects that are there$",
    ),
    "finish bare labels": (
        lambda s, p, r, c: finish(r.labels, {1: FinishingSteps(largest=True)}),
        "something of type ndarray is no Segmentation; give what segment_volume or io.load_segmentation returns",
    ),
    "finish by name": (lambda s, p, r, c: finish(r, {"1": FinishingSteps(largest=True)}), "^object '1' is no label"),
    "finish by tables": (
        lambda s, p, r, c: finish(r, {1: {"largest": True}}),
        "^object 1 is to be finished by a dict; give FinishingSteps, such as",
    ),
    "smoothed by words": (lambda s, p, r, c: FinishingSteps(smooth_mm="2"), "^smooth_mm='2' makes no sense; give True,"),
    "largest by words": (lambda s, p, r, c: FinishingSteps(largest="no"), "^largest='no' makes no sense"),
    "tolerance below 0": (
        lambda s, p, r, c: metrics.surface_dice(p.truth > 0, p.truth > 0, (1, 1, 1), -1),
        "^a tolerance of -1 mm is none; give 0 or more$",
    ),
    "tolerance of NaN": (
        lambda s, p, r, c: metrics.score(p.truth > 0, p.truth > 0, (1, 1, 1), tolerance_mm=np.nan),
        "^a tolerance of nan mm is none",
    ),
    "compared lists": (
        lambda s, p, r, c: metrics.dice([1, 0], [1, 1]),
        "^something of type list is no mask; give a numpy array",
    ),
    "letters of axes": (lambda s, p, r, c: SliceRange(6, 12, axis="k"), "^slices along axis 'k' are none; give 0, 1 or 2"),
    "a fourth axis": (lambda s, p, r, c: SliceRange(6, 12, axis=3), "^slices along axis 3 are none"),
    "window of two": (
        lambda s, p, r, c: s.segment_volume(p.volume, [c], window=(100, 600)),
        r"^window \(100, 600\) is neither a name nor a Window; give Window\(low, high\), ",
    ),
    "window of a set": (
        lambda s, p, r, c: [*s.segment_images([grey()], {0: {1: FramePrompt.click(1, 1)}}, window=[100, 600])],
        r"^window \[100, 600\] is neither a name nor a Window",
    ),
    "inside in words": (
        lambda s, p, r, c: Point((1, 2, 3), positive="no"),
        "^positive='no' says neither inside nor outside; give",
    ),
    "box in words": (lambda s, p, r, c: Box((1, 1, 2), (3, 4, 2), positive=None), "^positive=None says neither"),
    "line in words": (lambda s, p, r, c: Scribble(LINE, positive=2), "^positive=2 says neither"),
    "brush in words": (lambda s, p, r, c: Brush(np.ones((1, 3), int), positive=0.5), r"^positive=0\.5 says neither"),
    "click in words": (lambda s, p, r, c: FramePrompt.click(1, 1, positive="no"), "^positive='no' says neither"),
    "between images": (
        lambda s, p, r, c: [*s.segment_images([grey()], {0.5: {1: FramePrompt.click(1, 1)}})],
        r"^0\.5 is no image; number images from 0: give \{image",
    ),
    "modality in words": (
        lambda s, p, r, c: [*s.segment_images([grey()], {0: {1: FramePrompt.click(1, 1)}}, modality="CT")],
        "^modality 'CT' is of no image; give a function of its index",
    ),
    "shape as given": (
        lambda s, p, r, c: outline_all(s, [grey(), np.pad(np.dstack([grey()] * 4), ((3, 3), (3, 3), (0, 0)))]),
        r"^image 1 has shape \(15, 15, 4\); give arrays",
    ),
    "no slices": (
        lambda s, p, r, c: preview.montage(p.volume, r, slices=0),
        "^slices=0 leaves nothing to see; give 1 or more$",
    ),
    "no width": (
        lambda s, p, r, c: preview.montage(p.volume, r, width_px=0),
        "^width_px=0 leaves nothing to see; give 100 or more",
    ),
    "no tiles": (
        lambda s, p, r, c: preview.contact_sheet([grey()], tile_px=0),
        "^tile_px=0 leaves nothing to see; give 1 or more$",
    ),
    "no columns": (lambda s, p, r, c: preview.contact_sheet([grey()], columns=0), "^columns=0 leaves nothing to see"),
    "no frames": (lambda s, p, r, c: preview.animation(p.volume, r, frames=0), "^frames=0 leaves nothing to see"),
    "no path": (lambda s, p, r, c: io.load(None), r"^None \(of type NoneType\) is no path; give the name of a file or folder"),
    "path in bytes": (lambda s, p, r, c: io.load_labels(b"a.nii", p.volume), r"^b'a\.nii' \(of type bytes\) is no path"),
    "frame in words": (
        lambda s, p, r, c: io.load("nowhere.nii.gz", frame="1"),
        "^frame='1' is no whole number; give one, or leave",
    ),
    "series of halves": (lambda s, p, r, c: io.load("nowhere", series=1.5), r"^series=1\.5 names no series; give its number"),
    "bytes in words": (lambda s, p, r, c: io.load("nowhere.nii.gz", max_bytes="1 GB"), "^max_bytes='1 GB' is no whole number"),
    "pooling in words": (
        lambda s, p, r, c: Segmenter.from_pretrained(pool_memory="1"),
        "^pool_memory '1' is no distance in tokens; give 0 or more$",
    ),
    "load labels": (lambda s, p, r, c: io.load_labels("a.nii.gz", like="ct.nii.gz"), "something of type str is no Volume"),
    "load outlines": (lambda s, p, r, c: io.load_outlines("a.nii.gz", Path("ct.nii.gz")), "type Posix.* is no Volume"),
    "load all": (lambda s, p, r, c: io.load_segmentation("a.nii.gz", r), "something of type Segmentation is no Volume"),
    "swapped": (lambda s, p, r, c: measure(r, p.volume), "something of type Segmentation is no Volume"),
    "measure labels": (
        lambda s, p, r, c: measure(p.volume, r.labels),
        "type ndarray is no Segmentation; give what segment_vol",
    ),
    "montage": (lambda s, p, r, c: preview.montage(p.volume, r.labels), "something of type ndarray is no Segmentation"),
    "animation": (lambda s, p, r, c: preview.animation(r, p.volume), "something of type Segmentation is no Volume"),
}


@pytest.mark.parametrize("use", USES)
def test_a_wrong_use_is_refused_in_one_line(case: Phantom, network: Segmenter, use: str) -> None:
    call, said = USES[use]
    result = Segmentation(case.truth, case.volume.affine)
    with pytest.raises(MedicalSam2Error, match=said) as refused:
        call(network, case, result, Point(case.voxel(1)))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize(
    "values", [(np.uint8, 1), (np.uint8, 255), (np.int64, 3), (np.float32, 1.0), (np.float32, 7.0), (bool, True)]
)
def test_a_mask_of_numbers_is_what_is_not_0(case: Phantom, network: Segmenter, values: tuple[Any, Any]) -> None:
    """As label files and other programs hold them."""
    kind, value = values
    drawn = np.zeros(case.truth.shape, bool)
    drawn[:, :, 8] = case.truth[:, :, 8] == 1
    prompt = Mask(drawn.astype(kind) * kind(value))
    assert prompt.array_ijk.dtype == bool
    found, as_drawn = (network.segment_volume(case.volume, [each], window="0,1").labels for each in (prompt, Mask(drawn)))
    assert (found == as_drawn).all()
    assert found.any()
    assert (FramePrompt.mask(drawn[:, :, 8].astype(kind) * kind(value)).mask_hw == drawn[:, :, 8]).all()


def test_a_result_is_corrected_as_its_labels_are(case: Phantom, network: Segmenter) -> None:
    first = network.segment_volume(case.volume, [Point(case.voxel(1)), Point(case.voxel(2), 2)], window="0,1")
    click = [Point(case.voxel(1), positive=False)]
    by_result = network.segment_volume(case.volume, click, earlier=first, window="0,1")
    for labels in (first.labels, first.labels.astype(np.int64), first.labels.astype(float)):
        assert (network.segment_volume(case.volume, click, earlier=labels, window="0,1").labels == by_result.labels).all()
    assert (by_result.labels != first.labels).any()


def test_prompts_may_come_one_by_one(case: Phantom, network: Segmenter) -> None:
    given = [Point(case.voxel(1)), Point(case.voxel(2), np.int64(2))]
    found = network.segment_volume(case.volume, iter(given), window="0,1")  # type: ignore[arg-type]
    assert (found.labels == network.segment_volume(case.volume, given, window="0,1").labels).all()
    assert set(found.objects()) == {1, 2}


@pytest.mark.parametrize("names", ["liver", ["liver"], {1: 5}, {"1": "liver"}, {1: None}, 7])
def test_names_that_are_none_are_refused_before_anything_is_tracked(names: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case, network = phantom(), segmenter()
    result = Segmentation(case.truth, case.volume.affine)
    monkeypatch.delattr("medical_sam2.segmenter.VolumeTracker")
    for use in (
        lambda: network.segment_volume(case.volume, [Point(case.voxel(1))], names=names),
        lambda: network.segment_by_template(case.volume, Template(case.volume, result), names=names),
        lambda: Segmentation(case.truth, case.volume.affine, names),
    ):
        with pytest.raises(ConfigError, match=r"^names .* are no names of objects; give label → name, such as \{1: 'liver'\}$"):
            use()


def test_a_name_is_of_an_object_that_is_prompted(case: Phantom, network: Segmenter) -> None:
    click, called = Point(case.voxel(1)), {1: "spleen", 4: "liver"}
    with pytest.raises(PromptError, match="a name is given to object 4, which has no prompt; prompt it, or leave its name out"):
        network.segment_volume(case.volume, [click], names=called)
    template = Template(case.volume, Segmentation(case.truth, case.volume.affine))
    with pytest.raises(PromptError, match="a name is given to object 4"):
        network.segment_by_template(case.volume, template, names=called)
    first = Segmentation(case.truth, case.volume.affine, called)
    for names in (None, called):  # an object of an earlier result may have no voxel left
        assert network.segment_volume(case.volume, [click], earlier=first, names=names).names == called


def test_the_largest_number_of_an_object_is_read_again(case: Phantom, network: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="object 65536 is no label; number objects from 1 to 65535"):
        Point(case.voxel(1), 65_536)
    found = network.segment_volume(case.volume, [Point(case.voxel(1), 65_535)], window="0,1")
    io.save(found, tmp_path / "a.nii.gz", case.volume)
    assert (io.load_segmentation(tmp_path / "a.nii.gz", case.volume, MaskRule(each_label=True)).labels == found.labels).all()


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_counts_as_background_and_is_told(case: Phantom, network: Segmenter, odd: float) -> None:
    """As readers of files do it."""
    array = np.array(case.volume.array, np.float32)
    array[:2] = 0
    expected = network.segment_volume(Volume(array, case.volume.affine), [Point(case.voxel(1))])
    broken = np.where(np.arange(len(array))[:, None, None] < 2, np.float32(odd), array)
    found = network.segment_volume(image := Volume(broken, case.volume.affine), [Point(case.voxel(1))])
    assert f"{array[:2].size} of {array.size} voxels are NaN or infinite" in found.warnings[0]
    assert (found.labels == expected.labels).all()
    assert not np.isfinite(image.array[:2]).any()  # what was given is left alone
    pictures = [np.where(np.eye(16) > 0, odd, np.arange(16.0)), np.tile(np.arange(16.0), (16, 1))]
    told = {one.index: one.warnings for one in network.segment_images(pictures, {0: {1: FramePrompt.click(15, 2)}})}
    assert any("16 of 256 voxels are NaN" in line for line in told[0])
    assert not any("NaN" in line for line in told[1])


def test_a_segmenter_is_copied_and_handed_to_other_processes(case: Phantom) -> None:
    made = Segmenter(nano(64), device="cpu", precision="fp32", pool_memory=0)
    expected = made.segment_volume(case.volume, [Point(case.voxel(1))]).labels
    for copy in (deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert (copy.segment_volume(case.volume, [Point(case.voxel(1))]).labels == expected).all()
        assert copy.network is not made.network


def test_a_grid_that_differs_by_rounding_is_the_same(case: Phantom, tmp_path: Path) -> None:
    result, rounded = Segmentation(case.truth, case.volume.affine), moved(case.volume, 5e-4)
    io.save(result, tmp_path / "a.nii.gz", like=rounded)
    assert np.allclose(io.load(tmp_path / "a.nii.gz").affine, rounded.affine, atol=1e-6)
    assert measure(rounded, result)[0].voxels == np.count_nonzero(case.truth == 1)


def test_features_are_kept_in_a_folder_named_by_text(tmp_path: Path) -> None:
    made = Segmenter(nano(64), device="cpu", precision="fp32")
    [*made.segment_images([grey()], {0: {1: FramePrompt.click(4, 4)}}, features=str(tmp_path / "kept"))]
    assert {file.suffix for file in (tmp_path / "kept").iterdir()} == {".safetensors"}


@pytest.mark.parametrize("width_px", [100, 101, 150])
def test_the_narrowest_pictures_are_drawn(case: Phantom, width_px: int) -> None:
    result = Segmentation(case.truth, case.volume.affine)
    assert preview.montage(case.volume, result, width_px=width_px, slices=1).width == width_px
    assert preview.animation(case.volume, result, width_px=width_px, frames=1)[0].width == width_px


def test_the_package_knows_its_version() -> None:
    assert medical_sam2.__version__ == version("medical-sam2")

"""The whole path from prompts to labels, with a backbone whose answer is known: geometry, order, independence of objects."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medical_sam2.errors import ConfigError, GeometryError, InputError, PromptError
from medical_sam2.intensity_window import Window
from medical_sam2.model.device import choose_device, choose_precision
from medical_sam2.model.memory_bank import Fifo
from medical_sam2.prompts import Mask, Point
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking import plan
from medical_sam2.tracking.template import Template
from medical_sam2.tracking.volume_tracker import FrameDone
from medical_sam2.views import CORONAL, SAGITTAL, View
from medical_sam2.volume import Segmentation, Volume
from tests.phantoms import Phantom, phantom, segmenter
from tests.strategies import CODES, codes

KINDS = ("click", "box", "mask")
MOST = {"fifo": 15 + 6, "self-sorting": 7, "greedy": 16 + 6}
"""Memories attended to at once; the prompt of each of six views is never forgotten."""


def segment(case: Phantom, prompts: list[Any], **options: Any) -> Segmentation:
    return segmenter().segment_volume(case.volume, prompts, **({"window": "0,1"} | options))


@pytest.mark.parametrize("code", CODES)
def test_a_click_on_a_voxel_finds_its_object_in_every_orientation(code: str) -> None:
    case = phantom(code)
    found = segment(case, [Point(case.voxel(1), 1), Point(case.voxel(2), 2)], views="one")
    assert (found.labels == case.truth).all()
    assert (found.affine == case.volume.affine).all()


@pytest.mark.parametrize("code", ["RAS", "PIR", "SLA"])
def test_two_objects_that_claim_the_same_keep_what_was_clicked_on(code: str) -> None:
    """On a slice that an object is prompted on, it comes before one that was only tracked there."""
    case = phantom(code)
    axis, (one, other) = View("SPL").order(code)[0], (list(case.voxel(1)), list(case.voxel(1)))
    other[axis] += 1
    for labels in ((1, 2), (2, 1)):
        prompts = [Point(tuple(one), labels[0]), Point(tuple(other), labels[1])]
        found = segment(case, prompts, views=[View("SPL")]).labels
        for place, label in zip((one, other), labels, strict=True):
            here = np.take(found, place[axis], axis)
            assert (here[np.take(case.truth, place[axis], axis) == 1] == label).all()
        assert set(np.unique(found[case.truth == 1])) == {1, 2}
        first = segment(case, prompts, views=[View("SPL")], priority=[labels[0]]).labels
        assert (first[case.truth == 1] == labels[0]).all(), "who was given priority has it there, too"


@settings(max_examples=20)
@given(data=st.data(), code=codes, tilt=st.floats(-20, 20), spacing=st.tuples(*[st.floats(0.4, 5)] * 3))
def test_every_prompt_view_policy_and_fusion_in_oblique_grids(
    data: st.DataObject, code: str, tilt: float, spacing: tuple[float, float, float]
) -> None:
    case = phantom(code, tilt_deg=tilt, spacing_mm=spacing)
    prompts = [case.prompt(data.draw(st.sampled_from(KINDS)), label, data.draw(st.integers(0, 2))) for label in (1, 2)]
    found = segment(
        case,
        prompts,
        views=data.draw(st.sampled_from(["one", "three", "six", "auto"])),
        bank=data.draw(st.sampled_from(list(MOST))),
        joint=data.draw(st.booleans()),
        fusion=data.draw(st.sampled_from(["mean", "vote", "weighted"])),
    )
    assert (found.labels == case.truth).all()


@pytest.mark.parametrize("name", ["axial", "coronal", "sagittal"])
def test_a_named_plane_is_the_only_one_played(name: str) -> None:
    case = phantom("LPS")
    found = segment(case, [Point(case.voxel(1))], views=name)
    assert ((found.labels == 1) == (case.truth == 1)).all()
    assert {View(row.view).name for row in found.confidence} == {name}


def test_views_of_ones_own() -> None:
    """Rows and columns may run anywhere, also in two views of one plane."""
    case = phantom("PIR")
    chosen = [View("AIR"), View("PRI"), View("RSP")]
    found = segment(case, [Point(case.voxel(1))], views=chosen)
    assert ((found.labels == 1) == (case.truth == 1)).all()
    assert {row.view for row in found.confidence} == {view.code for view in chosen}


def test_a_prompt_outside_of_the_chosen_views_is_refused() -> None:
    case = phantom()
    for views in ("coronal", [CORONAL]):
        with pytest.raises(PromptError, match="no prompt of object 1 lies in the coronal plane"):
            segment(case, [case.prompt("box", 1, 2)], views=views)


def test_an_object_on_a_single_slice() -> None:
    case = phantom()
    flat = replace(case.volume, array=case.volume.array[:, :, 5:6])
    for views in ("one", "three", "six", "auto"):
        found = segmenter().segment_volume(flat, [Point((5, 6, 0))], views=views, window="0,1")
        assert ((found.labels == 1) == (case.truth[:, :, 5:6] == 1)).all()


def test_a_flat_image_is_played_as_the_picture_that_it_is() -> None:
    """Whatever the thickness of its only slice."""
    picture = Volume(np.random.default_rng(0).random((32, 40, 1)), np.diag([1, 1, 0.1, 1.0]))
    found = segmenter().segment_volume(picture, [Point((3, 3, 0))], views="one")
    assert [row.view for row in found.confidence] == ["SPL"]


@pytest.mark.parametrize("policy", MOST)
def test_objects_together_are_objects_alone(policy: str) -> None:
    """They start on different slices and reach differently far, and neither knows of the other."""
    case = phantom("LPS")
    prompts = [case.prompt("mask", 1, 2), case.prompt("box", 2, 2)]
    options = {"views": "six", "bank": policy, "probability": True}
    together = segment(case, prompts, **options)
    for prompt in prompts:
        alone = segment(case, [prompt], **options)
        assert ((together.labels == prompt.object) == (alone.labels == prompt.object)).all()
        assert (together.probability[prompt.object] == alone.probability[prompt.object]).all()
        assert tuple(row for row in together.confidence if row.object == prompt.object) == alone.confidence


def test_objects_in_lock_step_are_objects_alone() -> None:
    """The same for the weights that ship, to rounding, in a part of the phantom with both objects."""
    whole = phantom().volume
    part = replace(whole, array=whole.array[:8, 5:])
    prompts = [Point((5, 1, 8), 1), Point((1, 6, 8), 2)]
    network = Segmenter.from_pretrained(device="cpu", precision="fp32", image_size=64)
    options: dict[str, Any] = {"views": [View("SPL"), SAGITTAL], "probability": True, "window": "0,1"}
    together = network.segment_volume(part, prompts, **options)
    assert np.abs(together.probability[1] - together.probability[2]).max() > 0.9, "memories of one are not those of the other"
    for prompt in prompts:
        alone = network.segment_volume(part, [prompt], **options)
        assert np.abs(together.probability[prompt.object] - alone.probability[prompt.object]).max() < 1e-4
    again = network.segment_volume(part, prompts, **options)
    assert (again.labels == together.labels).all()
    assert again.confidence == together.confidence


def test_few_objects_at_once_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    case = phantom()
    prompts = [case.prompt("click", 1, 2), case.prompt("click", 2, 2), replace(case.prompt("click", 1, 2), object=7)]
    whole = segment(case, prompts, views="three", uncertainty=True)
    monkeypatch.setattr(plan, "TOGETHER_BYTES", 1)
    parts = segment(case, prompts, views="three", uncertainty=True)
    assert (parts.labels == whole.labels).all()
    assert (parts.uncertainty == whole.uncertainty).all()
    assert "object 7 was not found on any slice" in parts.warnings  # of equals, the smaller label


def test_a_slice_is_encoded_once_for_both_directions_and_all_objects() -> None:
    case = phantom()
    network = segmenter()
    prompts = [case.prompt("mask", 1, 2), case.prompt("mask", 2, 2)]
    network.segment_volume(case.volume, prompts, views="six", window="0,1")
    encoded = network.network.counts.encoded  # type: ignore[union-attr]
    assert len(encoded) == len(set(encoded)) <= sum(case.volume.shape)


@pytest.mark.parametrize("policy", MOST)
def test_the_bank_is_bounded(policy: str) -> None:
    volume = Volume(np.random.default_rng(0).random((8, 8, 120)).astype(np.float32), np.diag([1, 1, 5, 1.0]))
    network = segmenter()
    network.segment_volume(volume, [Point((4, 4, 60))], views="six", bank=policy)
    assert 1 < network.network.counts.most_memories <= MOST[policy]  # type: ignore[operator, union-attr]


def test_a_bank_of_ones_own() -> None:
    case = phantom()
    found = segment(case, [Point(case.voxel(1))], bank=lambda: Fifo(maps=2, pointers=2))
    assert ((found.labels == 1) == (case.truth == 1)).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("named", [True, False])
def test_drawn_slices_stay_as_drawn(axis: int, named: bool) -> None:
    case = phantom("AIL")
    drawn = case.slice_mask(1, axis)
    drawn[tuple(np.argwhere(drawn)[0])] = False  # as no network would draw it
    found = segment(case, [Mask(drawn, 1, axis if named else None)], views="three")
    place = int(case.voxel(1)[axis])
    assert (found.labels.take(place, axis) == drawn.take(place, axis)).all()
    others = [i for i in range(drawn.shape[axis]) if i != place]
    assert ((found.labels == 1) == (case.truth == 1)).take(others, axis).all()


def test_outlines_on_several_slices_and_in_several_planes_stay() -> None:
    case = phantom()
    first, second, across = (np.zeros(case.truth.shape, bool) for _ in range(3))
    first[3:6, 5:8, 6], second[4:7, 5:7, 6], second[4:6, 5:8, 9] = True, True, True
    across[2:9, 7, 4:12] = True
    found = segment(case, [Mask(first, 1, 2), Mask(second, 1, 2), Mask(across, 1, 1)], views="three").labels == 1
    assert (found[:, 7, :] == across[:, 7, :]).all()
    rest = [y for y in range(13) if y != 7]
    assert (found[:, rest, 6] == (first | second)[:, rest, 6]).all()
    assert (found[:, rest, 9] == second[:, rest, 9]).all()


def test_an_outline_of_several_slices_keeps_what_lies_beyond_them() -> None:
    case = phantom(spacing_mm=(1, 1, 3))
    drawn = (case.truth == 1) & (np.arange(16) >= 7) & (np.arange(16) < 10)
    found = segment(case, [Mask(drawn)], views="one")
    assert ((found.labels == 1) == (case.truth == 1)).all()


def test_a_click_corrects_a_drawn_slice() -> None:
    case = phantom()
    drawn = case.slice_mask(1, 2)
    drawn[1:3, 4:10, 8] = True
    found = segment(case, [Mask(drawn, 1, 2), Point(case.voxel(1)), Point((1, 6, 8), positive=False)], views="one")
    assert ((found.labels == 1) == (case.truth == 1)).all()


def test_what_was_drawn_in_a_plane_that_is_not_tracked_is_told() -> None:
    case = phantom()
    found = segment(case, [case.prompt("box", 1, 2), case.prompt("box", 1, 1), case.prompt("mask", 1, 0)], views="one")
    assert len([w for w in found.warnings if "plane that is not tracked" in w]) == 2


def test_an_object_that_is_not_there_is_told() -> None:
    case = phantom()
    found = segment(case, [Point(case.voxel(1), 1), Point(case.voxel(1), 3)], views="three")
    place = " ".join(str(round(x)) for x in case.voxel(1))
    outside = f"the positive click on object 3 at {place} lies outside of what was found: object 1 is there"
    assert found.warnings == ("object 3 was not found on any slice", outside)
    assert set(np.unique(found.labels)) == {0, 1}


def test_objects_that_claim_the_same_voxels_are_kept_apart_where_wanted() -> None:
    case = phantom()
    padded = Volume(np.pad(case.volume.array, 3), case.volume.affine)
    inner = np.zeros(padded.shape, bool)
    inner[8:10, 9:11, 11] = True
    voxel = tuple(x + 3 for x in case.voxel(1))
    prompts, names = [Point(voxel, 1), Point(voxel, 7), Mask(inner, 3, 2)], {7: "tumour"}  # type: ignore[arg-type]
    whole = np.pad(case.truth == 1, 3)

    def found(**options: Any) -> Segmentation:
        return segmenter().segment_volume(padded, prompts, window="0,1", names=names, **options)

    apart = found(overlap=True)
    assert not any("lies outside" in line or "not found" in line for line in apart.warnings)
    assert len(apart.layers) == 3
    for label in (1, 3, 7):
        assert (apart.mask(label) == whole).all() if label != 3 else (apart.mask(3)[:, :, 11] == inner[:, :, 11]).all()
    assert apart.objects() == (1, 3, 7)
    flat = found(overlap=False, priority=["tumour", 1])
    assert flat.layers == ()
    assert set(np.unique(flat.labels)) == {0, 7}, "an outline gives way to what has priority"
    assert set(np.unique(found(priority=[3, 1]).labels)) == {0, 1, 3}


@pytest.mark.parametrize(("priority", "says"), [(["liver"], "no objects are called liver"), ([1, "1"], "named twice")])
def test_a_priority_names_each_object_once(priority: list[Any], says: str) -> None:
    case = phantom()
    with pytest.raises(ConfigError, match=says):
        segment(case, [case.prompt("click", 1, 2)], priority=priority)
    with pytest.raises(ConfigError, match="one label map"):
        segment(case, [case.prompt("click", 1, 2)], overlap=True, earlier=case.truth)


def test_an_earlier_result_whose_objects_overlap_is_refused() -> None:
    """In its labels alone, which somebody may give all the same, what objects share is one's."""
    case = phantom()
    one, other = (case.truth == 1).astype(np.uint8), 2 * (case.truth > 0).astype(np.uint8)
    earlier = Segmentation(np.maximum(one, other), case.volume.affine, layers=(one, other))
    click = case.prompt("click", 1, 2)
    with pytest.raises(ConfigError, match=r"objects overlap, and a correction mends one label map; .*`earlier\.labels`"):
        segment(case, [click], earlier=earlier)
    found = segment(case, [click], earlier=replace(earlier, layers=(one,), labels=one))
    assert (found.labels == segment(case, [click], earlier=one).labels).all(), "a single layer tells nothing more"
    segment(case, [click], earlier=earlier.labels)


def test_progress_ends_at_its_total() -> None:
    case = phantom()
    for views in ("one", "three", "six"):
        told: list[FrameDone] = []
        segment(case, [case.prompt("box", 1, 2), case.prompt("mask", 2, 2)], views=views, on_frame=told.append)
        assert [each.done for each in told] == list(range(1, len(told) + 1))
        assert all(each.done <= each.total for each in told)
        assert told[-1].done == told[-1].total
        assert {label for each in told for label in each.objects} == {1, 2}


def test_objects_of_different_density_get_their_own_window() -> None:
    """Lung and bone of one CT, each prompted together as it would be alone."""
    case = phantom()
    ct = Volume(np.select([case.truth == 1, case.truth == 2], [-800, 900], -100).astype(np.int16), np.eye(4), "CT")
    prompts = [Point(case.voxel(1), 1), Point(case.voxel(2), 2)]
    together = segmenter().segment_volume(ct, prompts, views="one")
    for prompt in prompts:
        alone = segmenter().segment_volume(ct, [prompt], views="one")
        assert ((alone.labels == prompt.object) == (together.labels == prompt.object)).all()
        assert ((alone.labels == prompt.object) == (case.truth == prompt.object)).all()


def test_probability_and_uncertainty_where_they_are_asked_for() -> None:
    case = phantom()
    found = segment(case, [Point(case.voxel(1))], views="three", probability=True, uncertainty=True, names={1: "block"})
    assert ((found.probability[1] > 0.5) == (found.labels == 1)).all()
    assert found.uncertainty is not None
    assert found.names == {1: "block"}
    plain = segment(case, [Point(case.voxel(1))])
    assert not plain.probability
    assert plain.uncertainty is None


def test_bad_requests_are_refused() -> None:
    case = phantom()
    click = Point(case.voxel(1))
    refused: list[tuple[type[Exception], list[Any], dict[str, Any]]] = [
        (PromptError, [], {}),
        (PromptError, [replace(click, positive=False)], {}),
        (PromptError, [Point((0, 0, 16))], {}),
        (PromptError, [Mask(np.ones((2, 2, 2), bool))], {}),
        (ConfigError, [click], {"views": "seven"}),
        (ConfigError, [click], {"views": []}),
        (ConfigError, [click], {"bank": "lifo"}),
        (ConfigError, [click], {"fusion": "max"}),
        (ConfigError, [click], {"window": "blue"}),
        (ConfigError, [click], {"earlier": case.truth, "probability": True}),
        (GeometryError, [click], {"earlier": case.truth[1:]}),
    ]
    for error, prompts, options in refused:
        with pytest.raises(error):
            segment(case, prompts, **options)
    with pytest.raises(PromptError, match="object 0 is no label"):
        replace(click, object=0)


@pytest.mark.parametrize("held", [True, False])
def test_bf16_is_chosen_where_both_the_processor_and_onednn_compute_it(monkeypatch: pytest.MonkeyPatch, held: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: not held)
    assert choose_precision("auto", torch.device("cpu")) == ("fp32" if held else "bf16")


def test_devices_and_precisions() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_precision("fp32", torch.device("cpu")) == "fp32"
    assert choose_precision("auto", torch.device("cpu")) in {"fp32", "bf16"}
    for name in ("abacus", "cuda:99", "meta"):
        with pytest.raises(ConfigError):
            choose_device(name)
    with pytest.raises(ConfigError):
        choose_precision("fp8", torch.device("cpu"))


@pytest.mark.parametrize("value", [0.0, np.nan, -np.inf, "part"])
@pytest.mark.parametrize("window", ["auto", "soft"])
def test_a_volume_of_one_value_is_refused(value: float | str, window: str) -> None:
    """A network outlines something round at a click even there; what is not finite counts as background."""
    blank = np.full((20, 24, 9), 3.0 if value == "part" else float(value))
    if value == "part":
        blank[:10, :12] = np.nan
    ask = partial(segmenter().segment_volume, prompts=[Point((10, 12, 3))], window=window)
    with pytest.raises(InputError, match=r"^all voxels have the same value: there is nothing to outline; check"):
        ask(Volume(blank, np.eye(4)))
    blank[-1, -1, -2:] = 4.0, 5.0
    if window == "auto":
        assert ask(Volume(blank, np.eye(4))).labels.shape == blank.shape


@pytest.mark.parametrize("window", [Window(0, 1), "0,1"])
def test_a_blank_part_of_an_image_is_seen_through_the_window_of_the_whole(window: Window | str) -> None:
    """As the page shows a slice of padding, on which something may be drawn."""
    drawn = np.zeros((1, 24, 30), bool)
    drawn[:, 3:9, 4:12] = True
    part = Volume(np.zeros(drawn.shape), np.eye(4))
    found = segmenter().segment_volume(part, [Mask(drawn)], views=[View("RPS")], window=window)
    assert (found.labels == drawn).all()


def test_a_template_and_what_it_is_for_hold_more_than_one_value() -> None:
    case = phantom()
    blank, drawn = replace(case.volume, array=np.zeros(case.volume.shape)), Segmentation(case.truth, case.volume.affine)
    for volume, image in ((blank, case.volume), (case.volume, blank)):
        with pytest.raises(InputError, match="nothing to outline"):
            segmenter().segment_by_template(volume, Template(image, drawn))

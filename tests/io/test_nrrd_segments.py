"""Segmentations of 3D Slicer: layers that overlap, names, and the part of the image that was drawn on."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from medical_sam2 import io
from medical_sam2.errors import FormatError, GeometryError, PromptError
from medical_sam2.io import nrrd
from medical_sam2.io.labels import MaskRule
from medical_sam2.volume import Volume

SHAPE, AFFINE = (12, 14, 9), np.array([[-1.0, 0, 0, 30], [0, -1, 0, 36], [0, 0, 2, -40], [0, 0, 0, 1]])
IMAGE = Volume(np.zeros(SHAPE, np.int16), AFFINE)
LIVER, LESION = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
LIVER[3:9, 4:11, 2:6] = True
LESION[5:7, 5:8, 3:5] = True
BOTH = ((0, 1, "liver"), (1, 1, "lesion"))


def write(
    path: Path,
    layers: list[np.ndarray],
    segments: tuple[tuple[int | None, int, str], ...],
    *,
    start: tuple[int, int, int] = (0, 0, 0),
    turn: tuple[int, int, int] = (1, 1, 1),
) -> Path:
    """Layers from voxel `start` of the image on; each segment is (layer, value, name); axes of `turn` -1 run backwards."""
    shape = layers[0].shape
    flipped = [layer[:: turn[0], :: turn[1], :: turn[2]] for layer in layers]
    last = [start[n] + (shape[n] - 1 if turn[n] < 0 else 0) for n in range(3)]
    origin = (np.diag([-1.0, -1, 1, 1]) @ AFFINE @ [*last, 1])[:3]
    directions = [np.diag([-1.0, -1, 1]) @ AFFINE[:3, n] * turn[n] for n in range(3)]
    told = " ".join("(" + ",".join(map(str, vector)) + ")" for vector in directions)
    many = len(layers) > 1
    header = [
        "NRRD0004\ntype: unsigned char",
        f"dimension: {3 + many}\nspace: left-posterior-superior",
        f"sizes: {f'{len(layers)} ' * many}{' '.join(map(str, shape))}",
        f"space directions: {'none ' * many}{told}",
        f"kinds: {'list ' * many}domain domain domain\nencoding: gzip",
        f"space origin: ({','.join(map(str, origin))})",
    ]
    for number, (layer, value, name) in enumerate(segments):
        header += [f"Segment{number}_ID:=Segment_{number}", f"Segment{number}_Name:={name}"]
        header += [f"Segment{number}_LabelValue:={value}"] + ([] if layer is None else [f"Segment{number}_Layer:={layer}"])
    data = np.stack(flipped).astype(np.uint8).tobytes(order="F")
    path.write_bytes("\n".join([*header, "\n"]).encode() + gzip.compress(data))
    return path


def found(path: Path, rule: MaskRule | None = None) -> dict[int, tuple[str, int]]:
    return {o.label: (o.name, int(o.inside.sum())) for o in io.load_outlines(path, IMAGE, rule or MaskRule())}


@pytest.mark.parametrize("turn", [(1, 1, 1), (-1, 1, -1)])
def test_each_layer_is_an_object_set_with_names(tmp_path: Path, turn: tuple[int, int, int]) -> None:
    path = write(tmp_path / "a.seg.nrrd", [LIVER, LESION], BOTH, turn=turn)
    outlined = io.load_outlines(path, IMAGE)
    assert [(outline.label, outline.name) for outline in outlined] == [(1, "liver"), (2, "lesion")]
    np.testing.assert_array_equal(outlined[0].inside, LIVER)
    np.testing.assert_array_equal(outlined[1].inside, LESION)


def test_values_that_differ_are_kept_as_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.seg.nrrd", [LIVER * 5 + LESION * 2], ((0, 5, "liver"), (0, 7, "lesion")))
    assert found(path) == {5: ("liver", LIVER.sum() - LESION.sum()), 7: ("lesion", LESION.sum())}


def test_old_versions_gave_each_segment_a_layer(tmp_path: Path) -> None:
    path = write(tmp_path / "a.seg.nrrd", [LIVER, LESION], ((None, 1, "liver"), (None, 1, "lesion")))
    assert found(path) == {1: ("liver", LIVER.sum()), 2: ("lesion", LESION.sum())}


@pytest.mark.parametrize("turn", [(1, 1, 1), (-1, -1, 1)])
@pytest.mark.parametrize(("low", "high"), [((3, 4, 2), (9, 11, 6)), ((0, 0, 0), SHAPE), ((2, 0, 1), (12, 14, 7))])
def test_a_part_lies_where_it_was_drawn(
    tmp_path: Path, low: tuple[int, int, int], high: tuple[int, int, int], turn: tuple[int, int, int]
) -> None:
    part = LIVER[tuple(slice(*side) for side in zip(low, high, strict=True))]
    (outline,) = io.load_outlines(write(tmp_path / "a.seg.nrrd", [part], BOTH[:1], start=low, turn=turn), IMAGE)
    np.testing.assert_array_equal(outline.inside, LIVER)


def test_more_than_the_image_is_fine_where_nothing_is_drawn(tmp_path: Path) -> None:
    wide = np.pad(LIVER, 2)
    (outline,) = io.load_outlines(write(tmp_path / "a.seg.nrrd", [wide], BOTH[:1], start=(-2, -2, -2)), IMAGE)
    np.testing.assert_array_equal(outline.inside, LIVER)
    wide[0, 0, :3] = True
    with pytest.raises(GeometryError, match="3 of its voxels lie outside"):
        io.load_outlines(write(tmp_path / "b.seg.nrrd", [wide], BOTH[:1], start=(-2, -2, -2)), IMAGE)
    far = write(tmp_path / "c.seg.nrrd", [LIVER], BOTH[:1], start=(500, 0, 0))
    with pytest.raises(GeometryError, match="outside"):
        io.load_outlines(far, IMAGE)


def test_a_shift_by_part_of_a_voxel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeometryError):
        io.load_outlines(write(tmp_path / "a.seg.nrrd", [LIVER], BOTH[:1], start=(0, 0, 0.3)), IMAGE)  # type: ignore[arg-type]


def test_a_label_map_of_another_size_is_placed_only_if_it_is_a_segmentation(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nrrd", [LIVER[:9]], ())
    with pytest.raises(GeometryError, match="shape"):
        io.load_outlines(path, IMAGE)


def test_segments_as_one_label_map(tmp_path: Path) -> None:
    apart = np.zeros(SHAPE, bool)
    apart[0:2, 0:2, 0:2] = True
    labels = io.load_labels(write(tmp_path / "a.seg.nrrd", [LIVER, apart], BOTH), IMAGE)
    np.testing.assert_array_equal(labels.array, LIVER + 2 * apart)
    with pytest.raises(FormatError, match=f"overlap in {LESION.sum()} voxels"):
        io.load_labels(write(tmp_path / "b.seg.nrrd", [LIVER, LESION], BOTH), IMAGE)


def test_labels_and_what_they_are_called_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apart, reads, read = np.roll(LESION, -5, axis=0), list[Path](), nrrd.read
    path = write(tmp_path / "a.seg.nrrd", [LIVER + 2 * apart], ((0, 1, "liver"), (0, 2, "lesion")))
    monkeypatch.setattr(nrrd, "read", lambda file, options: [reads.append(file), read(file, options)][1])
    labels, described = io.load_named_labels(path, IMAGE)
    assert reads == [path]
    np.testing.assert_array_equal(labels.array, LIVER + 2 * apart)
    assert [(each.label, each.name, each.inside.size) for each in described] == [(1, "liver", 0), (2, "lesion", 0)]
    with pytest.raises(PromptError, match="the segmentation is empty"):
        io.load_named_labels(write(tmp_path / "b.seg.nrrd", [LIVER & ~LIVER], BOTH[:1]), IMAGE)


def test_rules_hold_for_segments_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.seg.nrrd", [LIVER, LESION], BOTH)
    assert found(path, MaskRule(object=9)) == {9: ("", LIVER.sum())}
    assert found(path, MaskRule(value=2)) == {2: ("lesion", LESION.sum())}
    with pytest.raises(PromptError, match="no label 3"):
        found(path, MaskRule(value=3))


@pytest.mark.parametrize(
    ("layers", "segments", "says"),
    [
        ([LIVER * 3], BOTH[:1], "number 3, which is none of its segments"),
        ([LIVER], BOTH, "no layer 1"),
        ([LIVER * 0], BOTH[:1], "empty"),
        ([LIVER], ((0, -1, "liver"),), "has the number '-1'"),
    ],
)
def test_what_does_not_fit_its_header_is_refused(tmp_path: Path, layers: list, segments: tuple, says: str) -> None:
    with pytest.raises((FormatError, PromptError), match=says):
        io.load_outlines(write(tmp_path / "a.seg.nrrd", layers, segments), IMAGE)


def test_a_layered_file_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="2 values"):
        io.load(write(tmp_path / "a.seg.nrrd", [LIVER, LESION], BOTH))

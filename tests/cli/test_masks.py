"""Masks on the command line: the pages and the answers that messages name are there, and have an effect."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFilter
from pydicom import dcmread

from medical_sam2 import io
from medical_sam2.batch import MaskFile
from medical_sam2.cli.prompts import PromptOptions, SetPromptOptions, set_prompts, volume_prompts
from medical_sam2.errors import AmbiguousError, ConfigError, PromptError
from medical_sam2.io.image_folder import ImageFolder, open_folder
from medical_sam2.volume import Volume
from tests.cli.conftest import AFFINE, SHAPE, SetWorkspace, Workspace
from tests.io.making import Series
from tests.io.test_nrrd_segments import BOTH, IMAGE, LESION, LIVER, write

DISC = (np.mgrid[:40, :50] ** 2).sum(0) < 900
NOISE = np.random.default_rng(0).integers(0, 255, (40, 50)).astype(np.uint8)


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageFolder:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    for name in "ab":
        Image.fromarray(NOISE).save(tmp_path / "set" / f"{name}.png")
    tifffile.imwrite(tmp_path / "m.tif", np.stack([DISC, ~DISC]).astype(np.uint8) * 255, photometric="minisblack")
    soft = Image.fromarray(DISC.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(1))
    soft.save(tmp_path / "soft.png")
    return open_folder(tmp_path / "set")


def drawn(images: ImageFolder, *masks: str, **said: object) -> dict[int, int]:
    options = SetPromptOptions(template=("a.png",), mask=masks, **said)  # type: ignore[arg-type]
    found = set_prompts(options, images).prompts[0]
    return {label: int(prompt.mask_hw.sum()) for label, prompt in found.items() if prompt.mask_hw is not None}


@pytest.mark.parametrize("word", ["m.tif#{}", "a.png:m.tif#{}"])
def test_a_page_is_named_as_the_message_says(images: ImageFolder, word: str) -> None:
    assert drawn(images, word.format(0)) == {1: DISC.sum()}
    assert drawn(images, word.format(1)) == {1: (~DISC).sum()}
    with pytest.raises(AmbiguousError, match=r"m\.tif: it holds 2 pages.*--mask m\.tif#0") as caught:
        drawn(images, "m.tif")
    assert "--frame" not in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_file_whose_name_looks_like_a_page_is_a_file(images: ImageFolder) -> None:
    Image.fromarray(DISC.astype(np.uint8) * 3).save("m.tif#1", format="PNG")
    assert drawn(images, "m.tif#1") == {3: DISC.sum()}


def test_soft_edges_are_answered_by_what_the_message_names(images: ImageFolder) -> None:
    with pytest.raises(AmbiguousError, match=r"soft\.png: .*--threshold 128 .*--each-label"):
        drawn(images, "soft.png")
    assert abs(drawn(images, "soft.png", threshold=128)[1] - DISC.sum()) < 20
    assert len(drawn(images, "soft.png", each_label=True)) > 9


@pytest.mark.parametrize(
    "said",
    [{"threshold": 3.0}, {"each_label": True}, {"mask": ("m",), "threshold": np.nan}]
    + [{"mask": ("m",), "each_label": True, **other} for other in ({"threshold": 1.0}, {"object": 1})],
)
def test_what_has_no_effect_is_refused(images: ImageFolder, said: dict[str, object]) -> None:
    click = {"point": ("1 1",)} if "mask" not in said else {}
    with pytest.raises(ConfigError, match=r"--threshold|--each-label"):
        set_prompts(SetPromptOptions(template=("a.png",), **click, **said), images)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"--threshold|--each-label"):
        volume_prompts(PromptOptions(**{"point": ("1 1 1",), **said}), IMAGE)  # type: ignore[arg-type]


def test_segments_bring_their_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.seg.nrrd", [LIVER, LESION], BOTH)
    named = volume_prompts(PromptOptions(mask=(path,)), IMAGE)
    assert (named.labels, named.names) == ((1, 2), {1: "liver", 2: "lesion"})
    assert volume_prompts(PromptOptions(mask=(path,), name=("2:spot",)), IMAGE).names == {1: "liver", 2: "spot"}


def test_a_time_point_of_a_mask(tmp_path: Path) -> None:
    import nibabel as nib

    pair = np.stack([LIVER, LESION], axis=3).astype(np.uint8)
    nib.save(nib.Nifti1Image(pair, IMAGE.affine), tmp_path / "m.nii.gz")
    (prompt,) = volume_prompts(PromptOptions(mask=(tmp_path / "m.nii.gz#1",)), IMAGE).prompts
    assert prompt.array_ijk.sum() == LESION.sum()  # type: ignore[attr-defined]
    with pytest.raises(AmbiguousError, match=r"--mask .*m\.nii\.gz#0"):
        volume_prompts(PromptOptions(mask=(tmp_path / "m.nii.gz",)), IMAGE)


def test_probabilities_and_large_labels_of_volumes(tmp_path: Path) -> None:
    soft = np.where(LIVER, 0.8, 0.1).astype(np.float32)
    io.save(soft, tmp_path / "p.nii.gz", IMAGE)
    with pytest.raises(AmbiguousError, match=r"p\.nii\.gz: .*--threshold 0\.5 "):
        volume_prompts(PromptOptions(mask=(tmp_path / "p.nii.gz",)), IMAGE)
    (prompt,) = volume_prompts(PromptOptions(mask=(tmp_path / "p.nii.gz",), threshold=0.5), IMAGE).prompts
    assert prompt.array_ijk.sum() == LIVER.sum()  # type: ignore[attr-defined]
    io.save(LIVER * np.uint32(614_454_277), tmp_path / "m.nii.gz", IMAGE)
    with pytest.raises(PromptError, match="614454277 is too large"):
        volume_prompts(PromptOptions(mask=(tmp_path / "m.nii.gz",)), IMAGE)


@pytest.mark.parametrize(("entry", "size"), [({}, 0), ({"threshold": 128}, LIVER.sum()), ({"label": 255}, LIVER.sum())])
def test_a_file_of_prompts_answers_too(tmp_path: Path, entry: dict[str, int], size: int) -> None:
    import json

    soft = np.array(LIVER, np.uint8) * 255
    soft[2:10, 3, 2:6], soft[2:10, 11, 2:6] = np.arange(8)[:, None] * 13 + 7, np.arange(8)[:, None] * 11 + 9
    io.save(soft, tmp_path / "m.nii.gz", Volume(soft, IMAGE.affine))
    told = {"version": 1, "objects": [{"label": 4, "masks": [{"file": "m.nii.gz", **entry}]}]}
    (tmp_path / "p.json").write_text(json.dumps(told))
    said = PromptOptions(prompts=tmp_path / "p.json")
    if not entry:
        with pytest.raises(AmbiguousError, match='"threshold": NUMBER'):
            volume_prompts(said, IMAGE)
        return
    (prompt,) = volume_prompts(said, IMAGE).prompts
    assert (prompt.object, prompt.array_ijk.sum()) == (4, size)  # type: ignore[attr-defined]


def test_what_is_odd_about_contours_is_told_once(workspace: Workspace) -> None:
    """However they are read: as a mask, as what is corrected, and of each case of many."""
    array = np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16)
    Series(AFFINE, array).write(workspace.folder / "series")
    labels = np.zeros(SHAPE, np.uint8)
    labels[8:12, 8:12, 2:4], labels[4:6, 4:6, 2:4] = 1, 2
    io.save(labels, "o.rtstruct.dcm", io.load("series"))
    dataset = dcmread("o.rtstruct.dcm")
    for item, outline in zip(dataset.StructureSetROISequence, dataset.ROIContourSequence, strict=True):
        item.ROINumber += 70_000
        outline.ReferencedROINumber = item.ROINumber
    dataset.save_as("o.rtstruct.dcm")
    told = "its ROIs have numbers up to 70002, over 65535; here they are numbered from 1, in their order"
    for words in (("--mask", "o.rtstruct.dcm"), ("--correct", "o.rtstruct.dcm", "--point", "1:9", "9", "3")):
        code, _, err = workspace.run(*words, image="series", output=f"{len(words)}.nii.gz")
        assert code == 0, err
        assert err.splitlines().count(f"warning: {told}") == 1
    assert MaskFile(Path("o.rtstruct.dcm")).read(io.load("series")).notes == (told,)


def test_a_mask_drawn_on_an_image_as_viewers_turn_it_is_refused_with_the_reason(set_workspace: SetWorkspace) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open("set/a.png")
    image.save("set/a.png", exif=exif)
    Image.fromarray(np.full(image.size, 255, np.uint8)).save("seen.png")  # rows and columns as a viewer shows them
    said = set_workspace.refused("--template", "a.png", "--mask", "seen.png")
    assert "viewers turn that image (EXIF orientation 6), and its pixels are taken as they are stored" in said

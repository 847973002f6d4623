"""What `medsam2 segment` refuses: one clear line, the documented exit code, and nothing left behind."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from medical_sam2 import io
from medical_sam2.cli import main
from medical_sam2.io import safe_open
from medical_sam2.segmenter import Segmenter
from tests.cli.conftest import AFFINE, CLICK, SHAPE, Workspace
from tests.io.making import Series, phantom
from tests.io.test_dicom import AXIAL

NOISE = np.random.default_rng(0)
ONE_SLICE = (slice(8, 18), slice(6, 16), slice(3, 4))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "there is no prompt; give --point I J K"),
        ("--point 14 12 9", "point at voxel (14, 12, 9) lies outside the image of 20×18×6 voxels; give voxel indices from 0"),
        ("--point 14 12 6", "these look counted from 1, take 1 off each"),
        ("--point 20 15 -40", "these look like millimetres: say so (--mm"),
        ("--mm --point 14 12 3", "these look like voxel indices"),
        ("--mm --point 900 12 3", "give RAS+ millimetres"),
        ("--point 14 12 nan", "--point: 14 12 nan is not finite"),
        ("--point 14 12 x", "--point needs three numbers, not '14 12 x'; give --point I J K"),
        ("--point 14 12", "--point needs three numbers, not '14 12'; give --point I J K"),
        ("--point 14,12", "--point needs three numbers, not '14,12'"),
        ("--point 14 12 3 4", "--point needs three numbers, not '14 12 3 4'"),
        ("--point 14,12,3,4", "--point needs three numbers, not '14,12,3,4'"),
        ("--point 2:14 12 --quiet", "--point needs three numbers, not '2:14 12'"),
        ("--point", "--point needs three numbers; give --point I J K"),
        ("--point= --quiet", "--point needs three numbers; give --point I J K"),
        ("--point 14 12 3 --negative 4", "--negative needs three numbers, not '4'"),
        ("--box 4,4,3,12,12", "--box needs six numbers, not '4,4,3,12,12'; give --box I J K I2 J2 K2"),
        ("--mm --point 20,5 -14 33", "--point needs three numbers, not '20,5 -14 33'"),
        ("--point liver:14 12 3", "--point: 'liver' is no label of an object; write 2:I J K for object 2"),
        ("--point 0:14 12 3", "object 0 is no label"),
        ("--point 14 12 3 --object 0", "object 0 is no label"),
        ("--negative 14 12 3", "object 1 has negative clicks only"),
        ("--box 4 4 3 12 4 3", "is neither a rectangle on one slice nor a box in 3D"),
        ("--box 4 4 3 40 12 3", "lies outside the image"),
        ("--point 14 12 3 --name 2:x", "a name is given to object 2, which has no prompt"),
        ("--point 14 12 3 --name 2:", "--name: '2:' is no name"),
        ("--point 14 12 3 --views axal", "unknown views 'axal'; did you mean 'axial'?"),
        ("--point 14 12 3 --bank fifi", "unknown bank 'fifi'; did you mean 'fifo'?"),
        ("--point 14 12 3 --fusion man", "unknown fusion 'man'; did you mean 'mean'?"),
        ("--point 14 12 3 --window lng", "unknown window 'lng'"),
        ("--point 14 12 3 --window 5,5", "window '5,5' is empty"),
        ("--point 14 12 3 --device gpu", "unknown device 'gpu'"),
        ("--point 14 12 3 --precision half", "unknown precision 'half'"),
        ("--point 14 12 3 --threads 0", "0 threads cannot work"),
        ("--point 14 12 3 --image-size 65", "no network takes images of 65 pixels"),
        ("--point 14 12 3 --weights absent.safetensors", "absent.safetensors: does not exist"),
        ("--point 14 12 3 --weights nan0", "nan0: there are no weights of this name"),
        ("--box 4 4 3 12 12 3 --views coronal", "no prompt of object 1 lies in the coronal plane"),
        ("--mask absent.nii.gz", "absent.nii.gz: "),
        ("--prompts absent.json", "absent.json: "),
        ("--correct absent.nii.gz --point 14 12 3", "absent.nii.gz: "),
        ("--correct ct.nii.gz --point 14 12 3 --probability p.nii.gz", "a correction makes no probability"),
        (
            "--correct ct.nii.gz --point 14 12 3 --views three",
            "--views changes nothing: a correction is tracked slice by slice",
        ),
        ("--correct ct.nii.gz --point 14 12 3 --fusion vote", "--fusion changes nothing: a correction"),
        ("--correct ct.nii.gz --point 14 12 3 --every-slice", "--every-slice changes nothing: a correction"),
        ("--point 14 12 3 --every-slice --whole-slices", "--every-slice changes nothing: with --whole-slices"),
        ("--correct ct.nii.gz --point 14 12 3 --islands", "--islands changes nothing: a correction"),
        ("--point 14 12 3 --adapt -1", "nobody can tune for -1 seconds"),
        ("--point 14 12 3 --adapt 1e9", "nobody can tune for 1e+09 seconds; give --adapt 0 to 3600 (20 is usual)"),
        ("--point 14 12 3 --adapt nan", "nobody can tune for nan seconds"),
        ("--point 14 12 3 --template a.png", "Unknown option: --template; see medsam2 segment --help"),
        ("--point 14 12 3 --viws one", "Unknown option: --viws. Did you mean --views?; see medsam2 segment --help"),
    ],
)
def test_prompts_and_settings(workspace: Workspace, words: str, line: str) -> None:
    assert line in workspace.refused(*words.split())


@pytest.mark.parametrize(
    ("words", "output", "line"),
    [
        ("", "out.png", "out.png: nothing is written as .png"),
        ("", "out", "out: nothing is written as a file without a suffix"),
        ("", ".nii.gz", ".nii.gz: nothing is written as"),
        ("", "no/out.nii.gz", "no/out.nii.gz: its folder does not exist"),
        ("", "dir.nii", "dir.nii: is a folder"),
        ("", "old.nii.gz", "old.nii.gz: exists already; choose another name, or replace it with --overwrite"),
        ("--overwrite", "ct.nii.gz", "ct.nii.gz: --output would replace an input"),
        ("--overwrite", "../{here}/ct.nii.gz", "--output would replace an input"),
        ("--probability out.nii.gz", "out.nii.gz", "--probability and --output are the same file"),
        ("--probability p.dcm", "out.nii.gz", "p.dcm: nothing is written as .dcm; end its name in one of .mha, .nii, .nii.gz"),
        ("--preview v.nii.gz", "out.nii.gz", "v.nii.gz: nothing is written as .nii.gz; end its name in one of .gif, .jpeg"),
        ("--report r.png", "out.nii.gz", "r.png: nothing is written as .png; end its name in one of .json"),
        ("--preview v.pn", "out.nii.gz", "v.pn: nothing is written as .pn; did you mean '.png'?"),
        ("--statistics s.txt", "out.nii.gz", "s.txt: nothing is written as .txt"),
        ("--confidence c.json", "out.nii.gz", "c.json: nothing is written as .json"),
        ("--report old.json", "out.nii.gz", "old.json: exists already"),
        ("", "out.dcm", "out.dcm: a DICOM-SEG refers to DICOM images, and this volume was not read from DICOM files"),
    ],
)
def test_outputs(workspace: Workspace, words: str, output: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Segmenter, "segment_volume")
    workspace.put("old.nii.gz", np.zeros(SHAPE, np.uint8))
    (workspace.folder / "old.json").write_text("{}")
    (workspace.folder / "dir.nii").mkdir()
    assert line in workspace.refused(*CLICK, *words.split(), output=output.format(here=workspace.folder.name))


@pytest.mark.parametrize(
    ("words", "image", "missing"),
    [
        ("--point 14 12 3", "absent.nii.gz", "absent.nii.gz"),
        ("--mask absent.nii.gz", "ct.nii.gz", "absent.nii.gz"),
        ("--prompts absent.json", "ct.nii.gz", "absent.json"),
        ("--point 14 12 3 --correct absent.nii.gz", "ct.nii.gz", "absent.nii.gz"),
    ],
)
def test_what_is_read_is_looked_at_before_what_is_written(workspace: Workspace, words: str, image: str, missing: str) -> None:
    workspace.put("old.nii.gz", np.zeros(SHAPE, np.uint8))
    assert workspace.refused(*words.split(), image=image, output="old.nii.gz") == f"{missing}: does not exist; check the path"


def test_folders_of_other_images(workspace: Workspace) -> None:
    for folder, make, name in (("many", film, "b.nii.gz"), ("many", picture, "a.png"), ("cells", picture, "a.png")):
        (workspace.folder / folder).mkdir(exist_ok=True)
        make(workspace.folder / folder / name)
    assert workspace.refused(*CLICK, image="many").endswith(
        "; outline all with `medsam2 segment-volumes many`, or one, such as many/b.nii.gz"
    )
    assert workspace.refused(*CLICK, image="cells").endswith("; outline pictures with `medsam2 segment-images cells`")
    picture(workspace.folder / "x.png")
    assert workspace.refused(*CLICK, image="x.png").endswith("; outline it with `medsam2 segment-images`")


@pytest.mark.parametrize("words", ["", "--dry-run", "--window soft"])
def test_an_image_of_one_value(workspace: Workspace, words: str) -> None:
    """A network outlines something round at a click even there."""
    workspace.put("blank.nii.gz", np.full(SHAPE, 7, np.int16))
    line = workspace.refused(*CLICK, *words.split(), image="blank.nii.gz")
    assert line.startswith("blank.nii.gz: all voxels have the same value: there is nothing to outline; check")
    assert main(["suggest", "blank.nii.gz", *CLICK, "--weights", str(workspace.weights)]) == 2


def test_dicom_segmentation_of_a_series_without_its_study(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Segmenter, "segment_volume")
    Series(AFFINE, np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)).write(
        workspace.folder / "series", StudyInstanceUID=None
    )
    line = workspace.refused(*CLICK, image="series", output="out.dcm")
    assert "it lacks StudyInstanceUID, to which a DICOM-SEG refers; save to .nii.gz" in line


def test_probability_of_several_objects_replaces_nothing(workspace: Workspace) -> None:
    workspace.put("p-2.nii.gz", np.zeros(SHAPE, np.uint8))
    assert workspace.refused(*CLICK, "--point", "2:5", "5", "3", "--probability", "p.nii.gz").startswith("p-2.nii.gz: exists")


def test_folder_that_cannot_be_written(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    assert workspace.refused(*CLICK) == "out.nii.gz: its folder is not writable; choose another folder"


def test_mask_in_another_grid(workspace: Workspace) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 2
    workspace.put("m.nii.gz", np.ones(SHAPE, np.uint8), moved)
    assert "m.nii.gz: the labels lie up to 2 mm away" in workspace.refused("--mask", "m.nii.gz")
    workspace.put("m.nii.gz", np.ones((20, 18, 5), np.uint8))
    assert "m.nii.gz: the labels have shape (20, 18, 5)" in workspace.refused("--mask", "m.nii.gz")
    assert "m.nii.gz: the labels have shape (20, 18, 5)" in workspace.refused("--correct", "m.nii.gz", *CLICK)


def test_mask_without_a_voxel(workspace: Workspace) -> None:
    workspace.mask("m.nii.gz", [])
    assert workspace.refused("--mask", "m.nii.gz") == "m.nii.gz: the mask is empty; outline something in it"


def test_an_earlier_result_of_several_time_points(workspace: Workspace) -> None:
    """What is advised must work, as it does for --mask: --frame is of the image."""
    array = np.zeros((*SHAPE, 2), np.uint8)
    array[2:6, 2:6, :, 1] = 1
    nib.save(nib.Nifti1Image(array, AFFINE), "was.nii.gz")
    said = workspace.refused("--correct", "was.nii.gz", *CLICK, code=4)
    assert said.startswith("was.nii.gz: the image has 2 time points (frames); ")
    assert "--correct was.nii.gz#0" in said
    assert "was.nii.gz: there is no frame 2 among 2" in workspace.refused("--correct", "was.nii.gz#2", *CLICK)
    whole, second = workspace.files()["was.nii.gz"], ("--correct", "was.nii.gz#1", *CLICK)
    assert "would replace an input" in workspace.refused(*second, "--overwrite", output="was.nii.gz")
    workspace.done(*second)
    assert (workspace.labels()[2:6, 2:6] == 1).all()
    assert workspace.files()["was.nii.gz"] == whole


def test_correction_that_is_ambiguous(workspace: Workspace) -> None:
    workspace.mask("old.nii.gz", [ONE_SLICE, (slice(2, 6), slice(2, 6), slice(0, 6))])
    workspace.mask("one.nii.gz", [ONE_SLICE])
    for words, which in (
        (CLICK, "--point 14 12 3"),
        (("--point", "1:14", "12", "3", "--slices", "2", "4"), "--slices 2 4"),
        (("--negative-scribble", "3", "3", "3", "9", "9", "3"), "--negative-scribble 3 3 3 9 9 3"),
        (("--point", "1:14", "12", "3", "--name", "liver"), "--name liver"),
        (("--mask", "one.nii.gz"), "--mask one.nii.gz"),
        (("--mask", "one.nii.gz", "--threshold", "0.5"), "--mask one.nii.gz"),
    ):
        line = workspace.refused("--correct", "old.nii.gz", *words, code=4)
        problem = f"holds 2 objects, and {which} names none of them"
        assert line == f"old.nii.gz: {problem}; say which is meant: --object 1, --object 2"


def test_a_mask_in_one_number_corrects_the_object_that_is_meant(workspace: Workspace) -> None:
    """That of --object, or the only one, as a click does; each number counts where it is asked for, or there are several."""
    workspace.mask("one.nii.gz", [ONE_SLICE])
    elsewhere, both = (slice(2, 6), slice(2, 6), slice(0, 6)), (slice(8, 10), slice(16, 18), slice(3, 4))
    workspace.mask("old.nii.gz", [elsewhere, both])
    workspace.put("second.nii.gz", (workspace.labels("old.nii.gz") == 2) * np.uint8(2))
    drawn = workspace.labels("one.nii.gz") == 1
    for file, words, label in (
        ("old.nii.gz", ("--object", "2"), 2),
        ("old.nii.gz", ("--each-label",), 1),
        ("second.nii.gz", (), 2),
    ):
        workspace.done("--correct", file, "--mask", "one.nii.gz", *words, "--overwrite")
        assert (workspace.labels()[drawn] == label).all()
        assert set(np.unique(workspace.labels())) <= {0, *np.unique(workspace.labels(file))}


def test_correction_without_a_prompt(workspace: Workspace) -> None:
    workspace.mask("earlier.nii.gz", [np.s_[2:6, 2:6, 1:5]])
    line = workspace.refused("--slices", "1", "3", "--correct", "earlier.nii.gz")
    assert line.startswith("there is no prompt: slices only say where an object may be corrected; give --point")


def test_correction_that_touches_nothing(workspace: Workspace) -> None:
    workspace.mask("old.nii.gz", [ONE_SLICE])
    line = workspace.refused("--correct", "old.nii.gz", "--negative", "5", "5", "0")
    assert line.startswith("object 1 has negative clicks only on a slice where it is not")


def vectors(path: Path) -> None:
    """Two numbers for each voxel."""
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(NOISE.normal(size=(4, 5, 6, 2)), isVector=True), str(path))


def picture(path: Path) -> None:
    """No volume."""
    Image.fromarray(NOISE.integers(0, 255, (20, 20), np.uint8)).save(path)


def film(path: Path) -> None:
    """Four dimensions."""
    nib.save(nib.Nifti1Image(NOISE.normal(size=(8, 8, 4, 3)).astype(np.float32), np.eye(4)), path)


@pytest.mark.parametrize(
    ("make", "name", "code"),
    [(vectors, "x.nrrd", 2), (vectors, "x.mha", 2), (picture, "x.png", 2), (film, "x.nii.gz", 4)],
)
def test_images_that_are_no_volume(workspace: Workspace, make: Callable[[Path], None], name: str, code: int) -> None:
    make(workspace.folder / name)
    assert workspace.refused(*CLICK, image=name, code=code).startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"version": 2, "objects": []}, "said.json: it was written by a newer program"),
        ({"objets": []}, "said.json: the file has the unknown key 'objets'; did you mean 'objects'?"),
        ({"objects": [{"label": 1, "points": [[14, 12, 30]]}]}, "said.json: point at voxel (14, 12, 30) lies outside"),
    ],
)
def test_files_of_prompts(workspace: Workspace, content: dict[str, object], line: str) -> None:
    (workspace.folder / "said.json").write_text(json.dumps(content))
    assert workspace.refused("--prompts", "said.json").startswith(line)


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_series_that_an_rtstruct_cannot_refer_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    monkeypatch.delattr(Segmenter, "segment_volume")
    Series(AXIAL, phantom()).write(tmp_path / "series", StudyInstanceUID="")
    words = ["segment", str(tmp_path / "series"), "--point", "1", "1", "1", "-o", str(tmp_path / "o.rtstruct.dcm"), *more]
    assert main(words) == 2
    assert "IM0000.dcm: it lacks StudyInstanceUID, to which an RTSTRUCT refers" in capsys.readouterr().err


@pytest.mark.parametrize("left", [0, 700])
def test_an_image_that_changes_after_it_was_looked_at(workspace: Workspace, left: int) -> None:
    """Nothing is kept from the dry run that a file which is gone, or cut, would be taken for."""
    whole = workspace.folder / "ct.nii.gz"
    assert workspace.run(*CLICK, "--dry-run")[0] == 0
    content = whole.read_bytes()
    whole.unlink()
    if left:
        whole.write_bytes(content[: len(content) - left])
    said = "ct.nii.gz: the compressed data are truncated" if left else "ct.nii.gz: does not exist; "
    assert workspace.refused(*CLICK).startswith(said)


def test_too_little_memory(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_open, "free_memory", lambda: 2_000_000)
    monkeypatch.delattr(Segmenter, "segment_volume")
    assert "MB are free; free memory, lift the limit (ulimit -v) or crop the image" in workspace.refused(*CLICK, code=3)


@pytest.mark.parametrize("place", ["encode", "save"])
def test_interrupt_leaves_nothing(workspace: Workspace, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Segmenter if place == "encode" else io, place, interrupt)
    words = [*CLICK, "--preview", "v.png", "--report", "r.json", "--statistics", "s.csv"]
    assert workspace.refused(*words, "--views", "one", code=130) == "interrupted"


def test_interrupt_keeps_what_was_there(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.put("out.nii.gz", np.ones(SHAPE, np.uint8))
    monkeypatch.setattr(Segmenter, "segment_volume", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert workspace.refused(*CLICK, "--overwrite", code=130) == "interrupted"

"""`medsam2 segment-images` and `medsam2 suggest`: folders of all kinds of images, and what is refused."""

import csv
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medical_sam2 import preview
from medical_sam2.cli import main, report
from medical_sam2.cli.segment_images import _SetRun  # pyright: ignore[reportPrivateUsage]
from medical_sam2.errors import ResourceError
from medical_sam2.intensity_window import Window
from medical_sam2.io import atomic
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.image_set import ImageMask
from medical_sam2.volume import Segmentation, SliceConfidence
from tests.cli.conftest import A_MASK, LOADED, SetWorkspace, read_once


def opened(path: Path | str) -> NDArray[Any]:
    with Image.open(path) as image:
        return np.array(image)


def mask(name: str) -> NDArray[Any]:
    return opened(Path("out") / name)


def test_a_mixture_of_formats(set_workspace: SetWorkspace) -> None:
    """Each gets a label map of its own size; a broken one is named at the end, a blank one is empty."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 60_000, (30, 44)).astype(np.uint16)
    Image.fromarray(grey).save("set/d.tif")
    pages = [Image.fromarray(rng.integers(0, 255, (20, 26, 3)).astype(np.uint8)) for _ in range(2)]
    pages[0].save("set/pages.tif", save_all=True, append_images=pages[1:])
    nib.save(nib.Nifti1Image(rng.normal(size=(25, 18)), np.diag([0.5, 2.0, 1, 1])), "set/e.nii.gz")  # type: ignore[attr-defined]
    Image.fromarray(np.zeros((12, 14), np.uint8)).save("set/black.png")
    Path("set/broken.png").write_bytes(Path("set/b.png").read_bytes()[:200])
    Path("set/notes.txt").write_text("no image")
    code, out, err = set_workspace.run(
        *A_MASK, "--statistics", "s.csv", "--report", "run.json", "--preview", "sheet.png", "--json"
    )
    report = json.loads(out)
    assert code == 2, err
    assert err.splitlines()[-2].startswith("failed: broken.png: the image is truncated")
    assert "1 of 9 images could not be used" in err.splitlines()[-1]
    assert "black.png: all its pixels have the same value" in err
    sizes = {path.name: opened(path).shape[::-1] for path in Path("out").iterdir()}
    expected = {"a.png": (50, 40), "b.png": (64, 64), "c.png": (90, 33), "d.png": (44, 30), "e.png": (25, 18)}
    assert sizes == expected | {"black.png": (14, 12), "pages_0000.png": (26, 20), "pages_0001.png": (26, 20)}
    assert (mask("a.png") == set_workspace.truth).all()
    assert report["failed"][0]["image"] == "broken.png"
    assert json.loads(Path("run.json").read_text()) == report
    rows = {row["image"]: row for row in csv.DictReader(Path("s.csv").read_text().splitlines())}
    assert int(rows["a.png"]["area_px"]) == set_workspace.truth.sum()
    assert rows["e.nii.gz"]["area_mm2"] == f"{float(rows['e.nii.gz']['area_px']):.1f}"
    assert opened("sheet.png").shape[1] > 1000


def test_slices_of_a_ct_are_seen_as_those_of_a_volume(set_workspace: SetWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by itself: through the window of what is prompted, not through its own percentiles."""
    monkeypatch.setattr(LOADED, read_once)
    for path in Path("set").iterdir():
        path.unlink()
    for number in range(2):
        array = np.full((40, 30), -1000.0) + np.random.default_rng(number).normal(0, 9, (40, 30))
        array[6:34, 4:26] += 1040
        array[10:16, 8:12] = 1500
        nib.save(nib.Nifti1Image(array, np.eye(4)), f"set/{number}.nii.gz")  # type: ignore[attr-defined]
    box = ("--template", "0.nii.gz", "--box", "20", "10", "32", "24", "--overwrite")
    sure = {
        how: set_workspace.done(*box, f"--window={how}")["images"][1]["confidence"] for how in ("auto", "soft", "percentile")
    }
    assert sure["auto"] == sure["soft"] != sure["percentile"]


@pytest.mark.parametrize("window", ["0,100", "soft"])
def test_a_window_leaves_images_in_colour_alone(set_workspace: SetWorkspace, window: str) -> None:
    """It is refused where all are in colour; where some are, they are counted once, and the report says how they were seen."""
    for name in ("b.png", "c.jpg"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 44, 3)).astype(np.uint8)).save(Path("set") / name)
    grey = opened("set/a.png")
    code, out, err = set_workspace.run(*A_MASK, "--window", window, "--json")
    assert code == 0, err
    told = f"--window {window} left 2 of 3 images as they are: they are in colour"
    assert err.count("they are in colour") == err.count(f"warning: {told}\n") == 1
    report = json.loads(out)
    assert report["warnings"][0] == told
    seen = {row["image"]: row["window"]["source"] for row in report["images"]}
    assert ["percentiles" in seen[name] for name in ("a.png", "b.png", "c.jpg")] == [False, True, True]
    assert not any("--window" in line for line in set_workspace.done(*A_MASK, "--overwrite")["warnings"])
    Image.fromarray(np.stack([grey, grey[::-1], grey], axis=2)).save("set/a.png")
    Path("set/d.png").write_bytes(b"broken")
    for words in ((), ("--dry-run",)):
        told = set_workspace.refused(*A_MASK, "--window", window, *words, output="more")
        assert told.endswith("--window changes nothing: it is of grey values, and all images are in colour; leave it out")
    assert set_workspace.done(*A_MASK, "--window", "percentile", "--dry-run", output="more")["count"] == 4


def test_several_templates_objects_and_labels_beyond_a_byte(set_workspace: SetWorkspace) -> None:
    Image.fromarray(np.where(set_workspace.truth, 700, 0).astype(np.uint16)).save("wide.png")
    report = set_workspace.done(
        "--template", "a.png", "--template", "b.png", "--mask", "a.png:wide.png", "--point", "b.png:9:30", "30",
        "--negative", "b.png:9:2", "2", "--name", "700:cell", "--name", "9:dot",
    )  # fmt: skip
    assert {name for row in report["images"] for name in row["confidence"]} == {"9", "700"}
    assert sorted(said["name"] for said in report["prompts"]) == ["cell", "dot"]
    assert mask("a.png").dtype.itemsize > 1
    assert (mask("a.png") == 700).sum() == set_workspace.truth.sum()


@pytest.mark.parametrize(("image", "file"), [("a:1.png", "m.png"), ("a.png", "m:1.png"), ("a:1.png", "m:2.png")])
def test_names_with_colons(set_workspace: SetWorkspace, image: str, file: str) -> None:
    Path("set/a.png").rename(Path("set") / image)
    Path("a_mask.png").rename(file)
    for words in (("--mask", f"{image}:{file}"), ("--template", image, "--mask", file)):
        assert [said["image"] for said in set_workspace.done(*words, "--dry-run")["prompts"]] == [image]
    said = set_workspace.refused("--mask", f"{image}:none.png")
    assert "none.png: there is no such file" in said
    assert "there is no such image" in set_workspace.refused("--mask", f"z.png:{file}")


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text")
def test_names_that_are_no_text(set_workspace: SetWorkspace) -> None:
    """Files of old archives are called in Latin-1: nothing is lost for that, and what is written is UTF-8 and JSON."""
    name = os.fsdecode(b"b\xe4r.png")
    Path("set/b.png").rename(Path("set") / name)
    code, _, err = set_workspace.run(*A_MASK, *ALL_ANNOTATIONS, "--report", "r.json", "--statistics", "s.csv")
    assert code == 0, err
    assert name in {row["image"] for row in json.loads(Path("r.json").read_text())["images"]}
    assert name in {row["file_name"] for row in json.loads(Path("out/annotations.coco.json").read_text())["images"]}
    assert "b%E4r.png" in Path("out/annotations.labelstudio.json").read_text()
    assert r"b\udce4r.png" in Path("s.csv").read_text()
    assert main(["suggest", "r.json"]) == 0


def test_corrections_skipping_and_replacing(set_workspace: SetWorkspace) -> None:
    first = set_workspace.done(*A_MASK, "--features", "kept")
    assert len(list(Path("kept").iterdir())) == 3
    assert "3 of 3 label maps exist already, a.png among them" in set_workspace.refused(*A_MASK)
    Path("out/b.png").unlink()
    again = set_workspace.done(*A_MASK, "--skip-existing")
    assert [row["image"] for row in again["images"]] == ["b.png"]
    assert again["skipped"] == 2
    words = ("--template", "a.png", "--mask", "a.png:a_mask.png", "--point", "b.png:20", "20", "--features", "kept")
    mended = set_workspace.done(*words, "--overwrite")
    assert [row["image"] for row in first["images"] if row["prompted"]] == ["a.png"]
    assert [row["image"] for row in mended["images"] if row["prompted"]] == ["a.png", "b.png"]
    assert len(list(Path("kept").iterdir())) == 3


def test_dry_run_writes_nothing(set_workspace: SetWorkspace) -> None:
    code, out, err = set_workspace.run(*A_MASK, "--dry-run", "--report", "run.json")
    assert (code, err) == (0, "")
    assert "would write 3 label maps to out" in out
    assert not Path("out").exists()


def test_suggestions(set_workspace: SetWorkspace) -> None:
    report = set_workspace.done(*A_MASK, "--report", "run.json")
    rows = [row for row in report["images"] if not row["prompted"]]
    worst = max(rows, key=lambda row: (1 - row["confidence"]["1"]) * (1 - row["likeness"]))
    assert main(["suggest", "run.json", "--json"]) == 0
    assert json.loads(set_workspace.shown()[0])["suggestions"][0]["image"] == worst["image"]
    Path("other.json").write_text("{}")
    assert main(["suggest", "other.json"]) == 2
    assert "no report of a set" in set_workspace.shown()[1]


@pytest.mark.parametrize("in_colour", [True, False])
def test_what_deserves_a_look_is_suggested_first(set_workspace: SetWorkspace, in_colour: bool) -> None:
    """With the reason, whatever the others need; also of an image in colour, or a grey one, that the network is sure of."""
    for name in ("b.png",) if in_colour else ("a.png", "c.jpg"):
        grey = np.array(Image.open(Path("set") / name).convert("L"))
        Image.fromarray(np.stack([grey, grey // 2, grey], axis=2)).save(Path("set") / name)
    facts = set_workspace.done(*A_MASK, "--report", "run.json")
    assert facts["deserve_a_look"] == ["b.png"]
    for row in facts["images"]:
        row["confidence"]["1"] = 0.99 if row["image"] == "b.png" else 0.1
    Path("run.json").write_text(json.dumps(facts))
    assert main(["suggest", "run.json", "--count", "2"]) == 0
    first, second = set_workspace.shown()[0].splitlines()
    assert first.startswith("b.png confidence 0.99")
    reasons = {True: "; in colour where what is prompted is grey", False: "; grey where what is prompted is in colour"}
    assert first.endswith(reasons[in_colour])
    assert second.startswith("c.jpg confidence 0.10")
    assert second[-3:].replace(".", "").isdigit()


def test_slices_that_a_report_marks_are_suggested_first(set_workspace: SetWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).normal(size=(20, 18, 6))
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1, 3, 1])), "v.nii.gz")  # type: ignore[attr-defined]
    rows = [SliceConfidence(1, "SPL", k, 0.2 if k == 1 else 0.9, 50, prompted=k == 2, look_here=k == 4) for k in range(6)]
    found = Segmentation(np.zeros(array.shape, np.uint8), np.eye(4), confidence=tuple(rows), windows={1: Window(0, 1)})
    monkeypatch.setattr(Segmenter, "segment_volume", lambda *_, **__: found)
    words = ("--point", "9,9,2", "--weights", str(set_workspace.weights), "--count", "2", "--json")
    assert main(["suggest", "v.nii.gz", *words]) == 0
    first, second = json.loads(set_workspace.shown()[0])["suggestions"]
    assert (first["slice"], first["reason"]) == (4, "far less sure than usual, or it may have leaked there")
    assert (second["slice"] in {0, 1, 3, 5}, second["reason"]) == (True, None)


@pytest.mark.parametrize(
    "option",
    ["--views three", "--fusion vote", "--islands", "--adapt 5", "--correct v.nii.gz", "--name liver"],
)
def test_suggestions_take_no_option_that_changes_nothing(set_workspace: SetWorkspace, option: str) -> None:
    assert main(["suggest", "v.nii.gz", *option.split()]) == 2
    assert f"Unknown option: {option.split(maxsplit=1)[0]}" in set_workspace.shown()[1]


@pytest.mark.parametrize("option", ["--point 1 2 3", "--bank fifo", "--whole-slices", "--frame 1"])
def test_a_report_is_asked_without_settings(set_workspace: SetWorkspace, option: str) -> None:
    Path("run.json").write_text("{}")
    assert main(["suggest", "run.json", *option.split()]) == 2
    assert set_workspace.shown()[1] == f"run.json: {option.split(maxsplit=1)[0]} changes nothing of a report; leave it out\n"


def test_suggestions_hear_the_settings_of_tracking(set_workspace: SetWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(20, 18, 5)), np.eye(4)), "v.nii.gz")  # type: ignore[attr-defined]
    heard: dict[str, Any] = {}
    asked = Segmenter.segment_volume
    monkeypatch.setattr(Segmenter, "segment_volume", lambda *a, **k: heard.update(k) or asked(*a, **k))
    words = (
        "--point",
        "9,9,2",
        "--weights",
        str(set_workspace.weights),
        "--bank",
        "fifo",
        "--whole-slices",
        "--window",
        "-2,2",
    )
    assert main(["suggest", "v.nii.gz", *words, "--features", "kept"]) == 0
    assert heard == {"bank": "fifo", "zoom": False, "window": "-2,2", "features": Path("kept")}


def test_coordinates_with_commas(set_workspace: SetWorkspace) -> None:
    report = set_workspace.done("--template", "a.png", "--point", "2:20,30", "--box", "3:5,6,", "30", "20", "--dry-run")
    assert report == set_workspace.done(
        "--template", "a.png", "--point", "2:20", "30", "--box", "3:5", "6", "30", "20", "--dry-run"
    )


def test_suggestion_of_a_slice(set_workspace: SetWorkspace) -> None:
    array = np.random.default_rng(0).normal(size=(20, 18, 5))
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1, 3, 1])), "v.nii.gz")  # type: ignore[attr-defined]
    words = (
        "--box",
        "4",
        "4",
        "2",
        "14",
        "12",
        "2",
        "--weights",
        str(set_workspace.weights),
        "--device",
        "cpu",
        "--precision",
        "fp32",
    )
    assert main(["suggest", "v.nii.gz", *words, "--json", "--count", "9"]) == 0
    found = json.loads(set_workspace.shown()[0])["suggestions"]
    assert all(row["axis"] == "k" and row["slice"] in {0, 1, 3, 4} for row in found)


def test_images_that_viewers_turn(set_workspace: SetWorkspace) -> None:
    """A mask that nobody turned is refused where it may lie the wrong way round; what is written can be used again."""
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open("set/a.png").save("set/a.png", exif=exif)
    said = "a_mask.png: its EXIF orientation is 1 and that of the image is 3: one of the two was turned"
    assert said in set_workspace.refused(*A_MASK)
    Image.open("a_mask.png").save("a_mask.png", exif=exif)
    code, _, err = set_workspace.run(*A_MASK)
    assert code == 0, err
    code, _, err = set_workspace.run("--template", "a.png", "--mask", "out/a.png", output="again")
    assert code == 0, err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "there is no prompt"),
        (("--template", "a.png"), "a.png: there is no prompt"),
        ((*A_MASK, "--template", "a.png"), "--template a.png is given twice; give it once"),
        (("--template", "set/a.png", "--point", "20", "30", "--template", "a.png"), "--template a.png is given twice"),
        (("--template", "z.png", "--mask", "a_mask.png"), "z.png: there is no such image in set"),
        (("--template", "b.png", "--mask", "a_mask.png"), "it has 50 × 40 pixels, the image b.png 64 × 64 pixels"),
        (("--template", "a.png", "--point", "60", "3"), "lies outside the image of 50 × 40 pixels"),
        (("--template", "a.png", "--point", "x", "3"), "--point needs two numbers, not 'x 3'; give --point X Y"),
        (("--template", "a.png", "--point", "3"), "--point needs two numbers, not '3'"),
        (("--template", "a.png", "--box", "1,2,3"), "--box needs four numbers, not '1,2,3'; give --box X Y X2 Y2"),
        ((*A_MASK, "--seed", "4"), "--seed changes nothing: it belongs to --order shuffled"),
        (("--template", "a.png", "--negative", "6", "3"), "nothing but negative clicks"),
        (("--point", "6", "3"), "--point needs an image"),
        (("--template", "a.png", "--mask", "none.png"), "none.png: there is no such file"),
        ((*A_MASK, "--bank", "fife"), "did you mean 'fifo'"),
        ((*A_MASK, "--order", "alike"), "unknown order"),
        ((*A_MASK, "--order", "similar", "--bank", "prompted"), "--order changes nothing: --bank prompted remembers nothing"),
        ((*A_MASK, "--bank", "os:system"), "os:system is no bank; give a class with keep and weigh"),
        ((*A_MASK, "--order", "os:system"), "os:system is no order; give a function of the images that wait"),
        ((*A_MASK, "--order", "os:sep"), "os:sep is no order"),
        ((*A_MASK, "--window", "lungs"), "unknown window 'lungs'"),
        ((*A_MASK, "--report", "run.txt"), "nothing is written as .txt"),
        ((*A_MASK, "--overwrite", "--skip-existing"), "contradict"),
        ((*A_MASK, "--name", "4:x"), "object 4, which has no prompt"),
    ],
)
def test_wrong_uses(set_workspace: SetWorkspace, words: tuple[str, ...], said: str) -> None:
    assert said in set_workspace.refused(*words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--point 50 31", "(50, 31) lies outside the image of 50 × 40 pixels"),
        ("--point 20 30 --negative 9 -1", "(9, -1) lies outside"),
        ("--box 3 3 51 9", "(51, 9) lies outside"),
        ("--box 12 20 12 39", "the box 12 20 12 39 has no area; give two corners that differ in X and in Y"),
        ("--box 20 9 12 9", "the box 12 9 20 9 has no area"),
        ("--point 9 9 --point b.png:2:64 3", "b.png: (64, 3) lies outside the image of 64 × 64 pixels"),
        ("--point 9 9 --negative 2:3 3", "object 2 has nothing but negative clicks"),
    ],
)
def test_a_dry_run_refuses_the_prompts_that_a_run_refuses(set_workspace: SetWorkspace, words: str, said: str) -> None:
    given = ("--template", "a.png", *words.split())
    told = set_workspace.refused(*given, "--dry-run")
    assert said in told
    assert told == set_workspace.refused(*given)


def test_wrong_places(set_workspace: SetWorkspace) -> None:
    assert "would lie among the images" in set_workspace.refused(*A_MASK, output="set")
    assert "--preview would lie among the images" in set_workspace.refused(*A_MASK, "--preview", "set/a.png", "--overwrite")
    assert "two results would be the same file" in set_workspace.refused(*A_MASK, "--preview", "out/b.png")
    assert "its folder does not exist" in set_workspace.refused(*A_MASK, output="no/where")
    choices = set_workspace.refused("--template", "a.png", "--template", "b.png", "--point", "3", "3", code=4)
    assert "--point a.png:X Y, --point b.png:X Y" in choices
    Image.fromarray(np.zeros((9, 9), np.uint8)).save("set/black.png")
    black = ("--template", "black.png", "--point", "3", "3")
    for words in (black, (*black, "--dry-run")):
        assert "black.png: all its pixels have the same value" in set_workspace.refused(*words)
    assert not Path("out").exists()
    for name, words in (("empty", ()), ("a_mask.png", ()), ("none", ())):
        if name == "empty":
            Path(name).mkdir()
        assert main(["segment-images", name, "-o", "out", *words]) == 2
    err = set_workspace.shown()[1].splitlines()
    assert [line.split(";")[0] for line in err] == [
        "empty: it holds no image (0 other files and folders)",
        "a_mask.png: is a file",
        "none: there is no such folder",
    ]


def test_an_image_of_30000_columns(set_workspace: SetWorkspace) -> None:
    wide = np.random.default_rng(0).integers(0, 255, (20, 30_000)).astype(np.uint8)
    Image.fromarray(wide).save("set/wide.png")
    report = set_workspace.done(*A_MASK)
    assert not report["failed"]
    assert mask("wide.png").shape == (20, 30_000)


ALL_ANNOTATIONS = ("--annotations", "coco", "--annotations", "geojson", "--annotations", "label-studio")


def category_pixels(name: str, category: int) -> int:
    """Pixels of a category on an image, as the COCO file tells."""
    found = json.loads(Path("out/annotations.coco.json").read_text())
    (image,) = (each["id"] for each in found["images"] if each["file_name"] == name)
    return sum(each["area"] for each in found["annotations"] if (each["image_id"], each["category_id"]) == (image, category))


def test_annotations_for_other_programs(set_workspace: SetWorkspace) -> None:
    code, out, err = set_workspace.run(*A_MASK, "--name", "1:cell", *ALL_ANNOTATIONS)
    assert code == 0, err
    assert "do not hold names" not in err
    written = {path.name for path in Path("out").iterdir()}
    assert written == {
        "a.png",
        "b.png",
        "c.png",
        "a.geojson",
        "b.geojson",
        "c.geojson",
        "annotations.coco.json",
        "annotations.labelstudio.json",
    }
    assert category_pixels("a.png", 1) == set_workspace.truth.sum()
    assert json.loads(Path("out/annotations.coco.json").read_text())["categories"][0]["name"] == "cell"
    assert "wrote out/*.geojson" in out
    refusal = set_workspace.refused(*A_MASK, "--annotations", "coco", "--skip-existing", "--annotations", "cocoo")
    assert "unknown format of annotations 'cocoo'; did you mean 'coco'" in refusal


def test_names_that_nothing_holds_are_told(set_workspace: SetWorkspace) -> None:
    _, _, err = set_workspace.run(*A_MASK, "--name", "1:cell")
    assert "warning: label maps do not hold names; --annotations coco does" in err


def test_a_full_disk_is_named_where_it_was_met(set_workspace: SetWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a file that could not be written afterwards; and how much is done, and how to go on, is told."""
    write, count = atomic.write_bytes, itertools.count()

    def fill(path: Path, data: bytes) -> None:
        if next(count) >= 1:
            raise ResourceError("the disk is full; nothing was written", "free some space", subject=path)
        write(path, data)

    monkeypatch.setattr(atomic, "write_bytes", fill)
    code, _, err = set_workspace.run(*A_MASK, *ALL_ANNOTATIONS)
    assert code == 3
    assert "1 of 3 images is outlined; --skip-existing goes on with the others" in err
    assert "b.png: the disk is full; nothing was written; free some space" in err.splitlines()[-1]
    monkeypatch.setattr(atomic, "write_bytes", write)
    set_workspace.done(*A_MASK, *ALL_ANNOTATIONS, "--skip-existing")
    assert len(json.loads(Path("out/annotations.coco.json").read_text())["images"]) == 3


def test_annotations_of_what_is_finished_survive_an_interruption(
    set_workspace: SetWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run does the rest, and its files tell of all images."""
    keep = _SetRun.keep

    def interrupted(run: _SetRun, found: Any) -> None:
        keep(run, found)
        if len(run.done) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(_SetRun, "keep", interrupted)
    assert set_workspace.run(*A_MASK, *ALL_ANNOTATIONS)[0] == 130
    assert len(json.loads(Path("out/annotations.coco.json").read_text())["images"]) == 2
    assert len(list(Path("out").glob("*.geojson"))) == 2
    monkeypatch.setattr(_SetRun, "keep", keep)
    set_workspace.done(*A_MASK, *ALL_ANNOTATIONS, "--skip-existing")
    found = json.loads(Path("out/annotations.coco.json").read_text())
    assert [each["file_name"] for each in found["images"]] == ["a.png", "b.png", "c.jpg"]
    assert [each["id"] for each in found["images"]] == [1, 2, 3]
    assert category_pixels("a.png", 1) == set_workspace.truth.sum(), "of the first run"
    assert len(json.loads(Path("out/annotations.labelstudio.json").read_text())) == 3


def test_the_sheet_begins_with_the_template_and_keeps_the_least_sure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at the beginning of it, or has more images than it holds, sees those that are worth a look."""
    captions: list[str] = []
    sheet = preview.contact_sheet
    monkeypatch.setattr(preview, "contact_sheet", lambda *what, **how: (captions.extend(what[2]), sheet(*what, **how))[1])
    monkeypatch.setattr(report, "MOST_TILES", 4)
    images, labels = np.arange(900, dtype=np.uint16).reshape(30, 30), np.eye(30, dtype=np.uint8)
    kept = report.Sheet()
    for index, sure in enumerate((0.9, 0.3, 0.8, 0.1, 0.7, 0.99)):
        kept.add(images, ImageMask(index, labels, {1: sure}, prompted=sure == 0.99), f"{index}.png")
    kept.save(tmp_path / "sheet.png")
    assert captions == ["5.png  template", "3.png  0.10", "1.png  0.30", "4.png  0.70"]


def test_the_sheet_names_the_structures(set_workspace: SetWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    words, entries = (*A_MASK, "--preview", "v.png", "--overwrite"), list[str]()
    monkeypatch.setattr(preview.drawing, "write", lambda *what, **_: entries.append(what[2]))
    monkeypatch.setattr(preview.drawing, "_files", lambda: iter([preview.drawing.OWN]))
    assert "no font" not in set_workspace.run(*words, "--name", "Zelle")[2]
    assert entries[-1] == "Zelle"
    assert "no font here has all letters of the name of object 1: " in set_workspace.run(*words, "--name", "細胞")[2]
    assert entries[-1] == "object 1"


@pytest.mark.parametrize(
    ("value", "shown"), [(np.uint8(255), 255), (np.uint16(65535), 255), (np.uint8(0), 0), (np.uint8(90), 90)]
)
def test_the_sheet_draws_a_blank_image_as_it_is(tmp_path: Path, value: np.generic, shown: int) -> None:
    """A white page is no black one."""
    kept, blank = report.Sheet(), np.full((190, 190), value)
    kept.add(blank, ImageMask(0, np.zeros(blank.shape, np.uint8), {1: 0.0}), "blank.png")
    kept.save(tmp_path / "sheet.png")
    assert opened(str(tmp_path / "sheet.png"))[100, 100].tolist() == [shown] * 3


def test_weights_without_a_consensus_of_sets_are_named(set_workspace: SetWorkspace) -> None:
    """And the report says that there was none, though nobody left it out."""
    code, out, err = set_workspace.run(*A_MASK, "--json")
    assert code == 0
    assert "no consensus: these weights bring none for sets of images" in err.splitlines()
    assert json.loads(out)["settings"]["consensus"] is False
    assert "no consensus" not in set_workspace.run(*A_MASK, "--no-consensus", output="other")[2]

"""Sets of images that are outlined in several runs, or hold what no prompt showed: nothing is mixed or counted in silence."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medical_sam2.batch import read_record
from medical_sam2.cli import main, report
from medical_sam2.io.labels import MADE_BY, save_label_map
from medical_sam2.model.catalogue import NAMED_WEIGHTS
from medical_sam2.tracking.click_outline import JUDGE_FILE
from medical_sam2.tracking.set_consensus import NETWORK_FILE
from tests.cli.conftest import A_MASK, CLICK, SetWorkspace, Workspace

OTHERWISE: list[tuple[tuple[str, ...], str]] = [
    ((*A_MASK, "--bank", "fifo"), "settings"),
    (("--template", "a.png", "--point", "20", "30"), "prompts"),
    ((*A_MASK, "--window", "0,200"), "settings"),
    ((*A_MASK, "--object", "2", "--bank", "fifo"), "settings and prompts"),
    (("--template", "b.png", "--point", "20", "30", "--bank", "fifo"), "settings, prompts and prompted images"),
]


@pytest.mark.parametrize(("words", "which"), OTHERWISE)
def test_label_maps_that_were_made_otherwise_are_not_mixed(
    set_workspace: SetWorkspace, words: tuple[str, ...], which: str
) -> None:
    """With other settings or prompts: they are named, and nothing is written; the same again goes on."""
    set_workspace.done(*A_MASK)
    Path("out/c.png").unlink()
    for more in ((), ("--dry-run",)):
        line = set_workspace.refused(*words, "--skip-existing", *more)
        assert f"out: 2 of 2 label maps were made with other {which}: a.png, b.png; choose another" in line
    again = set_workspace.done(*A_MASK, "--skip-existing", "--features", "kept", "--threads", "2")
    assert [row["image"] for row in again["images"]] == ["c.jpg"]
    assert set_workspace.done(*words, "--overwrite")["count"] == 3


def outlined(name: str) -> bytes:
    """The annotations of an image for QuPath, without how sure they are."""
    features = json.loads(Path(f"out/{name}.geojson").read_text())["features"]
    return json.dumps([each["geometry"] for each in features]).encode()


@pytest.mark.parametrize("asked", [(), ("--annotations", "coco")])
def test_annotations_of_an_earlier_run_do_not_outlast_its_label_maps(
    set_workspace: SetWorkspace, asked: tuple[str, ...]
) -> None:
    """Those that were not asked for again are made anew, and told; what another program left is told."""
    set_workspace.done(*A_MASK, "--annotations", "geojson", "--annotations", "coco")
    before = outlined("a"), json.loads(Path("out/annotations.coco.json").read_text())["annotations"]
    Path("out/annotations.xml").write_text("")
    elsewhere = ("--template", "a.png", "--box", "2", "2", "9", "9", *asked)
    renewed, left = set_workspace.done(*elsewhere, "--overwrite")["warnings"][:2]
    files = "out/*.geojson" if asked else "out/annotations.coco.json, out/*.geojson"
    assert renewed == f"annotations of an earlier run were made anew, with the names of this one: {files}"
    assert left == "left as it is, maybe of an earlier run: annotations.xml"
    assert before[0] != outlined("a")
    assert before[1] != json.loads(Path("out/annotations.coco.json").read_text())["annotations"]
    assert not Path("out/annotations.labelstudio.json").exists()
    set_workspace.done(*elsewhere, "--annotations", "geojson", output="new")
    assert outlined("a") == outlined("../new/a")


def test_annotations_of_an_earlier_run_tell_of_images_that_came_later(set_workspace: SetWorkspace) -> None:
    """With --skip-existing those of all forms that lie there; where nothing may be replaced, the run is refused."""
    set_workspace.done(*A_MASK, "--annotations", "label-studio", "--annotations", "geojson")
    for file in ("c.png", "c.geojson"):
        Path("out", file).unlink()
    set_workspace.done(*A_MASK, "--skip-existing", "--annotations", "coco")
    assert Path("out/c.geojson").exists()
    for file in ("coco", "labelstudio"):
        assert "c.jpg" in Path(f"out/annotations.{file}.json").read_text()
    for file in "abc":
        Path("out", f"{file}.png").unlink()
    assert "out/annotations.coco.json: exists already; choose another folder" in set_workspace.refused(*A_MASK)


def test_other_weights_are_other_settings(set_workspace: SetWorkspace, tmp_path: Path) -> None:
    """Also those of the small networks beside them."""
    set_workspace.done(*A_MASK)
    folder = tmp_path / "weights"
    folder.mkdir()
    for file in set_workspace.weights.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    assert set_workspace.done(*A_MASK, "--weights", str(folder), "--skip-existing")["skipped"] == 3
    (folder / JUDGE_FILE).write_bytes((NAMED_WEIGHTS["nano"].folder / JUDGE_FILE).read_bytes())
    assert "with other weights: a.png" in set_workspace.refused(*A_MASK, "--weights", str(folder), "--skip-existing")


def test_an_interrupted_run_and_one_that_goes_on_tell_the_same(
    set_workspace: SetWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sheet, statistics and annotations; with a bank of templates alone the label maps are the same, too."""
    captions: list[str] = []
    add = report.Sheet.add
    monkeypatch.setattr(report.Sheet, "add", lambda *what: (captions.append(what[3]), add(*what))[1])
    words = (*A_MASK, "--bank", "prompted", "--preview", "sheet.png", "--statistics", "s.csv", "--annotations", "coco")
    assert not set_workspace.done(*words)["warnings"]
    whole = {path.name: path.read_bytes() for path in [*Path("out").iterdir(), Path("sheet.png")]}
    rows = sorted(Path("s.csv").read_text().splitlines())
    Path("out/c.png").unlink()
    captions.clear()
    assert not set_workspace.done(*words, "--skip-existing")["warnings"]
    assert sorted(captions) == ["a.png", "b.png", "c.jpg"]
    assert {path.name: path.read_bytes() for path in [*Path("out").iterdir(), Path("sheet.png")]} == whole
    assert sorted(Path("s.csv").read_text().splitlines()) == rows


def test_what_a_run_that_goes_on_cannot_know_is_told(set_workspace: SetWorkspace) -> None:
    set_workspace.done(*A_MASK)
    Path("out/c.png").unlink()
    told = set_workspace.done(*A_MASK, "--skip-existing", "--report", "run.json")["warnings"]
    assert told[0].startswith("1 image is not remembered, as label maps were there already: the others may come out otherwise")
    assert len(told) == 1
    facts = json.loads(Path("run.json").read_text())
    assert [[row["image"] for row in facts[kind]] for kind in ("images", "earlier")] == [["c.jpg"], ["a.png", "b.png"]]
    assert all(row["confidence"] and row["area_px"]["1"] for row in facts["earlier"])
    for name in ("b", "c"):  # as another program saves it
        save_label_map(np.array(Image.open(f"out/{name}.png")), Path(f"out/{name}.png"))
    Path("out/a.png").unlink()
    again = set_workspace.done(*A_MASK, "--skip-existing", "--statistics", "s.csv")
    assert again["warnings"][0].startswith("2 label maps are left out of preview, statistics and report")
    assert {row["image"] for row in csv.DictReader(Path("s.csv").read_text().splitlines())} == {"a.png"}
    assert again["skipped"] == 2


def test_label_maps_of_other_images_are_not_mixed(set_workspace: SetWorkspace) -> None:
    """Whether the image of a label map that stays was replaced, or one that is prompted."""
    set_workspace.done(*A_MASK)
    Path("out/c.png").unlink()
    kept = Path("set/b.png").read_bytes()
    Image.fromarray(255 - np.array(Image.open("set/b.png"))).save("set/b.png")
    line = set_workspace.refused(*A_MASK, "--skip-existing")
    assert "set: 1 image was replaced since the earlier run: b.png; remove those label maps" in line
    Path("set/b.png").write_bytes(kept)
    Image.fromarray(255 - np.array(Image.open("set/a.png"))).save("set/a.png")
    Path("out/a.png").unlink()
    assert "with other prompted images: b.png" in set_workspace.refused(*A_MASK, "--skip-existing")


def test_label_maps_of_a_version_that_kept_less_are_not_mixed_and_go_on(set_workspace: SetWorkspace) -> None:
    """It kept one hash of all: what differs is not known."""
    set_workspace.done(*A_MASK)
    Path("out/c.png").unlink()
    with Image.open("out/b.png") as image:
        kept, labels = json.loads(image.info[MADE_BY]), np.array(image)
    del kept["parts"]
    save_label_map(labels, Path("out/b.png"), made_by=json.dumps(kept))
    line = set_workspace.refused(*A_MASK, "--bank", "fifo", "--skip-existing")
    assert "out: 2 of 2 label maps were made with other settings, weights or prompts: a.png, b.png; choose another" in line
    assert set_workspace.done(*A_MASK, "--skip-existing")["skipped"] == 2


def test_suggestions_know_what_an_earlier_run_outlined(set_workspace: SetWorkspace) -> None:
    set_workspace.done(*A_MASK)
    set_workspace.done(*A_MASK, "--skip-existing", "--report", "run.json")
    set_workspace.shown()
    assert main(["suggest", "run.json", "--count", "2"]) == 0
    out, _ = set_workspace.shown()
    assert "b.png" in out
    assert "c.jpg" in out


def test_an_interrupted_run_that_replaced_some_says_what_is_left(
    set_workspace: SetWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_workspace.done(*A_MASK)
    save = save_label_map

    def broken(labels: object, file: Path, *more: object) -> None:
        if file.name == "b.png":
            raise KeyboardInterrupt
        save(labels, file, *more)  # type: ignore[arg-type]

    monkeypatch.setattr("medical_sam2.cli.segment_images.save_label_map", broken)
    _, _, told = set_workspace.run(*A_MASK, "--object", "2", "--overwrite")
    assert "1 of 3 images is outlined; 2 label maps are still of before: do all again with --overwrite" in told


def test_an_interrupted_first_run_tells_what_is_finished(set_workspace: SetWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sheet, statistics and report are of the images that are done, and a line says how to go on; before the first, nothing."""
    save = save_label_map
    missing = "a.png"

    def broken(labels: object, file: Path, *more: object) -> None:
        if file.name == missing:
            raise KeyboardInterrupt
        save(labels, file, *more)  # type: ignore[arg-type]

    monkeypatch.setattr("medical_sam2.cli.segment_images.save_label_map", broken)
    words = (*A_MASK, "--preview", "sheet.png", "--statistics", "s.csv", "--report", "run.json")
    assert set_workspace.run(*words)[0] == 130
    assert not [path for path in ("sheet.png", "s.csv", "run.json") if Path(path).exists()]
    missing = "c.png"
    code, _, told = set_workspace.run(*words)
    assert code == 130
    assert "of what is finished, wrote sheet.png, s.csv, run.json" in told
    assert "2 of 3 images are outlined; --skip-existing goes on with the others" in told
    facts = json.loads(Path("run.json").read_text())
    assert (facts["interrupted"], facts["count"], [row["image"] for row in facts["images"]]) == (True, 3, ["a.png", "b.png"])
    assert [row["image"] for row in csv.DictReader(Path("s.csv").read_text().splitlines())] == ["a.png", "b.png"]
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 100
    monkeypatch.setattr("medical_sam2.cli.segment_images.save_label_map", save)
    facts = set_workspace.done(*words, "--skip-existing")
    assert ("interrupted" in facts, [row["image"] for row in facts["images"]]) == (False, ["c.jpg"])


NO_OBJECT = '{"key": "k", "likeness": 1, "prompted": false, "window": null, "confidence": {}}'


@pytest.mark.parametrize(
    "text", [NO_OBJECT, "", "{", "[]", "{}", '{"window": 3}', '{"window": null, "confidence": {"x": 1}}', "\0"]
)
def test_a_text_that_others_wrote_is_none(tmp_path: Path, text: str) -> None:
    save_label_map(np.eye(4, dtype=np.uint8), tmp_path / "a.png", made_by=text)
    assert read_record(tmp_path / "a.png") is None
    for data in (b"", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n\xff\xff\xff\xfftEXt", b"no picture"):
        (tmp_path / "b.png").write_bytes(data)
        assert read_record(tmp_path / "b.png") is None


def test_a_blank_image_is_not_counted_as_outlined(set_workspace: SetWorkspace) -> None:
    Image.fromarray(np.full((12, 14), 9, np.uint8)).save("set/black.png")
    code, out, _ = set_workspace.run(*A_MASK, "--report", "run.json")
    assert code == 0
    assert out.splitlines()[0] == "3 of 4 images outlined, 1 blank and without an outline (black.png)"
    assert "0.00  black.png" not in out
    rows = {row["image"]: row["blank"] for row in json.loads(Path("run.json").read_text())["images"]}
    assert rows == {"a.png": False, "b.png": False, "c.jpg": False, "black.png": True}


@pytest.mark.parametrize("template_in_colour", [False, True])
def test_images_in_colour_among_grey_ones_are_named(set_workspace: SetWorkspace, template_in_colour: bool) -> None:
    """And grey ones among those in colour; a grey image that is stored in three channels is grey."""
    grey = {name: np.array(Image.open(Path("set") / name)) for name in ("a.png", "b.png")}
    Image.fromarray(np.repeat(grey["b.png"][..., None], 3, 2)).save("set/b.png")
    assert not set_workspace.done(*A_MASK)["warnings"]
    changed, kinds = ("a.png", ("2", "grey", "in colour")) if template_in_colour else ("b.png", ("1", "in colour", "grey"))
    Image.fromarray(np.stack([grey[changed], grey[changed] // 2, grey[changed]], axis=2)).save(Path("set") / changed)
    found = set_workspace.done(*A_MASK, "--overwrite")
    unlike = ["b.png", "c.jpg"] if template_in_colour else ["b.png"]
    count, theirs, ours = kinds
    are, masks = ("are", "their masks are") if count == "2" else ("is", "its mask is")
    told = f"{count} of 3 images {are} {theirs} and what is prompted is {ours}: {masks} wrong more often and"
    told += " deserve a look" if count == "2" else " deserves a look"
    assert found["warnings"] == [f"{told}: {', '.join(unlike)}"]
    assert found["deserve_a_look"] == unlike
    both = set_workspace.done("--mask", "a.png:a_mask.png", "--point", "b.png:20", "20", output="both")
    assert not both["warnings"]  # both kinds were shown


def test_a_blank_image_is_neither_grey_nor_in_colour(set_workspace: SetWorkspace) -> None:
    for name in ("a.png", "b.png", "c.jpg"):
        grey = np.array(Image.open(Path("set") / name).convert("L"))
        Image.fromarray(np.stack([grey, grey // 2, grey], axis=2)).save(Path("set") / name)
    Image.fromarray(np.full((12, 14), 9, np.uint8)).save("set/black.png")
    found = set_workspace.done(*A_MASK)
    assert (found["warnings"], found["deserve_a_look"]) == ([], [])
    Image.fromarray(np.array(Image.open("set/b.png").convert("L"))).save("set/b.png")
    (told,) = set_workspace.done(*A_MASK, "--overwrite")["warnings"]
    assert told.startswith("1 of 3 images is grey and what is prompted is in colour")


def test_a_run_that_goes_on_tells_of_blank_and_coloured_images_of_before(set_workspace: SetWorkspace) -> None:
    """They deserve a look as much as in one run, a blank one is counted once, and no prompt on it is suggested."""
    grey = np.array(Image.open("set/b.png"))
    Image.fromarray(np.stack([grey, grey // 2, grey], axis=2)).save("set/b.png")
    Image.fromarray(np.full((12, 14), 9, np.uint8)).save("set/black.png")
    words = (*A_MASK, "--window", "0,200", "--report", "run.json")
    whole = set_workspace.done(*words)
    Path("out/c.png").unlink()
    found = set_workspace.done(*words, "--skip-existing")
    assert found["deserve_a_look"] == whole["deserve_a_look"] == ["b.png"]
    assert [line for line in found["warnings"] if "remembered" not in line] == whole["warnings"] != []
    assert main(["suggest", "run.json", "--count", "9"]) == 0
    assert [line.split()[0] for line in set_workspace.shown()[0].splitlines()] == ["b.png", "c.jpg"]
    Path("out/c.png").unlink()
    _, out, _ = set_workspace.run(*words, "--skip-existing")
    assert out.splitlines()[0] == "1 of 4 images outlined, 2 were there already, 1 blank and without an outline (black.png)"


def test_the_summary_tells_how_sure_earlier_images_are(set_workspace: SetWorkspace) -> None:
    """The least sure image of all, whichever run saw it; also where nothing was left to do."""
    words = (*A_MASK, "--bank", "prompted")
    whole = set_workspace.run(*words)[1].splitlines()[1:]
    assert [line.split()[0] for line in whole[:2]] == ["intensities:", "confidence"]
    assert set_workspace.run(*words, "--skip-existing")[1].splitlines() == [
        "0 of 3 images outlined, 3 were there already",
        *whole,
    ]
    Path("out", f"{Path(whole[-2].split()[1]).stem}.png").unlink()
    assert set_workspace.run(*words, "--skip-existing")[1].splitlines()[1:] == whole


def discs(radii: list[int], size: int = 48) -> None:
    """Images e0.png … in the folder, each with a bright disc."""
    rng, distance = np.random.default_rng(1), np.hypot(*(np.indices((size, size)) - size / 2))
    for i, radius in enumerate(radii):
        image = np.where(distance < radius, 200, 60 + rng.integers(-20, 20, (size, size))).astype(np.uint8)
        Image.fromarray(image).save(f"set/e{i}.png")


@pytest.mark.parametrize(("radii", "told"), [([12, 4, 4, 5, 4], "smaller"), ([4, 12, 13, 12, 13], "larger")])
def test_objects_of_quite_another_size_are_told(set_workspace: SetWorkspace, radii: list[int], told: str) -> None:
    """As nuclei that are taken for the cells that were outlined; also by a run that goes on, but not of few images."""
    for path in Path("set").iterdir():
        path.unlink()
    discs(radii)
    Image.fromarray((np.array(Image.open("set/e0.png")) == 200).astype(np.uint8) * 255).save("m.png")
    words = ("--template", "e0.png", "--mask", "m.png")
    (line,) = set_workspace.done(*words)["warnings"]
    assert line.startswith(f"object 1 is far {told} on 4 images (")
    assert f"pixels at the median, {int((np.array(Image.open('m.png')) > 0).sum())} where it was prompted" in line
    assert line.endswith("prompt one more image, too")
    Path("out/e4.png").unlink()
    assert line in set_workspace.done(*words, "--skip-existing")["warnings"]
    discs([*radii[:3], radii[0], radii[0]])
    assert not set_workspace.done(*words, "--overwrite")["warnings"]
    discs(radii)
    Path("set/e4.png").unlink()
    assert set_workspace.done(*words, "--overwrite")["warnings"] == ["left as it is, maybe of an earlier run: e4.png"]


def broken(weights: Path, tmp_path: Path) -> Path:
    """Weights with a consensus of sets that cannot be read."""
    folder = tmp_path / "own"
    folder.mkdir()
    for file in weights.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / NETWORK_FILE).write_bytes(b"of an older version")
    return folder


def test_a_consensus_of_sets_that_cannot_be_read_stops_sets_alone(set_workspace: SetWorkspace, tmp_path: Path) -> None:
    """And those only that ask for it."""
    folder = str(broken(set_workspace.weights, tmp_path))
    line = set_workspace.refused(*A_MASK, "--weights", folder)
    assert NETWORK_FILE in line
    assert set_workspace.done(*A_MASK, "--weights", folder, "--no-consensus")["count"] == 3


def test_a_consensus_of_sets_that_cannot_be_read_stops_no_volume(workspace: Workspace, tmp_path: Path) -> None:
    found = workspace.done(*CLICK, "--weights", str(broken(workspace.weights, tmp_path)))
    assert found["objects"][0]["voxels"] > 0


def test_the_report_says_whether_there_was_a_consensus(workspace: Workspace) -> None:
    """These weights bring no gate; those that ship do, but a correction does without."""
    assert workspace.done(*CLICK)["settings"]["consensus"] is False
    shipped = ("--weights", "nano", "--image-size", "128")
    assert workspace.done(*CLICK, *shipped, output="one.nii.gz")["settings"]["consensus"] is True
    words = ("--correct", "one.nii.gz", "--negative", "3", "3", "3", *shipped)
    assert workspace.done(*words, output="two.nii.gz")["settings"]["consensus"] is False


def test_where_nothing_was_left_to_do_nothing_is_said_of_memories(set_workspace: SetWorkspace) -> None:
    """Not even where an image is waiting that cannot be read."""
    Path("set/d.png").write_bytes(Path("set/b.png").read_bytes()[:60])
    set_workspace.done(*A_MASK, code=2)
    assert not set_workspace.done(*A_MASK, "--skip-existing", code=2)["warnings"]


def test_label_maps_of_images_that_are_gone_are_told(set_workspace: SetWorkspace) -> None:
    assert set_workspace.done(*A_MASK)["warnings"] == []
    Path("set/b.png").unlink()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save("out/of_others.png")
    told = "left as it is, maybe of an earlier run: b.png"
    assert told in set_workspace.done(*A_MASK, "--overwrite")["warnings"]

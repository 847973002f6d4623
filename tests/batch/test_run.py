"""Runs over many cases: killed anywhere they leave nothing half and go on to the same bytes; layouts; what counts as done."""

import csv
import errno
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medical_sam2 import io, preview
from medical_sam2.batch import BatchCase, MaskFile
from medical_sam2.batch.cases import find_cases
from medical_sam2.batch.outputs import CaseOutcome, FoundObject, load_outcome, save_sheet
from medical_sam2.batch.run import BatchRun, BatchSettings, segment_cases
from medical_sam2.batch.table import read_table
from medical_sam2.data.data_sets import read_data_set
from medical_sam2.errors import ConfigError, InputError, PromptError
from medical_sam2.intensity_window import Window
from medical_sam2.prompts import Box, Mask, Prompt
from medical_sam2.tracking.finishing import FinishingSettings
from medical_sam2.views import AXIAL
from medical_sam2.volume import Segmentation, SliceConfidence, Volume
from tests.io.making import Series, phantom
from tests.io.test_dicom import AXIAL as AXIAL_GRID
from tests.killing import each_death

ROOT = Path(__file__).parents[2]
SHAPE, AFFINE = (12, 10, 5), np.array([[-2.0, 0, 0, 40], [0, -2.0, 0, 30], [0, 0, 4.0, -50], [0, 0, 0, 1]])


class Painter:
    """A segmenter that fills boxes: what is tried here is not the network."""

    network = SimpleNamespace(image_size=32)

    def segment_volume(self, image: Volume, prompts: Sequence[Prompt], *, names: dict[int, str], **_: Any) -> Segmentation:
        labels, rows = np.zeros(image.shape, np.uint8), []
        if image.array.max() == 990:
            raise OSError(errno.ENOSPC, "No space left on device")
        if image.array.max() > 900:
            raise PromptError("it is too bright", "dim it")
        if image.array.max() > 800:
            raise TypeError("Ms Smith, born 1950")
        for box in prompts:
            assert isinstance(box, Box)
            low, high = (np.array(corner, int) for corner in (box.low_ijk, box.high_ijk))
            labels[low[0] : high[0] + 1, low[1] : high[1] + 1, :] = box.object
            rows += [
                SliceConfidence(box.object, "IPR", k, 0.9 - 0.1 * k, 9, prompted=k == 0, look_here=k == 3)
                for k in range(image.shape[2])
            ]
        return Segmentation(
            labels, image.affine, names, confidence=tuple(rows), windows={p.object: Window(0, 9) for p in prompts}
        )


def outline(folder: Path, output: str = "out", **options: Any) -> list[str]:
    """The names of the cases that were outlined, failures with a mark."""
    settings = BatchSettings(
        **{name: options.pop(name) for name in ("layout", "views", "suffix", "finishing", "allow_gap") if name in options}
    )
    found = segment_cases(
        read_table(folder / "t.csv"),
        folder / output,
        settings,
        segmenter=Painter(),  # type: ignore[arg-type]
        **options,
    )
    return [("! " if each.problem else "") + each.case for each in found]


def left(folder: Path) -> dict[str, bytes]:
    """What a run left, but for how long it took."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    files.pop("seconds.csv", None)
    reports = {name: data for name, data in files.items() if name.endswith(".json") and name.startswith("cases/")}
    for name, data in reports.items():
        files[name] = json.dumps({key: value for key, value in json.loads(data).items() if key != "seconds"}).encode()
    return files


def test_results(folder: Path) -> None:
    assert outline(folder) == ["sub-0_T1w", "sub-1_T1w", "sub-2_T1w"]
    with (folder / "out" / "results.csv").open() as stream:
        row = next(csv.DictReader(stream))
    assert row == {
        "case": "sub-0_T1w",
        "object": "1",
        "name": "liver",
        "voxels": "100",
        "volume_ml": "1.6",
        "confidence": "0.65",
        "template": "",
        "slices_to_look_at": "k3",
        "warnings": "",
        "error": "",
    }
    image = io.load(folder / "c0.nii.gz")
    assert (io.load(folder / "out" / "sub-0_T1w.nii.gz").affine == image.affine).all()
    assert (folder / "out" / "least_sure.png").exists()
    assert (folder / "out" / "seconds.csv").read_text().startswith("case,read_s,track_s,write_s\nsub-0_T1w,")


@pytest.mark.parametrize(("layout", "first"), [("plain", 1), ("nnunet", 5)])
def test_killed_anywhere_nothing_is_half_and_the_rest_is_done(folder: Path, layout: str, first: int) -> None:
    """Between changes of the disk: what is there is whole, and the second run comes to the bytes of one that nobody killed."""
    rows = (folder / "t.csv").read_text().splitlines(keepends=True)
    (folder / "t.csv").write_text("".join(rows[:3]))
    outline(folder, "whole", layout=layout)
    expected, cases = left(folder / "whole"), read_table(folder / "t.csv")

    def judge() -> None:
        there = left(folder / "out") if (folder / "out").exists() else {}
        done = {case.name for case in cases if load_outcome(case.name, folder / "out")}
        for name in there:
            if name in expected and name.startswith(("cases/", "sub-", "labelsTr", "imagesTr")) and not name.endswith(".lock"):
                assert there[name] == expected[name]
        again = outline(folder, layout=layout, existing="skip")
        assert again == [case.name for case in cases if case.name not in done]
        assert left(folder / "out") == expected

    def begin() -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)

    assert each_death(begin, lambda: outline(folder, layout=layout), judge, first=first, step=8) > 4


def test_what_a_file_lacks_is_a_warning_of_its_case_but_names_which_the_table_has(folder: Path) -> None:
    Series(AXIAL_GRID, phantom((12, 10, 5)) // 9).write(folder / "c0")
    (folder / "c0" / "IM0001.dcm").unlink()
    (folder / "t.csv").write_text("case,image,object,name,kind,i,j,k,i2,j2,k2\na,c0,1,liver,box,2,2,0,5,6,0\n")
    for suffix, lost in ((".dcm", ["20 of 100 voxels, 0."]), (".nii.gz", [])):
        outline(folder, f"out{suffix}", suffix=suffix, allow_gap=True)
        outcome = load_outcome("a", folder / f"out{suffix}")
        assert outcome is not None
        told = [line for line in outcome.warnings if "not in the file" in line or "does not hold" in line]
        assert len(told) == len(lost)
        assert all(part in line for part, line in zip(lost, told, strict=True))


def put(path: Path, brightest: int) -> None:
    """Write an image of one value and, in a corner, another one."""
    array = np.full(SHAPE, brightest, np.int16)
    array[0, 0, 0] = 0
    nib.save(nib.Nifti1Image(array, AFFINE), path)  # type: ignore[attr-defined]


def test_an_image_of_one_value_is_refused(folder: Path) -> None:
    """Nothing can be told apart on it, and what a network outlines at a click there is plausible all the same."""
    put(folder / "c1.nii.gz", 0)
    assert outline(folder) == ["sub-0_T1w", "! sub-1_T1w", "sub-2_T1w"]
    assert "all voxels have the same value: there is nothing to outline" in (folder / "out" / "results.csv").read_text()
    assert not (folder / "out" / "sub-1_T1w.nii.gz").exists()


def test_a_failure_costs_its_own_case(folder: Path) -> None:
    """It has a row, and is tried again by the next run; what a library says of it is kept to itself."""
    for n, most in ((0, 999), (1, 850)):
        put(folder / f"c{n}.nii.gz", most)
    assert outline(folder) == ["! sub-0_T1w", "! sub-1_T1w", "sub-2_T1w"]
    table = (folder / "out" / "results.csv").read_text()
    assert f"sub-0_T1w,,,,,,,,,{folder / 'c0.nii.gz'}: it is too bright; dim it\n" in table
    assert "a defect of medsam2 (TypeError)" in table
    assert "Smith" not in table
    assert outline(folder, existing="skip") == ["! sub-0_T1w", "! sub-1_T1w"]


def test_a_full_disk_has_the_exit_code_of_a_full_disk(folder: Path) -> None:
    put(folder / "c1.nii.gz", 990)
    painter: Any = Painter()
    first, full, last = segment_cases(read_table(folder / "t.csv"), folder / "out", segmenter=painter)
    assert (first.exit_code, full.exit_code, last.exit_code) == (0, 3, 0)
    assert "no space left on device" in full.problem


@pytest.mark.parametrize("wrong", [{"bank": "fifth"}, {"views": "four"}, {"window": "glass"}, {"threads": 0}, {"adapt": -1.0}])
def test_settings_that_do_not_exist_cost_no_case(folder: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        BatchRun(read_table(folder / "t.csv"), folder / "out", BatchSettings(**wrong))
    assert not (folder / "out").exists()


def test_what_was_made_otherwise_is_not_taken_as_done(folder: Path) -> None:
    """Settings, prompts or an image that changed; a copy of the same image is no change."""
    outline(folder)
    with pytest.raises(InputError, match="3 of 3 cases are done already"):
        outline(folder)
    with pytest.raises(InputError, match="3 of 3 cases were made with other settings, weights, prompts or images"):
        outline(folder, existing="skip", views="three")
    shutil.copy(folder / "c0.nii.gz", folder / "c0.new")
    (folder / "c0.new").replace(folder / "c0.nii.gz")
    assert outline(folder, existing="skip") == []
    put(folder / "c0.nii.gz", 1)
    (folder / "t.csv").write_text((folder / "t.csv").read_text().replace("7,6,0", "8,6,0"))
    with pytest.raises(InputError, match=r"2 of 3 cases .*: sub-0_T1w, sub-2_T1w"):
        outline(folder, existing="skip")
    assert outline(folder, existing="redo changed") == ["sub-0_T1w", "sub-2_T1w"]
    assert outline(folder, existing="overwrite") == ["sub-0_T1w", "sub-1_T1w", "sub-2_T1w"]


def rows_of(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Case and object → its row in the table of the results."""
    with (folder / "out" / "results.csv").open() as stream:
        return {(row["case"], row["object"]): row for row in csv.DictReader(stream)}


def correct_by_hand(folder: Path, case: str) -> bytes:
    """A person takes a slice off object 1 and adds object 2; what the file is then."""
    path, image = folder / "out" / f"{case}.nii.gz", io.load(folder / "c0.nii.gz")
    array = io.load_labels(path, image).array.copy()
    array[:, :, 0], array[0, 0, 1] = 0, 2
    io.save(array, path, image)
    return path.read_bytes()


def test_labels_that_a_person_corrected_are_measured_anew_and_stay(folder: Path) -> None:
    """Whatever becomes of the settings: only who says --overwrite replaces them."""
    outline(folder)
    plain = rows_of(folder)["sub-0_T1w", "1"]
    mine = correct_by_hand(folder, "sub-0_T1w")
    assert outline(folder, existing="skip") == []
    rows = rows_of(folder)
    assert (rows["sub-0_T1w", "1"]["voxels"], rows["sub-0_T1w", "1"]["volume_ml"]) == ("80", "1.28")
    assert rows["sub-0_T1w", "2"]["voxels"] == "1"
    assert "its labels were changed since (by hand?)" in rows["sub-0_T1w", "1"]["warnings"]
    assert rows["sub-0_T1w", "1"]["confidence"] == plain["confidence"]
    assert not rows["sub-1_T1w", "1"]["warnings"]
    with pytest.raises(InputError, match="made with other settings"):
        outline(folder, existing="skip", views="three")
    assert outline(folder, existing="redo changed", views="three") == ["sub-1_T1w", "sub-2_T1w"]
    assert rows_of(folder)["sub-0_T1w", "1"]["voxels"] == "80"
    assert (folder / "out" / "sub-0_T1w.nii.gz").read_bytes() == mine
    assert outline(folder, existing="overwrite") == ["sub-0_T1w", "sub-1_T1w", "sub-2_T1w"]
    assert rows_of(folder)["sub-0_T1w", "1"] == plain


def test_of_reports_that_keep_no_hash_of_the_labels_nothing_is_claimed(folder: Path) -> None:
    outline(folder)
    path = folder / "out" / "cases" / "sub-0_T1w.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "labels_sha256"}))
    before = rows_of(folder)
    correct_by_hand(folder, "sub-0_T1w")
    assert outline(folder, existing="skip") == []
    assert rows_of(folder) == before


def test_changed_labels_that_cannot_be_measured_have_a_row_that_says_so(folder: Path) -> None:
    """Of another grid, say: no number of the earlier labels is told as theirs."""
    outline(folder)
    io.save(np.ones((3, 3, 3), np.uint8), folder / "out" / "sub-1_T1w.nii.gz", Volume(np.zeros((3, 3, 3)), np.eye(4)))
    run = BatchRun(read_table(folder / "t.csv"), folder / "out", BatchSettings(), existing="skip")
    assert (run.by_hand, run.todo) == (("sub-1_T1w",), [])
    assert outline(folder, existing="skip") == []
    row = rows_of(folder)["sub-1_T1w", ""]
    assert row["voxels"] == ""
    assert "its labels were changed since (by hand?), and cannot be measured: " in row["error"]
    assert outline(folder, existing="skip") == []


@pytest.mark.parametrize("layout", ["plain", "nnunet", "bids"])
def test_a_shorter_table_takes_no_row_away(folder: Path, layout: str) -> None:
    """Nor what the layout tells of all cases; labels that were corrected count as they are."""
    outline(folder, layout=layout)
    whole = left(folder / "out")
    rows = (folder / "t.csv").read_text().splitlines(keepends=True)
    (folder / "t.csv").write_text("".join(rows[:2]))
    assert outline(folder, layout=layout, existing="skip") == []
    after = left(folder / "out")
    assert {name for name in whole if whole[name] != after[name]} <= {"least_sure.png"}
    if layout == "nnunet":
        assert json.loads(after["dataset.json"])["numTraining"] == 3
    assert outline(folder, layout=layout, existing="overwrite") == ["sub-0_T1w"]
    assert left(folder / "out")["results.csv"] == whole["results.csv"]
    assert (folder / "out" / "seconds.csv").read_text().count("\n") == 4
    if layout == "plain":
        correct_by_hand(folder, "sub-2_T1w")
        assert outline(folder, existing="skip") == []
        assert rows_of(folder)["sub-2_T1w", "1"]["voxels"] == str(6 * 5 * 4)


def test_a_result_that_is_gone_is_made_again(folder: Path) -> None:
    outline(folder)
    (folder / "out" / "sub-1_T1w.nii.gz").unlink()
    assert outline(folder, existing="skip") == ["sub-1_T1w"]


def test_files_of_others_stay(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "sub-1_T1w.nii.gz").write_bytes(b"a day's work")
    with pytest.raises(InputError, match="tells that this command made it"):
        outline(folder, existing="skip")


@pytest.mark.parametrize("harm", ["gone", "broken"])
def test_labels_whose_report_is_gone_or_broken_are_not_written_over(folder: Path, harm: str) -> None:
    outline(folder)
    labels, report = folder / "out" / "sub-1_T1w.nii.gz", folder / "out" / "cases" / "sub-1_T1w.json"
    correct_by_hand(folder, "sub-1_T1w")
    work = labels.read_bytes()
    report.unlink() if harm == "gone" else report.write_bytes(report.read_bytes()[:200])
    for existing in ("skip", "redo changed", "refuse"):
        with pytest.raises(InputError, match=r"sub-1_T1w\.nii\.gz: exists already.*--overwrite|are done already"):
            outline(folder, existing=existing)
    assert labels.read_bytes() == work
    outline(folder, existing="overwrite")
    assert labels.read_bytes() != work


def test_a_stopped_run_leaves_its_tables(folder: Path) -> None:
    running = segment_cases(read_table(folder / "t.csv"), folder / "out", segmenter=Painter())  # type: ignore[arg-type]
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert (folder / "out" / "results.csv").read_text().count("\n") == 2


def test_nnunet_can_train_on_it(folder: Path) -> None:
    """Images are links to the originals, labels have names; other formats are written as NIfTI in the same grid."""
    io.save(io.load(folder / "c1.nii.gz").array, folder / "c1.nrrd", io.load(folder / "c1.nii.gz"))
    (folder / "t.csv").write_text((folder / "t.csv").read_text().replace("c1.nii.gz", "c1.nrrd"))
    outline(folder, layout="nnunet")
    found = read_data_set(folder / "out")
    assert dict(found.structures) == {"liver": (1,)}
    assert [case.identifier for case in found.cases] == ["sub-0_T1w", "sub-1_T1w", "sub-2_T1w"]
    assert (folder / "out" / "imagesTr" / "sub-0_T1w_0000.nii.gz").resolve() == (folder / "c0.nii.gz").resolve()
    for case in found.cases:
        loaded = found.load(case)
        assert loaded.labels is not None
        assert loaded.labels.any()


def test_bids_says_what_labels_mean(folder: Path) -> None:
    outline(folder, layout="bids")
    out = folder / "out"
    assert (out / "sub-1" / "anat" / "sub-1_desc-T1w_dseg.nii.gz").exists()
    assert (out / "dseg.tsv").read_text() == "index\tname\n0\tbackground\n1\tliver\n"
    assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "derivative"


def test_one_list_of_names_has_one_meaning(folder: Path) -> None:
    text = (folder / "t.csv").read_text().splitlines()
    (folder / "t.csv").write_text("\n".join([*text[:-1], text[-1].replace("liver", "spleen")]) + "\n")
    with pytest.raises(InputError, match="object 1 is called liver in sub-0_T1w and spleen in sub-2_T1w"):
        outline(folder, layout="nnunet")
    with pytest.raises(ConfigError, match=r"the layout bids has \.nii\.gz files alone"):
        outline(folder, "bids", layout="bids", suffix=".nrrd")


def test_results_in_the_folder_of_images_are_no_images(folder: Path) -> None:
    (folder / "c0.prompts.json").write_text('{"objects": [{"boxes": [[2, 2, 0, 5, 6, 0]]}]}')
    outline(folder)
    found = find_cases(folder, leave_out=[folder / "out"])
    assert ([case.name for case in found.cases], found.unprompted) == (["c0"], ("c1", "c2"))


def test_what_finishing_left_empty_is_not_to_be_looked_at(folder: Path) -> None:
    outline(folder, finishing=FinishingSettings(min_volume=("100",)))
    found = load_outcome("sub-0_T1w", folder / "out")
    assert found is not None
    assert [(each.voxels, each.look_at) for each in found.objects] == [(0, ())]


def test_finishing_is_done_recorded_and_part_of_what_a_result_depends_on(folder: Path) -> None:
    grown = FinishingSettings(grow=("liver=2",), smooth=("spleen=2",))
    assert outline(folder, finishing=grown) == [f"sub-{n}_T1w" for n in range(3)]
    image = io.load(folder / "c0.nii.gz")
    labels = io.load_labels(folder / "out" / "sub-0_T1w.nii.gz", image)
    assert np.array_equal(labels.affine, image.affine)
    found = load_outcome("sub-0_T1w", folder / "out")
    assert found is not None
    (change,) = found.finishing
    assert (change.step, change.setting, change.before) == ("grow_mm", 2.0, 4 * 5 * 5)
    assert change.after == np.count_nonzero(labels.array) == 6 * 7 * 5 - 4 * 5
    assert "--smooth spleen=2 does nothing: there is no such object" in found.warnings
    with pytest.raises(InputError, match="were made with other settings"):
        outline(folder, existing="skip")
    with pytest.raises(ConfigError, match="'x' is no positive number"):
        outline(folder, "other", finishing=FinishingSettings(smooth=("liver=x",)))
    (first, *_) = segment_cases(
        read_table(folder / "t.csv"),
        folder / "fine",
        BatchSettings(finishing=FinishingSettings(shrink=("0.5",))),
        segmenter=Painter(),  # type: ignore[arg-type]
    )
    assert "changes nothing: voxels are 2 mm at least" in first.problem


def test_the_sheet_shows_the_least_sure_cases_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each on the slice of its least sure outline, also where another object of it was not found at all."""
    captions: list[str] = []
    slices: list[int] = []
    sheet = preview.contact_sheet

    def watched(pictures: Any, masks: Any, words: Any, **how: Any) -> Any:
        captions.extend(words)
        slices.extend(int(picture.max()) for picture in pictures)
        return sheet(pictures, masks, words, **how)

    monkeypatch.setattr(preview, "contact_sheet", watched)
    image = Volume(np.arange(6, dtype=np.uint8) * np.ones((8, 8, 1), np.uint8), np.eye(4))
    io.save(image.array, tmp_path / "image.nii", image)
    outcomes, cases = [], {}
    for name, at in (("a", ((0.9, 1), (0.8, 2))), ("b", ((0.4, 3), (0.7, 4))), ("c", ((0.0, None), (0.5, 5)))):
        objects = [
            FoundObject(label, "", 9, 1.0, sure, least_sure=None if t is None else (AXIAL.code, t), window=(0, 255))
            for label, (sure, t) in enumerate(at, 1)
        ]
        outcomes.append(CaseOutcome(name, tuple(objects), ("image.nii",)))
        cases[name] = BatchCase(name, tmp_path / "image.nii")
    save_sheet(outcomes, cases, tmp_path, {})
    assert captions == ["c  0.00", "b  0.40", "a  0.80"]
    assert slices == [5, 3, 2]


class Tracer(Painter):
    """A segmenter that takes outlines for the object."""

    def segment_volume(self, image: Volume, prompts: Sequence[Prompt], *, names: dict[int, str], **_: Any) -> Segmentation:
        labels = np.zeros(image.shape, np.uint8)
        for mask in prompts:
            assert isinstance(mask, Mask)
            labels[mask.array_ijk] = mask.object
        return Segmentation(labels, image.affine, names)


def test_colours_of_masks_are_kept(folder: Path) -> None:
    """As `segment` keeps them."""
    image, drawn = io.load(folder / "c0.nii.gz"), np.zeros(SHAPE, np.uint8)
    drawn[2:5, 2:5, 2], drawn[7:9, 7:9, 2] = 1, 2
    io.save(Segmentation(drawn, image.affine, {1: "liver"}, colours={2: (9, 8, 7)}), folder / "m.seg.nrrd", image)
    case = BatchCase("a", folder / "c0.nii.gz", (MaskFile(folder / "m.seg.nrrd"),))
    settings = BatchSettings(suffix=".seg.nrrd")
    (found,) = segment_cases([case], folder / "out", settings, segmenter=Tracer())  # type: ignore[arg-type]
    assert not found.problem
    assert io.load_segmentation(folder / "out" / "a.seg.nrrd", image).colours[2] == (9, 8, 7)


def test_names_in_a_table_beside_a_mask_count_where_results_are_skipped(folder: Path) -> None:
    image, drawn = io.load(folder / "c0.nii.gz"), np.zeros(SHAPE, np.uint8)
    drawn[2:5, 2:5, 2] = 1
    io.save(drawn, folder / "m.nii.gz", image)
    case = BatchCase("a", folder / "c0.nii.gz", (MaskFile(folder / "m.nii.gz"),))

    def again() -> list[str]:
        made = segment_cases([case], folder / "out", BatchSettings(), segmenter=Tracer(), existing="redo changed")  # type: ignore[arg-type]
        return [found.name for outcome in made for found in outcome.objects]

    assert again() == [""]
    for name in ("liver", "spleen"):
        (folder / "m.tsv").write_text(f"index\tname\tcolor\n1\t{name}\t#010203\n")
        assert again() == [name]
        assert again() == []

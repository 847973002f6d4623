"""`medsam2 segment-volumes`: the network behind it, what it tells, and real processes that are killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from medical_sam2 import io
from medical_sam2.batch import run as batch_run
from medical_sam2.batch.cases import find_cases
from medical_sam2.batch.outputs import CaseOutcome
from medical_sam2.batch.run import BatchJob, BatchRun, BatchSettings, run_here
from medical_sam2.cli import main
from tests.batch.test_run import left
from tests.cli.conftest import LOADED, SHAPE, Workspace, read_once
from tests.io.making import AXIAL, Series, phantom

COMMAND = "import sys; from medical_sam2.cli import main; raise SystemExit(main(sys.argv[1:]))"


@pytest.fixture
def words(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command over three images, one of them broken at its end; the table says it of all. Other processes run it, too."""
    monkeypatch.setattr(LOADED, read_once)
    rows = ["case,image,object,name,kind,i,j,k"]
    for n in range(3):
        workspace.put(f"c{n}.nii.gz", np.random.default_rng(n).integers(-1000, 1000, SHAPE).astype(np.int16))
        rows.append(f"p{n},c{n}.nii.gz,1,liver,point,14,12,3")
    Path("t.csv").write_text("\n".join(rows) + "\n")
    usual = ["--weights", str(workspace.weights), "--device", "cpu", "--precision", "fp32", "--threads", "1"]
    return ["segment-volumes", "t.csv", "-o", "out", *usual]


def test_as_segment_does_one_by_one(workspace: Workspace, words: list[str]) -> None:
    """The same labels; a broken image has a row, and the exit code tells; a second run does it alone."""
    whole = Path("c1.nii.gz").read_bytes()
    Path("c1.nii.gz").write_bytes(whole[: len(whole) // 2])
    assert main([*words, "--json"]) == 2
    out, err = workspace.shown()
    assert json.loads(out)["done"] == 2
    assert "failed: p1: c1.nii.gz: " in err
    assert err.splitlines()[-1] == "1 of 3 cases could not be outlined; the others are done"
    workspace.done("--point", "14", "12", "3", "--name", "liver", image="c2.nii.gz", output="one.nii.gz")
    assert Path("one.nii.gz").read_bytes() == Path("out/p2.nii.gz").read_bytes()
    with Path("out/results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["case"], bool(row["error"])) for row in rows] == [("p0", False), ("p1", True), ("p2", False)]
    Path("c1.nii.gz").write_bytes(whole)
    assert main([*words, "--skip-existing"]) == 0
    assert "1 of 3 cases outlined, 2 were there already" in workspace.shown()[0]


def test_corrected_labels_and_cases_of_earlier_runs_are_told(workspace: Workspace, words: list[str]) -> None:
    """In one line each; what cannot be measured is a failure, which the exit code tells."""
    assert main(words) == 0
    workspace.mask("out/p1.nii.gz", [(slice(2, 4), slice(2, 4), slice(2, 4))])
    workspace.shown()
    assert main([*words, "--skip-existing"]) == 0
    told = "1 case has labels that were changed since (by hand?), which stay and are measured anew: p1"
    assert workspace.shown()[1].splitlines() == [told]
    Path("t.csv").write_text("".join(Path("t.csv").read_text().splitlines(keepends=True)[:3]))
    Path("out/p1.nii.gz").write_bytes(b"torn")
    assert main([*words, "--skip-existing"]) == 2
    lines = workspace.shown()[1].splitlines()
    assert lines[0] == told
    assert lines[1] == "1 case is in the folder from earlier runs, with rows in the tables, not in least_sure.png: p2"
    assert lines[2].startswith("failed: p1: its labels were changed since (by hand?), and cannot be measured: out/p1.nii.gz: ")
    with Path("out/results.csv").open() as stream:
        assert {row["case"]: bool(row["error"]) for row in csv.DictReader(stream)} == {"p0": False, "p1": True, "p2": False}


def test_an_interrupted_run_says_how_to_go_on(workspace: Workspace, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    save = io.save

    def broken(found: object, path: Path, *more: object, **how: object) -> list[str]:
        if path.name == "p1.nii.gz":
            raise KeyboardInterrupt
        return save(found, path, *more, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(io, "save", broken)
    assert main(words) == 130
    told = "1 of 3 cases is outlined, and in the tables; --skip-existing goes on with the others, and makes the sheet"
    assert told in workspace.shown()[1]
    with Path("out/results.csv").open() as stream:
        assert [row["case"] for row in csv.DictReader(stream)] == ["p0"]
    assert not Path("out/least_sure.png").exists()
    monkeypatch.setattr(io, "save", save)
    assert main([*words, "--skip-existing"]) == 0
    assert Path("out/least_sure.png").exists()


HELD = """
import sys
from pathlib import Path
from medical_sam2.io.atomic import claimed
with claimed(["p2"], Path("out"), Path("out/cases/.claims")):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_over_the_same_cases_is_refused_in_one_line(workspace: Workspace, words: list[str]) -> None:
    """It says nothing of how to go on, for it has done nothing."""
    assert main(words) == 0
    whole = workspace.files()
    workspace.shown()
    with subprocess.Popen([sys.executable, "-c", HELD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert main([*words, "--overwrite"]) == 2
        told = "out: another run is at work on p2 here, or will be; wait until it has ended, or choose another folder"
        assert workspace.shown()[1].splitlines() == [told]
        assert main([*words, "--skip-existing"]) == 0, "nothing is left to do"
        other.kill()
    assert workspace.files() == whole
    assert main([*words, "--overwrite"]) == 0


def test_dry_run_checks_and_writes_nothing(workspace: Workspace, words: list[str]) -> None:
    before = workspace.files()
    assert main([*words, "--dry-run"]) == 0
    said = workspace.shown()[0]
    assert "would outline p0" in said
    assert "at most, by eight slices that were made up" in said
    assert "memory   about " in said
    assert workspace.files() == before


def test_dry_run_counts_what_each_case_is_tuned_for(workspace: Workspace, words: list[str]) -> None:
    """One of three has an outline; clicks are nothing to tune to."""
    workspace.put("mask.nii.gz", np.pad(np.ones((4, 4, 1), np.uint8), [(8, n - 12) for n in SHAPE[:2]] + [(3, SHAPE[2] - 4)]))
    Path("t.csv").write_text(
        "case,image,kind,i,j,k,file\np0,c0.nii.gz,mask,,,,mask.nii.gz\np1,c1.nii.gz,point,14,12,3,\np2,c2.nii.gz,point,14,12,3,\n"
    )
    assert main([*words, "--adapt", "100", "--dry-run", "--json"]) == 0
    assert 100 < json.loads(workspace.shown()[0])["seconds"] < 200
    assert main([*words, "--adapt", "100", "--dry-run"]) == 0
    assert "--adapt  does nothing for 2 of 3 cases" in workspace.shown()[0]


def test_dry_run_tells_what_time_points_are_missing(workspace: Workspace, words: list[str]) -> None:
    workspace.put("beats.nii.gz", np.random.default_rng(0).integers(-1000, 1000, (*SHAPE, 3)).astype(np.int16))
    Path("t.csv").write_text("image,kind,i,j,k\nbeats.nii.gz,point,8,8,2\n")
    assert main([*words, "--dry-run"]) == 4
    told, warned = workspace.shown()
    assert "would fail: beats.nii.gz" in warned
    assert "would outline" not in told
    assert main([*words, "--dry-run", "--frame", "3"]) == 2
    assert "would fail: beats.nii.gz" in workspace.shown()[1]
    assert main([*words, "--dry-run", "--frame", "2"]) == 0
    assert "would outline beats" in workspace.shown()[0]


def test_tuning_to_a_click_is_said_to_do_nothing(workspace: Workspace, words: list[str]) -> None:
    assert main([*words, "--adapt", "1"]) == 0
    with Path("out/results.csv").open() as stream:
        assert all("--adapt does nothing" in row["warnings"] for row in csv.DictReader(stream))


def test_dry_run_tells_beside_which_series_nothing_can_be_written(workspace: Workspace, words: list[str]) -> None:
    Series(AXIAL, phantom()).write(workspace.folder / "series", StudyInstanceUID="")
    Path("t.csv").write_text("image,kind,i,j,k\nseries,point,1,1,1\n")
    assert main([*words, "--suffix", ".rtstruct.dcm", "--dry-run"]) == 2
    told, warned = workspace.shown()
    assert "would fail: series/IM0000.dcm: it lacks StudyInstanceUID, to which an RTSTRUCT refers" in warned
    assert "would outline" not in told


def test_a_file_of_one_object_is_refused_for_several(workspace: Workspace, words: list[str]) -> None:
    rows = "ct.nii.gz,1,point,12,10,3\nct.nii.gz,2,point,3,3,3\n"
    Path("t.csv").write_text(f"image,object,kind,i,j,k\n{rows}")
    assert main([*words, "--suffix", ".stl"]) == 2
    assert "ct has several objects, and a file .stl holds one; take --suffix .obj" in workspace.shown()[1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--skip-existing", "--overwrite"], "--skip-existing and --overwrite contradict each other"),
        (["--threshold", "nan"], "--threshold nan is not finite"),
        (["--part", "4/3"], "--part 4/3 is no part; give NUMBER/COUNT, from 1/3 to 3/3"),
        (["--workers", "2"], "--workers changes nothing"),
        (["--threshold", "0.5"], "--threshold speaks of masks"),
        (["--channel", "1"], "--channel changes nothing"),
        (["--fusion", "vote"], "--fusion changes nothing: one view is tracked"),
        (["--mask", "ct.nii.gz"], "--mask alone changes nothing"),
        (["--template", "ct.nii.gz"], "--template alone changes nothing"),
        (["--template", "ct.nii.gz", "--mask", "none.nii.gz"], "none.nii.gz: does not exist"),
        (["--template", "ct.nii.gz", "--mask", "ct.nii.gz"], "ct.nii.gz"),
        (["--template", "ct.nii.gz", "--mask", "ct.nii.gz", "--adapt", "3"], "--adapt tunes to an outline"),
        (["--prompts", "t.csv"], "the table holds the prompts already"),
        (["--layout", "bidz"], "'bidz'"),
        (["--layout", "nnunet", "--suffix", ".nrrd"], "the layout nnunet has .nii.gz files alone"),
        (["--suffix", ".xyz"], "images are not written as '.xyz'"),
        (["--views", "five"], "unknown views 'five'"),
        (["--priority", "liver"], "--priority changes nothing: no case has several objects"),
        (["--priority", "lever"], "priority: no case has an object called lever"),
    ],
)
def test_refusals(workspace: Workspace, words: list[str], more: list[str], said: str) -> None:
    before = workspace.files()
    assert main([*words, *more]) == 2
    (line,) = workspace.shown()[1].splitlines()
    assert said in line
    assert workspace.files() == before


def test_one_list_of_names_is_checked_before_anything_is_outlined(workspace: Workspace, words: list[str]) -> None:
    """As far as prompts tell names without a mask being read; in a layout with names of each case it is told."""
    rows = Path("t.csv").read_text().splitlines()
    workspace.mask("m.nii.gz", [(slice(2, 4), slice(2, 4), slice(2, 4))])
    masked = (
        "case,image,object,name,kind,i,j,k,file\np0,c0.nii.gz,1,liver,point,14,12,3,\np1,c1.nii.gz,2,liver,mask,,,,m.nii.gz"
    )
    for table, told in (
        (
            "\n".join([*rows, "p1,c1.nii.gz,2,liver,point,3,3,3"]),
            "objects 1 and 2 are both called liver; name them apart: this layout",
        ),
        ("\n".join([*rows[:-1], rows[-1].replace("liver", "spleen")]), "object 1 is called liver in p0 and spleen in p2"),
        (masked, "objects 1 and 2 are both called liver"),
    ):
        Path("t.csv").write_text(f"{table}\n")
        for more in (["nnunet", "--dry-run"], ["nnunet"], ["bids"]):
            assert main([*words, "--layout", *more]) == 2
            assert told in workspace.shown()[1]
            assert not Path("out").exists()
    Path("t.csv").write_text("\n".join([*rows, "p1,c1.nii.gz,2,liver,point,3,3,3"]) + "\n")
    assert main(words) == 0
    told = [line for line in workspace.shown()[1].splitlines() if "both called" in line]
    assert told == ["warning: p1: objects 1 and 2 are both called 'liver': name them apart, or speak of them by their numbers"]


def test_who_comes_first_need_not_be_in_every_case(workspace: Workspace, words: list[str]) -> None:
    """Two objects at one place: the one that is named has it; where it is not, a warning, and the case is outlined."""
    rows = Path("t.csv").read_text().splitlines()
    Path("t.csv").write_text("\n".join([*rows, "p1,c1.nii.gz,2,tumour,point,14,12,3"]) + "\n")
    assert main([*words, "--priority", "tumour"]) == 0
    assert "p0: --priority tumour does nothing: there is no such object" in workspace.shown()[1]
    with Path("out/results.csv").open() as stream:
        found = {(row["case"], row["name"]): int(row["voxels"]) for row in csv.DictReader(stream)}
    assert found["p1", "liver"] == 0 < found["p1", "tumour"]
    assert found["p0", "liver"] > 0


def test_one_annotated_volume_for_all(workspace: Workspace, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by it: marked, and to be looked at; not found: left out and said. Prompts go before. A second run does nothing."""
    Path("scans").mkdir()
    for n in range(2):
        Path(f"c{n}.nii.gz").rename(f"scans/c{n}.nii.gz")
    Path("ct.nii.gz").rename("scans/ct.nii.gz")
    workspace.mask("atlas.nii.gz", [(slice(8, 14), slice(6, 12), slice(2, 5)), (slice(2, 5), slice(2, 5), slice(1, 4))])
    Path("scans/c1.prompts.json").write_text('{"objects": [{"label": 1, "name": "liver", "points": [[14, 12, 3]]}]}')
    usual = ["segment-volumes", "scans", "--template", "ct.nii.gz", "--mask", "atlas.nii.gz", *words[2:]]
    before = workspace.files()
    assert main([*usual, "--dry-run"]) == 0
    out, err = workspace.shown()
    assert "template ct.nii.gz, labels atlas.nii.gz\nwould outline c0\nwould outline c1\n" in out
    assert "of the template, and not outlined: ct" in err
    assert workspace.files() == before
    monkeypatch.setattr("medical_sam2.tracking.template.FOUND", 2.0)
    assert main(usual) == 0
    out, err = workspace.shown()
    assert "0 of 3 objects found by the template" in out
    assert err.count("of the template was not found and is left out") == 3
    with Path("out/results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    by = [(row["case"], row["object"], row["template"]) for row in rows]
    assert by == [("c0", "1", "ct"), ("c0", "2", "ct"), ("c1", "1", ""), ("c1", "2", "ct")]
    assert all(row["slices_to_look_at"] and row["voxels"] == "0" for row in rows if row["template"])
    assert main([*usual, "--skip-existing"]) == 0
    assert "0 of 2 cases outlined, 2 were there already" in workspace.shown()[0]
    workspace.mask("atlas.nii.gz", [(slice(8, 14), slice(6, 12), slice(1, 5))])
    assert main([*usual, "--skip-existing"]) == 2
    assert "2 of 2 cases were made with other settings" in workspace.shown()[1]
    assert main([*usual, "--redo-changed"]) == 0
    with Path("out/results.csv").open() as stream:
        assert [(row["case"], row["template"]) for row in csv.DictReader(stream)] == [("c0", "ct"), ("c1", "")]


def test_a_table_of_images_for_a_template(workspace: Workspace, words: list[str]) -> None:
    """A row without a prompt names an image; without a template it is refused as before."""
    workspace.mask("atlas.nii.gz", [(slice(8, 14), slice(6, 12), slice(2, 5))])
    Path("t.csv").write_text("image\nc0.nii.gz\nc1.nii.gz\n")
    assert main([*words, "--template", "ct.nii.gz", "--mask", "atlas.nii.gz", "--dry-run"]) == 0
    assert "cases    2," in workspace.shown()[0]
    assert main(words) == 2
    assert "it has no kind" in workspace.shown()[1]


def test_wrong_rows_are_listed(workspace: Workspace, words: list[str]) -> None:
    Path("t.csv").write_text(Path("t.csv").read_text().replace("14,12,3", "14,12,33"))
    assert main(words) == 2
    *lines, last = workspace.shown()[1].splitlines()
    assert [line.split(":")[0] for line in lines] == [f"t.csv, row {n}" for n in (2, 3, 4)]
    assert last == "t.csv: 3 rows or images cannot be used; mend what is named above"
    assert not Path("out").exists()


def test_a_killed_process_goes_on(workspace: Workspace, words: list[str]) -> None:
    """A real one, by a signal that it cannot catch, while it works on its second case."""
    assert main(words) == 0
    Path("out").rename("whole")
    with Path("told.txt").open("w") as told:
        child = subprocess.Popen([sys.executable, "-c", COMMAND, *words], stdout=subprocess.DEVNULL, stderr=told)
    for _ in range(6000):
        if Path("out/cases/p0.json").exists() or child.poll() is not None:
            break
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = {path.stem for path in Path("out/cases").glob("*.json")}
    assert done, Path("told.txt").read_text()
    workspace.shown()
    assert main([*words, "--skip-existing", "--json"]) == 0
    assert json.loads(workspace.shown()[0])["skipped"] == len(done)
    assert left(Path("out")) == left(Path("whole"))


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_whose_worker_dies(workspace: Workspace, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers, one of which is killed while it works: the bytes of a run in one process, and a bad image costs its row."""
    Path("c1.nii.gz").write_bytes(b"no image")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    assert main(words) == 2
    Path("out").rename("whole")
    settings = BatchSettings(weights=str(workspace.weights), device="cpu", precision="fp32", threads=1)
    run = BatchRun(find_cases(Path("t.csv")).cases, Path("out"), settings)
    monkeypatch.setattr(batch_run, "CaseWorker", DyingWorker)
    outcomes = list(run.outline(lambda jobs: batch_run.run_on_cluster(jobs, "local", 2)))
    assert Path("died").exists()
    assert sorted(each.case for each in outcomes if not each.problem) == ["p0", "p2"]
    assert left(Path("out")) == left(Path("whole"))


class DyingWorker(batch_run.CaseWorker):
    """Is killed at its first case, once."""

    def outline(self, job: BatchJob) -> CaseOutcome:
        if not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().outline(job)


def test_the_same_in_this_process(workspace: Workspace, words: list[str]) -> None:
    """The generator of the package is what the command uses."""
    assert main(words) == 0
    Path("out").rename("whole")
    settings = BatchSettings(weights=str(workspace.weights), device="cpu", precision="fp32", threads=1)
    run = BatchRun(find_cases(Path("t.csv")).cases, Path("out"), settings)
    assert [each.case for each in run.outline(run_here)] == ["p0", "p1", "p2"]
    assert left(Path("out")) == left(Path("whole"))


def test_label_maps_of_another_format_that_stay_are_told(workspace: Workspace, words: list[str]) -> None:
    assert main(words) == 0
    workspace.shown()
    assert main([*words, "--overwrite", "--suffix", ".nrrd"]) == 0
    told = (
        "3 label maps are of an earlier run of these cases, under another name, and left there: p0.nii.gz, p1.nii.gz, p2.nii.gz"
    )
    assert told in workspace.shown()[1].splitlines()
    assert Path("out/p1.nii.gz").exists()
    assert main([*words, "--overwrite", "--suffix", ".nrrd"]) == 0
    assert "of an earlier run" not in workspace.shown()[1]

"""`medsam2 segment --label-table`: names and colours in a file beside the labels."""

from tests.cli.conftest import CLICK, Workspace


def test_a_table_of_labels_that_an_earlier_run_left_is_told(workspace: Workspace) -> None:
    workspace.done(*CLICK, "--name", "spleen", "--label-table", "out.label")
    for words, count in ((["--label-table", "out.tsv"], 1), (["--label-table", "out.label"], 0), (["--name", "spleen"], 0)):
        code, _, err = workspace.run(*CLICK, *words, "--overwrite")
        told = "warning: out.label, which lies beside out.nii.gz, calls object 1 'spleen', as whoever reads these labels will"
        assert (code, err.count(told)) == (0, count)
        workspace.done(*CLICK, "--name", "spleen", "--label-table", "out.label", "--overwrite")


def test_objects_in_files_of_their_own_are_read_with_their_names(workspace: Workspace) -> None:
    workspace.done(*CLICK, "--name", "spleen", "--separate", "--label-table", "out.label")
    report = workspace.done("--mask", "out-1.nii.gz", output="new.seg.nrrd")
    assert [entry["name"] for entry in report["objects"]] == ["spleen"]
    code, _, err = workspace.run("--mask", "out-1.nii.gz", output="new.nii.gz")
    assert (code, err.count("new.nii.gz does not hold names\n")) == (0, 1), err

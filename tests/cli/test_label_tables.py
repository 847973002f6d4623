"""`medsam2 segment --label-table`: names and colours in a file beside the labels."""

from tests.cli.conftest import CLICK, Workspace


def test_a_table_of_labels_that_an_earlier_run_left_is_told(workspace: Workspace) -> None:
    workspace.done(*CLICK, "--name", "spleen", "--label-table", "out.label")
    for words, count in ((["--label-table", "out.tsv"], 1), (["--label-table", "out.label"], 0), (["--name", "spleen"], 0)):
        code, _, err = workspace.run(*CLICK, *words, "--overwrite")
        told = "warning: out.label, which lies beside out.nii.gz, calls object 1 'spleen', as whoever reads these labels will"
        assert (code, err.count(told)) == (0, count)
        workspace.done(*CLICK, "--name", "spleen", "--label-table", "out.label", "--overwrite")

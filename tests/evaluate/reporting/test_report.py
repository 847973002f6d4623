"""The page: everything in one file, nothing from elsewhere."""

import re
from pathlib import Path

import pytest

from medical_sam2.evaluate import answer, job, scene
from medical_sam2.evaluate.job import Network
from medical_sam2.evaluate.protocols import PROTOCOLS, Condition, Protocol
from medical_sam2.evaluate.reporting.report import write_report
from medical_sam2.evaluate.run import run_all
from medical_sam2.evaluate.study import Study
from medical_sam2.segmenter import Segmenter
from tests.backbones import Brightness
from tests.data.nnunet import blob, picture_set, put, volume_set


def test_a_page_that_needs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cache in (job.data_set, scene._scene, scene._loaded, answer._answered, answer._direction, answer._network):
        cache.cache_clear()
    known = Segmenter(Brightness(32), device="cpu", precision="fp32")
    monkeypatch.setattr(answer, "_network", lambda _: known)
    data = (volume_set(tmp_path / "Dataset001_Liver", cases=3), picture_set(tmp_path / "Dataset002_Eyes"))
    put(data[0] / "labelsTr" / "case2.nii.gz", blob((24, 20, 8), {}))
    small = Protocol("universal", "Small.", (Condition("mask"),), ("self-sorting", "fifo"))
    one = Protocol("memory", "Small.", PROTOCOLS["memory"].conditions, ("self-sorting",), watch=True)
    studies = [Study(each, data, Network(), "0" * 64, cases=2, draws=each is small) for each in (small, one)]
    folders = [tmp_path / "out" / each.protocol.name for each in studies]
    outcomes = run_all(studies, folders)
    page = write_report(studies, outcomes, tmp_path / "out", "full").read_text()
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]{1,30})', page))
    assert not re.findall(r"(?:href|src|url)\s*[=(]\s*[\"']?(?!#|data:)\w", page)
    assert page.count("<img ") >= 3
    for words in (small.digest, "as Table 1", "paper: BTCV, 12 organs", "not measured: Liver: 1 of 3 volumes"):
        assert words in page
    assert "skipped: Liver case2 liver: the structure is not in this case" in page
    assert "the largest cross-section that nobody prompted" in page
    assert (tmp_path / "out" / "universal" / "examples-volumes.svg").is_file()
    assert (tmp_path / "out" / "universal" / "tables.tex").read_text().count(r"\begin{table}") >= 3
    assert "Beside the paper" in (tmp_path / "out" / "summary.md").read_text()

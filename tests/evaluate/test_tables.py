"""Tables: a case counts once, empty and skipped rows are counted apart, methods are compared on the same cases."""

import math

from medical_sam2.evaluate.protocols import Condition, Protocol
from medical_sam2.evaluate.report import as_markdown
from medical_sam2.evaluate.study import Row
from medical_sam2.evaluate.tables import group_rows, mean_by_case, protocol_sections

PROTOCOL = Protocol("small", "For a test.", conditions=(Condition("box"),), methods=("self-sorting", "fifo"), seeds=(0, 1))


def row(case: str, method: str, dice: float, *, structure: str = "liver", seed: int = 0, skipped: str = "") -> Row:
    """Of a volume."""
    distance = math.inf if dice == 0 else 2.0
    return Row("CT", "volume", case, structure, method, "box", "none", "0.25", seed, skipped, dice=dice, hausdorff95=distance)


def test_a_case_counts_once() -> None:
    rows = [
        row("a", "fifo", 0.2),
        row("a", "fifo", 0.4, seed=1),
        row("a", "fifo", 0.9, structure="cyst"),
        row("b", "fifo", 0.0),
    ]
    assert mean_by_case(rows) == {("CT", "a"): 0.5, ("CT", "b"): 0.0}
    assert mean_by_case(rows, "hausdorff95") == {("CT", "a"): 2.0}
    assert mean_by_case([row("c", "fifo", math.nan)]) == {}


def test_the_page_of_a_protocol() -> None:
    rows = [row(case, method, dice) for case, dice in (("a", 0.5), ("b", 0.0)) for method in PROTOCOL.methods]
    rows += [row("c", "fifo", math.nan), row("d", "fifo", math.nan, skipped="it has no label map")]
    (setting,) = group_rows(rows, PROTOCOL)
    assert str(setting) == "volumes, 25% of the frames prompted, box"
    text = as_markdown(protocol_sections(PROTOCOL, rows, {"CT d liver": "it has no label map"}))
    assert PROTOCOL.digest in text
    assert "| fifo | 2 | 0.250 [0.000, 0.500] | – | – | – | 2.000 mm (1) |" in text
    assert "| fifo | +0.000 [0.000, 0.000] | 1.000 | 2 |" in text
    assert "- CT d liver: it has no label map\n" in text
    assert "- CT liver: 1 answers, truth and prediction empty\n" in text

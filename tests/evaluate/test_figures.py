"""Figures: each where the rows hold something for it, and nothing where they do not."""

from pathlib import Path

from medical_sam2.evaluate.figures import write_figures
from medical_sam2.evaluate.protocols import Condition, Protocol
from medical_sam2.evaluate.study import Row


def test_figures_of_what_there_is(tmp_path: Path) -> None:
    shares = (Condition("box", 0.1, 0.1), Condition("box", 1.0, 1.0))
    protocol = Protocol("small", "For a test.", conditions=shares, methods=("self-sorting", "fifo"), seeds=(0, 1))

    def row(method: str, share: str, seed: int) -> Row:
        dice = 0.5 + 0.2 * float(share) + 0.1 * seed
        sure, told = ((0.2, 0.3), (0.9, dice)), (2.5, 2.0 - 0.1 * seed)
        return Row("CT", "volume", "a", "liver", method, "box", "none", share, seed, dice=dice, sure=sure, information=told)

    rows = [row(method, share, seed) for method in protocol.methods for share in ("0.1", "1") for seed in (0, 1)]
    found = write_figures(protocol, rows, tmp_path)
    assert [each.name for each in found] == [
        f"{name}-volumes.png" for name in ("frequency", "spread", "information", "reliability")
    ]
    assert all(each.with_suffix(".svg").stat().st_size > 1000 for each in found)
    assert write_figures(protocol, [], tmp_path) == []

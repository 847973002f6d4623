"""Figures: each where the rows hold something for it, and nothing where they do not."""

from dataclasses import replace
from pathlib import Path

from medical_sam2.evaluate.figures import write_figures
from medical_sam2.evaluate.protocols import Condition, Protocol
from medical_sam2.evaluate.study import Row

HANDS = (("none", 0.9), ("expert", 0.8), ("lay", 0.6))


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


def test_hands_and_suggestions_have_curves_and_kinds_have_figures_of_their_own(tmp_path: Path) -> None:
    protocol = Protocol("noise", "For a test.", methods=("fifo",))
    plain = Row("CT", "volume", "a", "liver", "fifo", "box", "none", "0.1", 0, dice=0.5)
    rows = [replace(plain, kind=kind, care=care, dice=dice) for kind in ("volume", "set") for care, dice in HANDS]
    rows.append(replace(plain, skipped="no label", share="1"))
    assert [each.name for each in write_figures(protocol, rows, tmp_path)] == ["hands-volumes.png", "hands-sets.png"]
    drawn = (tmp_path / "hands-volumes.svg").read_text()
    assert "noise: volumes" in drawn
    assert "suggested" not in drawn
    more = [replace(plain, share=share, choice=choice) for share in ("0.1", "1") for choice in ("random", "suggest")]
    (path,) = write_figures(protocol, more, tmp_path)
    assert path.name == "frequency-volumes.png"
    assert "suggested" in path.with_suffix(".svg").read_text()

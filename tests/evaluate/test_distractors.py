"""Images of other sets among those of a set: lent as is said, counted apart, and the images of the set are asked as before."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medical_sam2.evaluate import answer
from medical_sam2.evaluate.cases import FramePrompts, draw_distractors, mix_order, open_data_set
from medical_sam2.evaluate.figures import write_figures
from medical_sam2.evaluate.methods.interface import MethodAnswer, MethodInputs
from medical_sam2.evaluate.protocols import PROTOCOLS, Condition
from medical_sam2.evaluate.report import as_markdown
from medical_sam2.evaluate.study import Row, select_answered
from medical_sam2.evaluate.tables import group_rows, protocol_sections
from tests.data.nnunet import blob, describe, put, volume_set
from tests.evaluate.studies import forget_cases, run_study, small_study, use_brightness

PLAIN, MIXED = (Condition("mask", None, None, distractors=share) for share in (0.0, 0.5))


def picture_set_of(folder: Path, structure: str, *, cases: int = 3, colour: bool = True, value: int = 0) -> Path:
    """Pictures with a square of a grey value, all of it the structure."""
    channels = "RGB" if colour else "G"
    names = {str(c): name for c, name in enumerate(channels)}
    describe(folder, file_ending=".png", channel_names=names, labels={"background": 0, structure: 1}, kind="set")
    for number in range(cases):
        label = blob((32, 32), {1: (slice(8, 20), slice(8, 20))})
        put(folder / "imagesTr" / f"{number}_0000.png", np.stack([value * label] * 3, axis=-1) if colour else value * label)
        put(folder / "labelsTr" / f"{number}.png", label)
    return folder


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, Path]:
    forget_cases()
    return {
        "eyes": picture_set_of(tmp_path / "Dataset001_Eyes", "disc", cases=4, value=255),
        "bright": picture_set_of(tmp_path / "Dataset002_Bright", "lesion", value=255),
        "dark": picture_set_of(tmp_path / "Dataset003_Dark", "shadow", value=0),
        "grey": picture_set_of(tmp_path / "Dataset004_Grey", "organ", colour=False, value=255),
        "discs": picture_set_of(tmp_path / "Dataset005_Discs", "disc", value=255),
        "volumes": volume_set(tmp_path / "Dataset006_Liver"),
    }


def test_images_are_lent_in_turn_by_sets_of_as_many_channels_first(sets: dict[str, Path]) -> None:
    lenders = [open_data_set(folder) for folder in sets.values()]
    eyes = lenders[0]
    drawn = draw_distractors(lenders, eyes, "disc", 8, 0)
    assert [each.folder for each in drawn[6:]] == [sets["grey"]] * 2, "grey ones where colour ones have run out"
    for seed in range(5):
        turns = [each.folder for each in draw_distractors(lenders, eyes, "disc", 6, seed)]
        for pair in zip(turns[::2], turns[1::2], strict=True):
            assert {*pair} == {sets["bright"], sets["dark"]}, "not the discs, which show the structure"
    assert len({*drawn}) == 8
    assert {each.folder for each in draw_distractors(lenders, eyes, "cup", 9, 0)} == {
        sets[x] for x in ("bright", "dark", "discs")
    }
    assert len(draw_distractors(lenders, eyes, "disc", 50, 0)) == 9
    assert draw_distractors(lenders, eyes, "disc", 8, 0) == drawn
    assert len({draw_distractors(lenders, eyes, "disc", 8, seed) for seed in range(5)}) > 1
    assert draw_distractors(lenders[:1], eyes, "disc", 8, 0) == ()


def test_the_order_of_the_set_stays() -> None:
    orders = [mix_order([3, 1, 0, 2], 3, np.random.default_rng(seed)).tolist() for seed in range(20)]
    assert all([i for i in order if i < 4] == [3, 1, 0, 2] for order in orders)
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len({order.index(4) for order in orders}) > 2
    assert mix_order([1, 0], 0, np.random.default_rng(0)).tolist() == [1, 0]


@pytest.fixture
def rows(sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """Answers of a network that outlines what is as bright as what was prompted."""
    use_brightness(monkeypatch)
    data = tuple(sets[name] for name in ("eyes", "bright", "dark"))
    study = small_study(data, conditions=(PLAIN, MIXED), methods=("self-sorting", "prompt alone"), seeds=(0, 1))
    found = run_study(replace(study, structures=1), tmp_path / "out")
    assert not found.failed
    return [row for row in found.rows if row.dataset == "Eyes"]


def test_what_is_found_on_distractors_counts_apart(rows: list[Row]) -> None:
    strays = [row for row in rows if row.stray]
    assert len(strays) == 2 * 2 * 2, "half as many as images, of each method and seed"
    assert {row.distractors for row in strays} == {"0.5"}
    for row in strays:
        lender = row.case.partition("/")[0]
        assert (row.dice == 0) == (lender == "Bright"), "what is bright is outlined, what is dark is not"
        assert (row.prompted, row.empty) == (0, False)
    assert not any(row.stray for row in select_answered(rows))
    assert {row.dice for row in select_answered(rows)} == {1.0}


def test_images_of_the_set_are_prompted_as_without(rows: list[Row]) -> None:
    told = {
        share: [(row.case, row.method, row.seed, row.prompted) for row in rows if row.distractors == share and not row.stray]
        for share in ("", "0.5")
    }
    assert told[""] == told["0.5"]
    assert len({row.task for row in rows}) == len(rows), "with and without are told apart"


def test_the_page_tells_what_distractors_do(rows: list[Row]) -> None:
    study = small_study((), conditions=(PLAIN, MIXED), methods=("self-sorting", "prompt alone"), seeds=(0, 1))
    text = as_markdown(protocol_sections(study.protocol, rows, {}))
    assert "| self-sorting | 0.5 | 4 | 1.000 [1.000, 1.000] | 1.000 [1.000, 1.000] | +0.000 [0.000, 0.000] | 1.000 |" in text
    assert re.search(r"\| Eyes \| disc \| Bright \| \d \| 1.000 \| 1.000 \|", text)
    assert re.search(r"\| Eyes \| disc \| Dark \| \d \| 0.000 \| 0.000 \|", text)
    bright = [row for row in rows if "Dark" not in row.case]
    bright = [replace(row, sure=((0.5 - 0.4 * row.seed, 0.0),)) if row.stray else row for row in bright]
    text_of_bright = as_markdown(protocol_sections(study.protocol, bright, {}))
    shares = re.search(r"\| self-sorting \| 0.5 .* \| 1.000 \[1.000, 1.000\] \| (\S+) \[\S+ \S+ \|\n", text_of_bright)
    sure = {row.case: row.seed == 0 for row in bright if row.stray}
    assert shares is not None
    assert float(shares[1]) == pytest.approx(np.mean([*sure.values()]), abs=1e-3)
    assert "truth and prediction empty" not in text
    timed = [replace(row, seconds=0.5) for row in rows]
    text_of_times = as_markdown(protocol_sections(study.protocol, timed, {}))
    assert "| sets | self-sorting | 4 | 2.50 (3.0) |" in text_of_times, "distractors take their time, too"
    assert [str(group) for group in group_rows(rows, study.protocol)] == [
        "sets, one frame prompted, mask",
        "sets, one frame prompted, mask, 50% distractors",
    ]
    worse = [replace(row, dice_propagated=0.25) if row.distractors and not row.stray else row for row in rows]
    text = as_markdown(protocol_sections(study.protocol, worse, {}))
    assert "| 1.000 [1.000, 1.000] | 0.250 [0.250, 0.250] | -0.750 [-0.750, -0.750] | 0.125 |" in text
    plain = as_markdown(protocol_sections(study.protocol, [row for row in rows if not row.distractors], {}))
    assert "False finds" not in plain


def test_figures_are_of_answers_without_distractors(rows: list[Row], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    protocol = small_study((), conditions=(PLAIN, MIXED), methods=("self-sorting", "prompt alone"), seeds=(0, 1)).protocol
    assert write_figures(protocol, [row for row in rows if row.distractors], tmp_path) == []
    assert [path.name for path in write_figures(protocol, rows, tmp_path)] == ["spread-sets.png", "reliability-sets.png"]


def test_an_image_that_does_not_show_it_is_no_part_of_the_dice(rows: list[Row]) -> None:
    study = small_study((), conditions=(PLAIN, MIXED), methods=("self-sorting", "prompt alone"), seeds=(0, 1))
    blank = [replace(row, case="blank", dice_propagated=0.0, volume_error=float("inf")) for row in rows if row.case == "1"]
    text = as_markdown(protocol_sections(study.protocol, [*rows, *blank], {}))
    assert "| self-sorting | 0.5 | 4 | 1.000 [1.000, 1.000] |" in text


def test_methods_meet_distractors_in_the_order_of_the_draw(
    sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_brightness(monkeypatch)
    seen: list[tuple[list[int], int]] = []

    class Noted:
        """A method that finds nothing, and notes the order."""

        def on_images(self, inputs: MethodInputs, images: list[np.ndarray], prompts: FramePrompts) -> MethodAnswer:
            seen.append((list(inputs.order), len(images)))
            return MethodAnswer([np.zeros(image.shape[:2], bool) for image in images])

    monkeypatch.setattr(answer, "find_method", lambda _: Noted())
    study = small_study((sets["eyes"], sets["bright"]), conditions=(PLAIN, MIXED))
    run_study(replace(study, structures=1), tmp_path / "out")
    (plain, few), (mixed, more) = seen[:2]
    assert (few, more) == (4, 6)
    assert [i for i in mixed if i < 4] == plain
    assert sorted(mixed) == list(range(6))


def test_what_cannot_be_mixed_is_named(sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_brightness(monkeypatch)
    study = small_study((sets["eyes"], sets["volumes"]), conditions=(PLAIN, MIXED))
    found = run_study(replace(study, structures=1), tmp_path / "out")
    assert {row.kind for row in found.rows} == {"set"}
    assert found.skipped == {
        "Liver": "distractors are mixed into sets of images alone",
        "Eyes disc": "there is no other set of images to take distractors from",
    }


def test_other_lenders_make_another_study(sets: dict[str, Path]) -> None:
    one = small_study((sets["eyes"], sets["bright"]), conditions=(PLAIN, MIXED))
    assert one.described() != replace(one, data=(sets["eyes"], sets["dark"])).described()
    plain = small_study((sets["eyes"], sets["bright"]), conditions=(PLAIN,))
    assert plain.described() == replace(plain, data=(sets["eyes"],)).described()


def test_the_protocol_asks_without_and_with() -> None:
    protocol = PROTOCOLS["distractors"]
    assert [(each.distractors, each.images) for each in protocol.conditions] == [(0.0, None), (0.5, None)]
    assert {"self-sorting", "fifo", "greedy", "prompt alone"} == {*protocol.methods}

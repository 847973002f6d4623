"""Studies: the truth scores as the truth, what cannot be measured is named, and a run that was stopped goes on."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medical_sam2.errors import ConfigError, PromptError
from medical_sam2.evaluate import answer, job, scene
from medical_sam2.evaluate.job import Network
from medical_sam2.evaluate.methods.named import METHODS
from medical_sam2.evaluate.presets import PRESETS, spread, trimmed
from medical_sam2.evaluate.prompting import Person
from medical_sam2.evaluate.protocols import PROTOCOLS, Condition, Protocol, protocol
from medical_sam2.evaluate.run import DESCRIPTION, LINES, run, run_all
from medical_sam2.evaluate.study import Outcome, Study
from medical_sam2.segmenter import Segmenter
from tests.backbones import Brightness
from tests.data.nnunet import blob, picture_set, put, volume_set

ALL = Condition(prompt="mask", volume=1.0, images=1.0)


def forget() -> None:
    """What earlier tests had loaded, from other folders of the same names."""
    for cache in (job.data_set, scene._scene, scene._loaded, answer._answered, answer._direction, answer._network):
        cache.cache_clear()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, ...]:
    """A set of volumes, and one of pictures of which the last shows nothing; answered by a known network."""
    forget()
    known = Segmenter(Brightness(32), device="cpu", precision="fp32")
    monkeypatch.setattr(answer, "_network", lambda _: known)
    pictures = picture_set(tmp_path / "Dataset002_Eyes")
    put(pictures / "labelsTr" / "eye2.png", blob((40, 50), {}))
    put(pictures / "imagesTr" / "eye2_0000.png", blob((40, 50, 3), {}))
    return volume_set(tmp_path / "Dataset001_Liver"), pictures


def study(data: tuple[Path, ...], condition: Condition = ALL, **changes: object) -> Study:
    described = Protocol("small", "For a test.", conditions=(condition,), methods=("self-sorting",))
    return Study(replace(described, **changes), data, Network(), "0" * 64)  # type: ignore[arg-type]


def test_truth_as_prediction_is_perfect_everywhere(data: tuple[Path, ...], tmp_path: Path) -> None:
    found = run(study(data), tmp_path / "out")
    scored = [row for row in found.rows if not row.empty]
    assert [row.kind for row in scored] == ["volume"] * 2 + ["set"] * 4
    assert {(row.dice, row.iou, row.hausdorff95, row.surface_dice, row.volume_error) for row in scored} == {(1, 1, 0, 1, 0)}
    assert {row.dice_prompted for row in scored} == {1}
    assert [(row.case, row.structure) for row in found.rows if row.empty] == [("eye2", "disc"), ("eye2", "cup")]
    assert {row.unit for row in scored if row.kind == "volume"} == {"mm"}
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = rng.random((4, 9, 8)) < 0.4
        told = np.arange(4) < 2
        whole = answer.measured(truth, truth, (3.0, 0.5, 0.7), 1.0, {"prompted": told, "propagated": ~told})
        assert (whole["dice"], whole["hausdorff95"], whole["dice_prompted"], whole["iou_propagated"]) == (1, 0, 1, 1)


def test_prompted_and_propagated_frames_are_apart(data: tuple[Path, ...], tmp_path: Path) -> None:
    methods = ("without memory", "fifo")
    found = run(study(data[:1], Condition("mask", None, None), methods=methods, watch=True), tmp_path / "out")
    alone, tracked = found.rows[:2]
    assert (alone.frames, alone.prompted, alone.dice_prompted, alone.dice_propagated) == (8, 1, 1.0, 0.0)
    assert 0 < alone.dice < 1
    assert tracked.prompted == 1
    assert len(tracked.sure) > 0
    assert not math.isnan(tracked.dice_propagated)


def test_a_stopped_run_goes_on(data: tuple[Path, ...], tmp_path: Path) -> None:
    told: list[str] = []
    out = tmp_path / "out"
    whole = run(study(data), out, on_done=lambda each: told.append(f"{each.done}/{each.total} {each.share:.2f} {each.what}"))
    assert told == [
        "0/4 0.00 nothing yet",
        "1/4 0.36 Liver case0 liver",
        "2/4 0.73 Liver case1 liver",
        "3/4 0.86 Eyes disc",
        "4/4 1.00 Eyes cup",
    ]
    lines = (out / LINES).read_bytes()
    (out / LINES).write_bytes(lines[:-40])
    again = run(study(data), out)
    assert again.fresh == 1
    assert _timeless(again) == _timeless(whole)
    assert len((out / LINES).read_text().splitlines()) == 4
    assert run(study(data), out).fresh == 0
    with pytest.raises(ConfigError, match="another protocol"):
        run(study(data, seeds=(1,)), out)
    assert json.loads((out / DESCRIPTION).read_text())["protocol"]["seeds"] == [0]


def _timeless(outcome: Outcome) -> str:
    return repr([replace(row, seconds=0.0) for row in outcome.rows])  # nan is not equal to itself, its words are


def test_what_is_not_measured_is_named(data: tuple[Path, ...], tmp_path: Path) -> None:
    put(data[0] / "labelsTr" / "case0.nii.gz", blob((24, 20, 8), {}))
    put(data[0] / "imagesTs" / "case7_0000.nii.gz", blob((24, 20, 8), {}))
    found = run(study(data[:1]), tmp_path / "out")
    assert found.skipped == {"Liver case0 liver": "the structure is not in this case", "Liver case7": "it has no label map"}
    assert not found.failed


def test_frames_of_a_smaller_share_are_among_those_of_a_larger() -> None:
    truths = [np.pad(np.ones((2 + t % 5, 3), bool), ((1, 9 - t % 5), (2, 4))) for t in range(40)]
    truths[3] = np.zeros_like(truths[0])

    def person(share: float | None, seed: int = 0) -> Person:
        return Person(truths, Condition(volume=share), "box", of_volume=True, seed=seed, case="a")

    def frames(share: float | None, seed: int = 0) -> set[int]:
        return set(person(share, seed).frames)

    assert frames(0.1) <= frames(0.3) <= frames(1.0) == set(range(40)) - {3}
    assert len(frames(None)) == len(frames(1e-9)) == 1
    assert len({min(frames(None, seed)) for seed in range(9)}) > 1
    with pytest.raises(PromptError, match="single row"):
        assert Person([np.zeros((4, 4), bool)], Condition(), "box", of_volume=True, seed=0, case="a").frames


def test_what_is_said_on_a_frame_does_not_depend_on_the_others() -> None:
    truths = [np.pad(np.ones((6, 7), bool), 4)] * 5
    person = Person(truths, Condition(care="lay"), "box", of_volume=True, seed=0, case="a")
    both, one = person.say([1, 3]), person.say([3])
    np.testing.assert_array_equal(both[3].box_xyxy, one[3].box_xyxy)
    assert not np.array_equal(both[1].box_xyxy, both[3].box_xyxy)


def test_what_protocols_share_is_answered_once(data: tuple[Path, ...], tmp_path: Path) -> None:
    known = answer._network(Network())
    one, other = study(data[:1]), study(data[:1], name="other", methods=("+ resampling", "self-sorting"), watch=True)
    found = run_all([one, other], [tmp_path / "one", tmp_path / "other"])
    assert [each.fresh for each in found] == [2, 4]
    assert {row.method for row in found[1].rows} == {"+ resampling", "self-sorting"}
    scores = [[(row.case, row.dice, row.iou) for row in each.rows if row.method == "self-sorting"] for each in found]
    assert scores[0] == scores[1]
    assert len(known.network.counts.decoded) <= 2 * 8, "each slice of each case once"


def test_suggested_frames_are_as_many_as_chance_takes(data: tuple[Path, ...], tmp_path: Path) -> None:
    chance, suggested = (
        run(study(data, Condition("mask", 0.6, 0.6, choice=choice)), tmp_path / choice) for choice in ("random", "suggest")
    )
    for one, other in zip(chance.rows, suggested.rows, strict=True):
        assert (one.case, one.structure, one.choice, other.choice) == (other.case, other.structure, "random", "suggest")
    counts = [[row.prompted for row in each.rows if row.kind == "volume"] for each in (chance, suggested)]
    assert counts[0] == counts[1]
    sums = [sum(row.prompted for row in each.rows if row.structure == "disc") for each in (chance, suggested)]
    assert sums[0] == sums[1]


def test_presets_leave_out_and_change_nothing_else() -> None:
    whole = PROTOCOLS["frequency"]
    assert trimmed(whole, PRESETS["full"]) == whole
    quick = trimmed(whole, PRESETS["quick"])
    assert [(each.volume, each.choice) for each in quick.conditions] == [
        (0.05, "random"),
        (1.0, "random"),
        (0.05, "suggest"),
    ]
    assert trimmed(PROTOCOLS["universal"], PRESETS["quick"]).methods == PROTOCOLS["universal"].methods
    cares = {(each.prompt, each.care) for each in trimmed(PROTOCOLS["noise"], PRESETS["quick"]).conditions}
    assert cares == {(prompt, care) for prompt in ("click", "box", "mask") for care in ("none", "lay")}
    assert spread([1, 2, 3, 4, 5], 3) == [1, 3, 5]
    assert (spread([1, 2], 5), spread([1, 2], 1), spread([1, 2], None)) == ([1, 2], [1], [1, 2])


def test_protocols_are_complete_and_told_apart() -> None:
    assert len({each.digest for each in PROTOCOLS.values()}) == len(PROTOCOLS)
    assert all(method in METHODS for each in PROTOCOLS.values() for method in each.methods)
    universal = PROTOCOLS["universal"]
    assert (universal.conditions[0].share("volume"), universal.conditions[0].share("set")) == (0.25, 0.3)
    assert protocol("universal", views="six").digest != universal.digest
    with pytest.raises(ConfigError, match="did you mean 'noise'"):
        protocol("noize")

"""The benchmark of speed runs the same weights here and there, and tells what it measured."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import speed_run as run
import speed_scene as scene
from medical_sam2.errors import ConfigError
from speed import main
from speed_own import WAYS
from speed_peers import official
from speed_report import markdown, picture
from speed_run import KEPT, PEER, Measured, Part, Plan, Timed, measure

SMALL = Plan(sizes=(64,), objects=(2,), frames=1)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(run, "SETTLE", 1)
        patch.setitem(scene.SIZES, "tiny", (8, (1, 2, 7, 2)))
        patch.setattr(run, "SIDE", 64)
        return measure(SMALL)


def test_the_same_weights_give_the_same_masks(measured: Measured) -> None:
    apart = {row.name: row.apart for row in measured.timed}
    assert list(apart) == [PEER, *(each for name in WAYS for each in (name, f"{name}, {KEPT}"))]
    assert apart[PEER] == 0
    assert 0 <= apart["fp32"] == apart[f"fp32, {KEPT}"] < 1e-4
    assert apart["bf16"] == apart[f"bf16, {KEPT}"] > 1e-5
    assert 1e-5 < apart["OpenVINO, bf16"] < 0.1


def test_every_part_is_counted(measured: Measured) -> None:
    counted = {(part.name, part.verb): part.operations for part in measured.parts}
    assert len(counted) == 12
    assert all(counted.values())
    assert counted["OpenVINO, bf16", "encode"] == counted["bf16", "encode"]


def known(seconds: float) -> Measured:
    own = (seconds, 0.3, 3 * seconds)
    runs = ((PEER, (0.9, 0.9, 2.7)), ("bf16", own), (f"bf16, {KEPT}", own))
    rows = tuple(Timed(256, 8, name, s, s, 0.0) for name, s in runs)
    parts = tuple(Part(256, 8, "bf16", "bf16", verb, seconds / 4, 10**9) for verb in ("encode", "fuse", "decode", "memorise"))
    return Measured("tiny", "a machine", rows, parts, {"bf16": 1e11})


def test_ratios_stand_beside_their_goals() -> None:
    text = markdown(known(0.2))
    assert "| 256 | 8 | transformers' session | 900 | 1.00 | 1.00 |  |  | 0.0e+00 |" in text
    assert "| 256 | 8 | **bf16** | 300 | 3.00 | 4.50 | 22.50 | 3.5 | 0.0e+00 |" in text  # medians over frames, and of ratios
    assert "| 256 | 8 | **bf16, features kept** | 300 | 3.00 | 4.50 | 30.00 | 5.0 | 0.0e+00 |" in text
    assert "| 256 | 8 | bf16 | fuse | 50 | 25% | 1.0 | 20% |" in text


def test_the_picture_is_one() -> None:
    assert picture(known(0.2)).startswith(b"\x89PNG")


def test_a_folder_without_the_official_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="build_sam"):
        official(tmp_path, "tiny", scene.network, scene.scene(64, 1, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        ["--objects", "0"],
        ["--size", "100"],
        ["--frames", "0"],
        ["--output", "nowhere"],
        ["--encoder", "huge"],
        ["--run", "fp8"],
    ],
)
def test_what_cannot_be_measured_is_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_command_writes_a_table_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Plan] = []

    def measured(plan: Plan, _: object, keep: Callable[[Measured], None]) -> None:
        asked.append(plan)
        keep(known(0.2))

    monkeypatch.setattr(run, "measure", measured)
    threads = torch.get_num_threads()
    assert main(["--size", "64", "--objects", "1", "2", "--run", "bf16", "-o", str(tmp_path)]) == 0
    assert (asked[0].sizes, asked[0].objects, asked[0].runs) == ((64,), (1, 2), ("bf16",))
    assert torch.get_num_threads() == threads
    assert "speed.png" in (tmp_path / "speed.md").read_text()
    assert (tmp_path / "speed.png").stat().st_size > 0


def test_what_was_measured_before_an_interruption_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: Plan, __: object, keep: Callable[[Measured], None]) -> None:
        keep(known(0.2))
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "measure", interrupted)
    main(["-o", str(tmp_path)])
    assert "**bf16**" in (tmp_path / "speed.md").read_text()
    main([])
    assert "**bf16**" in capsys.readouterr().out


def test_each_scene_is_handed_out_as_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_scene", lambda _, one: ([Timed(one.size, one.objects, PEER, (1.0,), (1.0,), 0.0)], {}))
    monkeypatch.setattr(run, "SIDE", 64)
    kept: list[Measured] = []
    last = measure(Plan(sizes=(32, 64), objects=(1,)), keep=kept.append)
    assert [[row.size for row in each.timed] for each in kept] == [[32], [32, 64]]
    assert last is kept[-1]

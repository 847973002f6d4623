"""Protocols: complete, told apart by their digests, and a preset leaves out without changing anything else."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from medical_sam2.errors import ConfigError
from medical_sam2.evaluate.methods import METHODS, describe_method
from medical_sam2.evaluate.protocols import (
    LADDER,
    PRESETS,
    PROTOCOLS,
    Condition,
    Preset,
    find_protocol,
    spread_evenly,
    trim_protocol,
)
from medical_sam2.evaluate.study import NetworkSettings, Study


def test_presets_leave_out_and_change_nothing_else() -> None:
    whole = PROTOCOLS["frequency"]
    assert trim_protocol(whole, PRESETS["full"]) == whole
    quick = trim_protocol(whole, PRESETS["quick"])
    assert [(each.volume, each.choice) for each in quick.conditions] == [
        (0.05, "random"),
        (1.0, "random"),
        (0.05, "suggest"),
    ]
    assert trim_protocol(PROTOCOLS["one-prompt"], PRESETS["quick"]).methods == PROTOCOLS["one-prompt"].methods
    cares = {(each.prompt, each.care) for each in trim_protocol(PROTOCOLS["noise"], PRESETS["quick"]).conditions}
    assert cares == {(prompt, care) for prompt in ("click", "box", "mask") for care in ("none", "lay")}
    assert spread_evenly([1, 2, 3, 4, 5], 3) == [1, 3, 5]
    assert (spread_evenly([1, 2], 5), spread_evenly([1, 2], 1), spread_evenly([1, 2], None)) == ([1, 2], [1], [1, 2])


def test_protocols_are_complete_and_told_apart() -> None:
    assert len({each.digest for each in PROTOCOLS.values()}) == len(PROTOCOLS)
    assert all(method in METHODS for each in PROTOCOLS.values() for method in each.methods)
    universal = PROTOCOLS["universal"]
    assert (universal.conditions[0].share("volume"), universal.conditions[0].share("set")) == (0.25, 0.3)
    assert find_protocol("universal", views="three").digest != universal.digest
    with pytest.raises(ConfigError, match="did you mean 'noise'"):
        find_protocol("noize")


def test_what_an_earlier_run_left_is_gone_on_with() -> None:
    """The digest of a study holds the names of classes and of their fields: another name, and no earlier run goes on."""
    later = {"transunet", "segdiff", "ensdiff", "medsegdiff"}
    methods = (*(name for name in METHODS if name not in later), "other=python {image} {prompts} {output}")
    study = Study(replace(PROTOCOLS["universal"], methods=methods), (), NetworkSettings(), "0" * 64)
    description = json.dumps(study.described(), sort_keys=True)
    assert PROTOCOLS["universal"].digest.startswith("a60a21bb0e5c0d6c")
    assert sha256(description.encode()).hexdigest().startswith("609ba747297b74a6"), description


def test_tables_1_and_3_are_of_six_views_and_presets_with_fewer_ask_what_six_gain() -> None:
    assert [name for name, each in PROTOCOLS.items() if each.views == "six"] == ["universal", "ablation"]
    whole, study, quick = (find_protocol("universal", preset=PRESETS[name]) for name in ("full", "study", "quick"))
    assert [each.views for each in (whole, study, quick)] == ["six", "one", "one"]
    others = [tuple(method for method in each.methods if "view" not in method) for each in (whole, study, quick)]
    assert others[0] == others[1] == others[2]
    compared = [[method for method in each.methods if "view" in method] for each in (whole, study, quick)]
    assert compared == [["one view"], ["six views"], []]
    given = find_protocol("universal", preset=PRESETS["quick"], views="three", methods=("one view", "fifo"))
    assert (given.views, given.methods) == ("three", ("one view", "fifo")), "what the command says comes first"


def test_prompts_are_asked_for_in_steps_up_to_all_frames() -> None:
    study = find_protocol("frequency", preset=PRESETS["study"])
    assert [each.volume for each in study.conditions if each.choice == "random"] == [0.05, 0.1, 0.25, 0.5, 0.75, 1.0]
    assert study.methods == ("self-sorting", "fifo")
    assert "pin='first'" in describe_method(METHODS["self-sorting"])
    assert all("pin='first'" in describe_method(METHODS[step]) for step in LADDER)


CHANGES: list[dict[str, object]] = [
    {"name": "other"},
    {"conditions": (Condition("mask"),)},
    {"methods": ("fifo",)},
    {"seeds": (1,)},
    {"views": "three"},
    {"fusion": "vote"},
    {"tolerance_mm": 2.0},
    {"watch": True},
    {"limit_s": 60.0},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_each_part_of_a_protocol_counts_in_its_digest(change: dict[str, object]) -> None:
    protocol = PROTOCOLS["universal"]
    assert replace(protocol, **change).digest != protocol.digest  # type: ignore[arg-type]
    assert replace(protocol).digest == protocol.digest


def test_a_protocol_of_ones_own_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from medical_sam2.evaluate.protocols import Condition, Protocol\n"
        'MINE = Protocol("mine", "Ours.", conditions=(Condition("click", 0.5, 0.5, care="lay"),))\nOTHER = 3\n'
    )
    found = find_protocol(f"{tmp_path}/mine.py:MINE", views="three", methods=("fifo",))
    assert (found.name, found.views, found.methods, found.conditions[0].care) == ("mine", "three", ("fifo",), "lay")
    with pytest.raises(ConfigError, match="is no protocol"):
        find_protocol(f"{tmp_path}/mine.py:OTHER")


def test_a_preset_keeps_both_ends_and_leaves_seeds_out() -> None:
    protocol = replace(PROTOCOLS["one-prompt"], conditions=PROTOCOLS["frequency"].conditions)
    trimmed = trim_protocol(protocol, Preset("", seeds=2, conditions=4))
    assert trimmed.seeds == (0, 1)
    assert [each.volume for each in trimmed.conditions if each.choice == "random"][::3] == [0.05, 1.0]
    assert sum(each.choice == "suggest" for each in trimmed.conditions) == 2
    assert spread_evenly(range(10), 4) == [0, 3, 6, 9]

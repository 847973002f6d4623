"""Protocols: complete, told apart by their digests, and a preset leaves out without changing anything else."""

import json
from dataclasses import replace
from hashlib import sha256

import pytest

from medical_sam2.errors import ConfigError
from medical_sam2.evaluate.methods.named import METHODS
from medical_sam2.evaluate.protocols import PRESETS, PROTOCOLS, find_protocol, spread_evenly, trim_protocol
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
    assert trim_protocol(PROTOCOLS["universal"], PRESETS["quick"]).methods == PROTOCOLS["universal"].methods
    cares = {(each.prompt, each.care) for each in trim_protocol(PROTOCOLS["noise"], PRESETS["quick"]).conditions}
    assert cares == {(prompt, care) for prompt in ("click", "box", "mask") for care in ("none", "lay")}
    assert spread_evenly([1, 2, 3, 4, 5], 3) == [1, 3, 5]
    assert (spread_evenly([1, 2], 5), spread_evenly([1, 2], 1), spread_evenly([1, 2], None)) == ([1, 2], [1], [1, 2])


def test_protocols_are_complete_and_told_apart() -> None:
    assert len({each.digest for each in PROTOCOLS.values()}) == len(PROTOCOLS)
    assert all(method in METHODS for each in PROTOCOLS.values() for method in each.methods)
    universal = PROTOCOLS["universal"]
    assert (universal.conditions[0].share("volume"), universal.conditions[0].share("set")) == (0.25, 0.3)
    assert find_protocol("universal", views="six").digest != universal.digest
    with pytest.raises(ConfigError, match="did you mean 'noise'"):
        find_protocol("noize")


def test_what_an_earlier_run_left_is_gone_on_with() -> None:
    """The digest of a study holds the names of classes and of their fields: another name, and no earlier run goes on."""
    methods = (*METHODS, "other=python {image} {prompts} {output}")
    study = Study(replace(PROTOCOLS["universal"], methods=methods), (), NetworkSettings(), "0" * 64)
    description = json.dumps(study.described(), sort_keys=True)
    assert PROTOCOLS["universal"].digest.startswith("b11636a620807d70")
    assert sha256(description.encode()).hexdigest().startswith("ce45539ba6d6b713"), description

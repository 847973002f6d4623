"""Tables: a case counts once, empty and skipped rows are counted apart, methods are compared on the same cases."""

import math
from dataclasses import replace

from medical_sam2.evaluate.protocols import Condition, Protocol
from medical_sam2.evaluate.report import as_markdown
from medical_sam2.evaluate.study import Row
from medical_sam2.evaluate.tables import format_interval, format_number, group_rows, mean_by_case, protocol_sections

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
    assert "- CT liver: 1 answer, truth and prediction empty\n" in text


def test_a_distance_that_is_infinite_is_counted_beside_the_mean() -> None:
    rows = [row("a", "fifo", 0.8), row("b", "fifo", 0.0), row("c", "fifo", 0.0)]
    text = as_markdown(protocol_sections(PROTOCOL, rows, {}))
    assert "| fifo | 3 | 0.267 [0.000, 0.800] | – | – | – | 2.000 mm (2) |" in text


def test_a_set_is_one_answer_and_memory_that_cannot_be_told_is_left_out() -> None:
    images = [replace(row(case, "fifo", 0.5), kind="set", seconds=0.5, peak_mb=30.0) for case in "abc"]
    volumes = [replace(row(case, "self-sorting", 0.5), seconds=s, peak_mb=mb) for case, s, mb in (("a", 2, 9), ("b", 4, 11))]
    text = as_markdown(protocol_sections(PROTOCOL, [*images, *volumes, replace(row("c", "fifo", 0.5), seconds=1.0)], {}))
    assert "| sets | fifo | 1 | 1.50 (1.5) | 30 (30) |" in text
    assert "| volumes | self-sorting | 2 | 3.00 (4.0) | 10 (11) |" in text
    assert "| volumes | fifo | 1 | 1.00 (1.0) | – |" in text
    clicked = replace(row("a", "fifo", 0.5), clicks=1)
    assert "Time and memory" not in as_markdown(protocol_sections(PROTOCOL, [row("a", "fifo", 0.5), clicked], {}))


def test_settings_are_apart() -> None:
    rows = [
        row("a", "fifo", 0.5),
        replace(row("a", "fifo", 0.6), kind="set"),
        replace(row("a", "fifo", 0.7), share="one"),
        replace(row("a", "fifo", 0.8), care="lay"),
        replace(row("a", "fifo", 0.9), choice="suggest"),
    ]
    found = group_rows(rows, PROTOCOL)
    assert [str(setting) for setting in found] == [
        "volumes, 25% of the frames prompted, box",
        "sets, 25% of the frames prompted, box",
        "volumes, one frame prompted, box",
        "volumes, 25% of the frames prompted, box, lay hand",
        "volumes, 25% of the frames prompted, suggested, box",
    ]
    assert all(list(methods) == ["self-sorting", "fifo"] for methods in found.values()), "in the order of the protocol"


def test_data_sets_that_name_different_prompts_are_one_setting() -> None:
    rows = [row("a", "fifo", 0.5), replace(row("b", "fifo", 0.6), prompt="click")]
    (setting,) = group_rows(rows, replace(PROTOCOL, conditions=(Condition("own"),)))
    assert setting.prompt == "as given"
    assert len(group_rows(rows, PROTOCOL)) == 2


def test_methods_are_compared_on_cases_that_both_have_answered() -> None:
    rows = [row(case, "self-sorting", 0.9) for case in "abcdef"] + [row(case, "fifo", 0.4) for case in "bcdefg"]
    text = as_markdown(protocol_sections(PROTOCOL, rows, {}))
    assert "| fifo | +0.500 [0.500, 0.500] | 0.062 | 5 |" in text


def test_structures_have_a_row_each_and_a_column_for_each_method() -> None:
    rows = [row("a", "fifo", 0.5), row("b", "fifo", 0.7), row("a", "self-sorting", 0.9, structure="spleen")]
    rows.append(replace(row("a", "fifo", 0.3), choice="suggest"))
    text = as_markdown(protocol_sections(PROTOCOL, rows, {}))
    assert "| CT | liver | box | none | 0.25 | – | 0.600 |" in text
    assert "| CT | spleen | box | none | 0.25 | 0.900 | – |" in text
    assert "| CT | liver | box | none | 0.25, suggested | – | 0.300 |" in text


def test_numbers_that_are_not_known_are_dashes() -> None:
    assert (format_number(math.nan), format_number(0.12345), format_number(2.0, 1)) == ("–", "0.123", "2.0")
    assert format_interval([]) == "– [–, –]"
    assert format_interval([0.5, 0.5]) == "0.500 [0.500, 0.500]"

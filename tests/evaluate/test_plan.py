"""Plans: what is alike is done once, the largest cases first, nothing is lost."""

from dataclasses import replace
from pathlib import Path

import pytest

from medical_sam2.evaluate.cases import open_data_set
from medical_sam2.evaluate.protocols import PRESETS, PROTOCOLS, trim_protocol
from medical_sam2.evaluate.run import TOGETHER, UNKNOWN, _count_slices, group_by_answer, make_chunks, plan_studies
from medical_sam2.evaluate.study import NetworkSettings, Study
from tests.data.nnunet import picture_set, volume_set


@pytest.fixture
def studies(tmp_path: Path) -> list[Study]:
    open_data_set.cache_clear()
    data = (picture_set(tmp_path / "Dataset002_Eyes"), volume_set(tmp_path / "Dataset001_Liver", cases=3))
    return [
        Study(
            trim_protocol(each, PRESETS["full"]),
            data,
            NetworkSettings(),
            "0" * 64,
            cases=2,
            images=2,
            structures=1,
            draws=place == 0,
        )
        for place, each in enumerate(PROTOCOLS.values())
    ]


def test_what_is_alike_is_done_once(studies: list[Study], tmp_path: Path) -> None:
    plan = plan_studies(studies, [tmp_path / each.protocol.name for each in studies])
    jobs = [study for own in plan.jobs for study in own]
    assert {(each.case, each.cases, each.structure) for each in jobs} == {
        ("case0", (), "liver"),
        ("case2", (), "liver"),
        ("", ("eye0", "eye2"), "disc"),
    }
    assert {each.others for each in jobs} == {("case1",), ("eye1",)}
    alike = group_by_answer(jobs)
    assert sum(len(own) - 1 for own in alike.values()) == len(jobs)
    assert len(alike) < len(jobs)
    for first, *own in alike.values():
        assert first.protocol.watch == any(each.protocol.watch for each in own)
        assert (first.sketch is None) == all(each.sketch is None for each in own)
    assert plan.left_out == {"Eyes": "1 of 3 images; structures cup", "Liver": "1 of 3 volumes"}


def test_views_are_asked_of_volumes_alone(studies: list[Study], tmp_path: Path) -> None:
    universal = next(study for study in studies if study.protocol.name == "universal")
    (jobs,) = plan_studies([universal], [tmp_path]).jobs
    asked = {kind: {each.method for each in jobs if bool(each.case) == (kind == "volume")} for kind in ("volume", "set")}
    assert asked["volume"] - asked["set"] == {"one view"}
    assert asked["set"] < asked["volume"]
    one = replace(universal, protocol=replace(universal.protocol, name="other", views="one"))
    both = [job for own in plan_studies([universal, one], [tmp_path, tmp_path]).jobs for job in own]
    shared = {first.case for first, *own in group_by_answer(both).values() if len(own) == 2 and first.method == "self-sorting"}
    assert shared == {""}, "of sets, views change nothing"


def test_lots_keep_a_case_together_and_begin_with_the_largest(studies: list[Study], tmp_path: Path) -> None:
    plan = plan_studies(studies, [tmp_path / each.protocol.name for each in studies])
    jobs = [own[0] for own in group_by_answer([study for own in plan.jobs for study in own]).values()]
    lots = make_chunks(jobs)
    assert sorted(map(repr, jobs)) == sorted(repr(each) for lot in lots for each in lot.jobs)
    assert all(len(lot.jobs) <= TOGETHER and len({each.case for each in lot.jobs}) == 1 for lot in lots)
    places = [lot.jobs[0].case for lot in lots]
    assert places == sorted(places, key=["case0", "case2", ""].index), "8 slices before 2 images"


def test_volumes_of_too_many_slices_are_passed_over_and_named(studies: list[Study], tmp_path: Path) -> None:
    plan = plan_studies([replace(studies[0], slices=7, structures=None)], [tmp_path])
    assert {each.blank.dataset for each in plan.jobs[0]} == {"Eyes"}
    assert plan.left_out == {"Eyes": "1 of 3 images", "Liver": "3 of 3 volumes (3 of more than 7 slices)"}


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_headers_tell_how_many_slices_there_are(tmp_path: Path, ending: str) -> None:
    open_data_set.cache_clear()
    folder = volume_set(tmp_path / "Dataset001_Liver", cases=1, ending=ending)
    assert _count_slices(open_data_set(folder).cases[0]) == 8


def test_what_cannot_be_read_is_left_to_those_who_say_why(tmp_path: Path) -> None:
    open_data_set.cache_clear()
    folder = volume_set(tmp_path / "Dataset001_Liver", cases=1)
    (folder / "imagesTr" / "case0_0000.nii.gz").write_bytes(b"no volume")
    assert _count_slices(open_data_set(folder).cases[0]) == UNKNOWN

"""What tests of studies share: a network whose answers are plain, a small study, and nothing left of earlier ones."""

from dataclasses import replace
from pathlib import Path

import pytest

from medical_sam2.evaluate import answer, cases
from medical_sam2.evaluate.protocols import Condition, Protocol
from medical_sam2.evaluate.run import run_studies
from medical_sam2.evaluate.study import NetworkSettings, Study, StudyResult
from medical_sam2.segmenter import Segmenter
from tests.backbones import Brightness

LOAD_NETWORK = answer.load_network  # before a test puts another in its place
ALL = Condition(prompt="mask", volume=1.0, images=1.0)


def forget_cases() -> None:
    """What earlier tests had loaded, from other folders of the same names."""
    for cache in (
        cases.open_data_set,
        cases.load_case,
        cases.load_images,
        answer.answer_once,
        answer.embed_frame,
        LOAD_NETWORK,
    ):
        cache.cache_clear()


def use_brightness(monkeypatch: pytest.MonkeyPatch) -> Segmenter:
    """Answers of this test come from a network that outlines what is as bright as what was prompted."""
    forget_cases()
    known = Segmenter(Brightness(32), device="cpu", precision="fp32")  # type: ignore[arg-type]
    monkeypatch.setattr(answer, "load_network", lambda _: known)
    return known


def small_study(data: tuple[Path, ...], condition: Condition = ALL, **changes: object) -> Study:
    described = Protocol("small", "For a test.", conditions=(condition,), methods=("self-sorting",))
    return Study(replace(described, **changes), data, NetworkSettings(), "0" * 64)  # type: ignore[arg-type]


def run_study(study: Study, output: Path, **how: object) -> StudyResult:
    return run_studies([study], [output], **how)[0]  # type: ignore[arg-type]

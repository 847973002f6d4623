"""What is wrong with how a nasty file was treated: its exit code, its words, its memory, the geometry that was reported."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medical_sam2 import io
from medical_sam2.errors import MedicalSam2Error

LIMIT_S = 10.0
MM = 0.3
CANARY = re.compile(r"CANARY(?!_)|8675309|19010203")
BALLS = {300: (22.0, 0.0, 0.0), 500: (0.0, 18.0, 0.0), 700: (0.0, 0.0, 14.0)}
BALL_MM3 = 4 / 3 * np.pi * 6**3
HARMLESS = "same value"
"""A constant image deserves its warning, whatever else the row is about."""


@dataclass
class Row:
    """A line of the manifest."""

    id: str
    path: Path
    cls: str
    expect: str
    facts: dict = field(default_factory=dict)
    user: int | None = None


@dataclass
class Run:
    """What a process did."""

    code: int
    out: str
    err: str
    seconds: float
    rss_mb: float
    left: list[str]


def judge(row: Row, run: Run, folder: Path) -> list[str]:
    """Everything that deviates."""
    warnings = [line for line in run.err.splitlines() if line.startswith("warning: ")]
    problems = []
    if run.code < 0 or run.code not in (0, 2, 3, 4):
        problems.append("killed by its time limit" if run.seconds > LIMIT_S else f"exit code {run.code}")
    if "Traceback" in run.err or "defect" in run.err:
        problems.append("traceback")
    if CANARY.search(run.out.replace(str(row.path), "") + run.err.replace(str(row.path), "")):
        problems.append("says something of a person")
    if run.left:
        problems.append(f"left files: {run.left}")
    limit = row.facts.get("max_rss_mb")
    if limit and run.rss_mb > limit:
        problems.append(f"{run.rss_mb:.0f} MB of memory, {limit} allowed")
    if run.code != 0:
        problems += judge_refusal(row, run)
    else:
        problems += judge_acceptance(row, run, warnings)
        problems += geometry(row, json.loads(run.out), folder) if row.cls not in ("model", "state") else []
    return problems


def judge_refusal(row: Row, run: Run) -> list[str]:
    codes = {"ok": (), "ok_warn": (2, 3, 4), "ask": (4,), "refuse": (2, 3), "clean": (2, 3, 4)}[row.expect]
    problems = [] if run.code in codes else ["it was refused" if row.expect == "ok" else f"exit code {run.code}"]
    lines = [line for line in run.err.splitlines() if not line.startswith("warning: ")]
    if len(lines) != 1 or ";" not in run.err:
        problems.append("no single line 'FILE: what; what to do'")
    name = row.path.name.split("\n")[0]
    if name not in run.err and row.path.parent.name not in run.err:
        problems.append("the file is not named")
    if row.expect == "ask" and "--" not in run.err:
        problems.append("no option is named")
    if run.out:
        problems.append("something was printed although it was refused")
    return problems + must_mention(row, run.err)


def judge_acceptance(row: Row, run: Run, warnings: list[str]) -> list[str]:
    if row.expect in ("ask", "refuse"):
        return ["it was accepted"]
    if row.expect == "ok" and (told := [line for line in warnings if HARMLESS not in line]):
        return [f"warns: {told}"]
    if row.expect == "ok_warn":
        named = bool(warnings) and all(row.path.name.split("\n")[0] in line for line in warnings)
        return ([] if named else ["no warning names the file"]) + must_mention(row, run.err)
    return []


def must_mention(row: Row, text: str) -> list[str]:
    pattern = row.facts.get("must_mention")
    said = text.replace(str(row.path), "") if pattern not in (row.path.name, None) else text
    return [] if pattern is None or re.search(pattern, said) or re.search(pattern, text) else [f"does not mention {pattern}"]


def geometry(row: Row, said: dict, folder: Path) -> list[str]:
    """Shape and affine as the manifest has them (DICOM slices in either order), and the phantom's balls in their places."""
    problems = []
    if "shape" in row.facts and said["shape"] != row.facts["shape"]:
        problems.append(f"shape {said['shape']}")
    if "affine" in row.facts and said["kind"] == "volume":
        expected = np.array(row.facts["affine"])
        turned = expected.copy()
        turned[:3, 3] += turned[:3, 2] * (said["shape"][2] - 1)
        turned[:3, 2] *= -1
        got = np.array(said["affine"])
        choices = [expected, turned] if "dicom" in str(row.path) else [expected]
        if min(np.abs(got - choice).max() for choice in choices) > 1e-3:
            problems.append(f"affine {got.tolist()}")
    if row.cls != "label" and said["kind"] == "volume":
        problems += balls(row)
    return problems


def balls(row: Row) -> list[str]:
    """Centroids in mm of the balls that can be told apart, for grids of at most 3 mm."""
    try:
        volume = io.load(row.path)
    except MedicalSam2Error as error:
        return [f"a second reading was refused: {error}"]
    if "value_at_S" in row.facts:
        near = volume.array[tuple(np.rint(volume.to_voxel((0.0, 0.0, 14.0))).astype(int))]
        if abs(float(near) - row.facts["value_at_S"]) > row.facts.get("tol", 0.51):
            return [f"value at S is {near}"]
    middle = (volume.affine @ [*((np.array(volume.shape) - 1) / 2), 1.0])[:3]
    if "affine" not in row.facts or np.linalg.norm(middle) > 3:
        return []  # the file places the phantom elsewhere, or holds only a part of it
    problems = []
    for value, place in BALLS.items():
        where = np.argwhere(volume.array == value)
        complete = 0.85 < len(where) * volume.voxel_mm3 / BALL_MM3 < 1.15
        centre = (volume.affine @ [*where.mean(axis=0), 1.0])[:3] if complete else place
        if np.linalg.norm(centre - np.array(place)) > MM:
            problems.append(f"ball {value} at {np.round(centre, 2).tolist()}")
    return problems

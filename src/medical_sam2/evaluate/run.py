"""Runs a study: every structure of every case, by every method, under every condition; stopped and gone on with at any time."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from medical_sam2 import io
from medical_sam2.data.dataset import Case, DataSet
from medical_sam2.data.prepare.processes import each
from medical_sam2.errors import ConfigError
from medical_sam2.evaluate.answer import Job, Network, answer, data_set
from medical_sam2.evaluate.methods import METHODS, settings
from medical_sam2.evaluate.protocols import Protocol
from medical_sam2.evaluate.rows import Row, packed, unpacked, write_rows
from medical_sam2.io.atomic import write_bytes
from medical_sam2.plugins import find

DESCRIPTION, LINES = "protocol.json", "rows.jsonl"


@dataclass(frozen=True)
class Study:
    """What is measured, on what, with what.

    Args:
        protocol: the description.
        data: folders of nnU-Net raw data sets.
        network: that answers.
        weights_sha256: of its weights.
        cases: volumes of each data set, spread over its list; all unless given.
        images: of each set, spread over its list; all unless given.
    """

    protocol: Protocol
    data: tuple[Path, ...]
    network: Network
    weights_sha256: str
    cases: int | None = None
    images: int | None = None

    def described(self) -> dict[str, Any]:
        """What decides about an answer; answers of equal descriptions may be put together."""
        network = {name: value for name, value in asdict(self.network).items() if name not in ("weights", "threads")}
        return {
            "protocol": self.protocol.described(),
            "methods": {name: settings(find(METHODS, name, what="method")) for name in self.protocol.methods},
            "network": {**network, "sha256": self.weights_sha256},
            "images": self.images,
        }


@dataclass(frozen=True)
class Done:
    """One more answer.

    Args:
        done: answers so far.
        total: of all.
        what: data set, case and structure.
    """

    done: int
    total: int
    what: str


@dataclass(frozen=True)
class Outcome:
    """What a study found.

    Args:
        rows: of all answers.
        skipped: case and structure → why it was not measured, once.
        failed: the same for defects of this program, which a further run tries again.
        fresh: answers that this run made.
    """

    rows: tuple[Row, ...]
    skipped: Mapping[str, str]
    failed: Mapping[str, str]
    fresh: int


def run(study: Study, output: Path, *, workers: int = 1, on_done: Callable[[Done], None] | None = None) -> Outcome:
    """Measure what is not measured yet, and write rows as they come; `rows.csv` and `rows.json` at the end.

    Args:
        study: what.
        output: folder, made if need be; that of an earlier run of the same study is gone on with.
        workers: processes.
        on_done: told of each answer.

    Raises:
        ConfigError: the folder holds another study; two data sets share a name.
    """
    jobs, skipped = _jobs(study)
    output.mkdir(parents=True, exist_ok=True)
    _check(study, output / DESCRIPTION)
    lines = output / LINES
    known = unpacked(_mended(lines)) if lines.exists() else {}
    left, failed = [job for job in jobs if job.task not in known], dict[str, str]()
    with lines.open("a", encoding="utf-8") as stream:
        for count, found in enumerate(each(answer, left, workers), start=1):
            if found.result is None:
                failed[_name(found.job.blank)] = found.error if isinstance(found.error, str) else type(found.error).__name__
            else:
                known[found.job.task] = found.result
                stream.write(packed(found.job.task, found.result))
                stream.flush()
            if on_done is not None:
                on_done(Done(count, len(left), _name(found.job.blank)))
    rows = [row for job in jobs for row in known.get(job.task, ())]
    skipped |= {_name(row): row.skipped for row in rows if row.skipped}
    write_rows(output, rows)
    return Outcome(tuple(rows), skipped, failed, len(left) - len(failed))


def _jobs(study: Study) -> tuple[list[Job], dict[str, str]]:
    """Case by case, so that each is loaded once; and the cases that have no truth."""
    names: dict[str, Path] = {}
    jobs: list[Job] = []
    skipped: dict[str, str] = {}
    for folder in study.data:
        data = data_set(folder)
        if names.setdefault(data.name, folder) != folder:
            raise ConfigError(
                f"two data sets are called {data.name}", "change the name of one in its dataset.json", subject=folder
            )
        skipped |= {f"{data.name} {case.identifier}": "it has no label map" for case in data.cases if case.label is None}
        labelled = [case for case in data.cases if case.label is not None]
        of_set = data.kind == "set"
        chosen = tuple(case.identifier for case in spread(labelled, study.images if of_set else study.cases))
        if chosen:
            jobs += list(_of(study, folder, data, [("", chosen)] if of_set else [(case, ()) for case in chosen]))
    return jobs, skipped


def _of(study: Study, folder: Path, data: DataSet, units: Sequence[tuple[str, tuple[str, ...]]]) -> Iterator[Job]:
    protocol = study.protocol
    for case, images in units:
        for structure in data.structures:
            for condition in protocol.conditions:
                for seed in protocol.seeds:
                    for method in protocol.methods:
                        yield Job(folder, case, structure, method, condition, seed, protocol, study.network, images)


def spread(cases: Sequence[Case], most: int | None) -> list[Case]:
    """At most so many cases, at equal steps through the list."""
    if most is None or most >= len(cases):
        return list(cases)
    return [cases[int(i)] for i in np.linspace(0, len(cases) - 1, most).round()]


def _check(study: Study, path: Path) -> None:
    """The description in the folder must be that of this study; a new folder gets it."""
    described = study.described()
    digest = sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    if path.exists():
        if io.load_json(path, newest=None).get("sha256") != digest:
            problem = "this folder holds results of another protocol, network or method"
            raise ConfigError(problem, "choose another folder, or remove it", subject=path.parent)
        return
    told = {"sha256": digest, "data": [data_set(folder).name for folder in study.data], **described}
    write_bytes(path, json.dumps(told, indent=1).encode())


def _mended(lines: Path) -> Path:
    """The file without a last line that was cut off: what follows would be glued to it."""
    text = lines.read_bytes()
    if text and not text.endswith(b"\n"):
        write_bytes(lines, text[: text.rfind(b"\n") + 1])
    return lines


def _name(row: Row) -> str:
    return " ".join(word for word in (row.dataset, row.case, row.structure) if word)

"""Whoever is killed while writing leaves the old or the new behind, never half of either, nor one beside the other."""

import ast
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import medical_sam2
from medical_sam2 import io
from medical_sam2.data.cases import PoolReader, TrainingCase
from medical_sam2.data.prepare import PrepareSettings, prepare
from medical_sam2.data.prepare.units import DataSource
from medical_sam2.errors import WeightsError
from medical_sam2.io.labels import read_label_map, save_label_map
from medical_sam2.io.prompt_file import load_prompts, save_prompts
from medical_sam2.model.backbone import Features
from medical_sam2.model.weights import load_backbone, save_backbone
from medical_sam2.preview import save as save_preview
from medical_sam2.prompts import Mask
from medical_sam2.server.datastore import Datastore
from medical_sam2.server.segmentation import SessionResult, load_result, save_result
from medical_sam2.tracking.encoding import FeatureStore, content_key
from medical_sam2.train.loop import METRICS, RunRecords, StepReport, load_checkpoint, save_checkpoint
from medical_sam2.volume import Segmentation, Volume
from tests.data.nnunet import volume_set
from tests.killing import each_death
from tests.model.conftest import tiny
from tests.pools import write_case

SHAPE = (9, 8, 7)
LIKE = Volume(np.arange(504, dtype=np.float32).reshape(SHAPE), np.eye(4))


def labels(version: int) -> np.ndarray:
    """An object that is elsewhere in each version."""
    array = np.zeros(SHAPE, np.uint8)
    array[version : version + 3, 2:5, 1:4] = version
    return array


@dataclass(frozen=True)
class Writer:
    """What writes version 1 or 2 into a folder, and what a reader finds there."""

    write: Callable[[Path, int], object]
    read: Callable[[Path], Any]


def image(name: str) -> Writer:
    return Writer(lambda f, v: io.save(labels(v), f / name, LIKE), lambda f: io.load_labels(f / name, LIKE).array.tobytes())


def raw(name: str, write: Callable[[Path, int], object]) -> Writer:
    return Writer(lambda f, v: write(f / name, v), lambda f: (f / name).read_bytes())


def kept_features(folder: Path) -> FeatureStore:
    return FeatureStore(folder / "kept", "weights")


def features(version: int) -> Features:
    part = torch.full((1, 2, 4, 4), float(version))
    return Features(part, (part, part), part.mean((2, 3)))


def stored(folder: Path) -> list[float]:
    """Versions whose features are found."""
    found = [kept_features(folder).load(content_key(torch.full((3, 2, 2), float(v))), torch.device("cpu")) for v in (1, 2)]
    return [float(one.top_BChw.mean()) for one in found if one is not None]


def pool(folder: Path, version: int) -> None:
    """Case 0, then case 2."""

    (folder / "pool").mkdir(exist_ok=True)
    for index in (0, 2)[:version]:
        array = np.full((3, 4, 4), index + 1, np.uint8)
        write_case(folder / "pool", index, TrainingCase(array[..., None], array, ((1,),), "volume", "flat"))


def cases(folder: Path) -> list[int]:
    reader = PoolReader(folder / "pool")
    return [int(reader.load(i).images.max()) for i in range(len(reader.entries))]


WRITERS = {
    **{suffix: image(f"labels{suffix}") for suffix in (".nii.gz", ".nii", ".nrrd", ".mha")},
    "label map": Writer(
        lambda f, v: save_label_map(labels(v)[..., 2], f / "a.png"), lambda f: read_label_map(f / "a.png").tobytes()
    ),
    **{
        suffix: raw(f"preview{suffix}", lambda path, v: save_preview(path, LIKE, Segmentation(labels(v), LIKE.affine, {})))
        for suffix in (".png", ".jpg", ".gif")
    },
    "prompts": Writer(
        lambda f, v: save_prompts(f / "said.json", [Mask(labels(v) > 0, v, 2)], {}, LIKE),
        lambda f: [(m.object, m.array_ijk.tobytes()) for m in load_prompts(f / "said.json", LIKE).prompts],  # type: ignore[union-attr]
    ),
    "checkpoint": Writer(
        lambda f, v: save_checkpoint(f / "last", {"a": torch.full((9,), v)}, {"step": str(v)}),
        lambda f: [(facts, tensors["a"].tolist()) for tensors, facts in [load_checkpoint(f / "last")]],
    ),
    "result of a session": Writer(
        lambda f, v: save_result(f / "1.npz", SessionResult((labels(v),), (), None, (str(v),))),
        lambda f: [(one.labels[0].tobytes(), one.warnings) for one in [load_result(f / "1.npz")]],
    ),
    "features": Writer(
        lambda f, v: [
            kept_features(f).keep(content_key(torch.full((3, 2, 2), float(n))), features(n)) for n in range(1, v + 1)
        ],
        stored,
    ),
    "pool": Writer(pool, cases),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_killed_writer_leaves_the_old_or_the_new(name: str, tmp_path: Path) -> None:
    writer, folders = WRITERS[name], [tmp_path / word for word in ("old", "new", "now")]
    for version, folder in enumerate(folders[:2], 1):
        folder.mkdir()
        for each in range(1, version + 1):
            writer.write(folder, each)
    old, new = map(writer.read, folders[:2])
    assert old != new
    found: list[Any] = []
    died = each_death(
        lambda: (shutil.rmtree(folders[2], ignore_errors=True), shutil.copytree(folders[0], folders[2])),
        lambda: writer.write(folders[2], 2),
        lambda: found.append(writer.read(folders[2])),
    )
    assert died >= 2
    assert found[0] == old
    assert found[-1] == new
    assert all(one in (old, new) for one in found)


def row(step: int) -> StepReport:
    return StepReport(step, 1.0, 0.5, 0.5, 0.1, 1e-3, 2.0)


def test_curves_survive_a_resume_that_is_killed_anywhere(tmp_path: Path) -> None:
    import_module("torch.utils.tensorboard")  # once, and not after each of the deaths
    path = tmp_path / METRICS

    def begin() -> None:
        shutil.rmtree(tmp_path / "tensorboard", ignore_errors=True)
        lines = [json.dumps(vars(row(step))) for step in range(1, 25)]
        path.write_text("\n".join(lines) + '\n{"step": 25, "lo')

    def resume() -> None:
        with RunRecords(tmp_path, 20) as records:
            records.add(row(21))
            records.add(row(22))

    seen: list[list[int]] = []
    died = each_death(begin, resume, lambda: seen.append([steps(line) for line in path.read_text().splitlines()]))
    assert died >= 6
    before = list(range(1, 21))
    assert all(found[:20] == before for found in seen)
    assert seen[0] == [*range(1, 25), -1]
    assert seen[-1] == list(range(1, 23))


def steps(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except ValueError:
        return -1


def test_weights_never_lie_beside_settings_of_another_network(tmp_path: Path) -> None:
    folder, other = tmp_path / "weights", tiny()
    other.resize(128)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    networks = [tiny().requires_grad_(False), other.requires_grad_(False)]
    signatures: list[tuple[int, float] | None] = []

    def judge() -> None:
        try:
            found = load_backbone(str(folder))
        except WeightsError:
            signatures.append(None)
        else:
            signatures.append((found.image_size, float(next(iter(found.state_dict().values())).sum())))

    def begin() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        save_backbone(networks[0], folder)

    assert each_death(begin, lambda: save_backbone(networks[1], folder), judge) >= 4
    expected = {(n.image_size, float(next(iter(n.state_dict().values())).sum())) for n in networks}
    assert {signatures[0], signatures[-1]} == expected
    assert set(signatures) == expected | {None}


def test_a_preparation_with_other_settings_that_is_killed_leaves_nothing_that_an_earlier_report_vouches_for(
    tmp_path: Path,
) -> None:
    source = DataSource(volume_set(tmp_path / "in", cases=1))
    output, before = tmp_path / "out", tmp_path / "before"

    def contents() -> dict[str, bytes]:
        files = [path for path in output.rglob("*") if path.is_file() and ".prepare" not in path.parts]
        return {str(path.relative_to(output)): path.read_bytes() for path in files}

    prepare(source, output, PrepareSettings(window_hu=(-100, 100)))
    whole = contents()
    shutil.copytree(output, before)

    def judge() -> None:
        prepare(source, output, PrepareSettings(window_hu=(-100, 100)))
        assert contents() == whole

    died = each_death(
        lambda: (shutil.rmtree(output), shutil.copytree(before, output)),
        lambda: prepare(source, output, PrepareSettings(window_hu=(-150, 150))),
        judge,
    )
    assert died >= 10


def test_labels_of_a_datastore_that_are_killed(tmp_path: Path) -> None:
    """Nothing that was kept changes, what is found is whole, and the next version has a number of its own."""
    library, given = tmp_path / "library", tmp_path / "given.nii.gz"
    given.write_bytes(bytes(range(256)) * 40)
    (library / "labels" / "final").mkdir(parents=True)
    (library / "ct.nii.gz").write_bytes(b"image")
    datastore = Datastore(library)
    first = datastore.save_label(datastore.get("ct"), "final", given, ".nii.gz", {"label_info": []})

    def judge() -> None:
        versions = datastore.labels()["ct"]["final"]
        assert {each.path.read_bytes() for each in versions} == {given.read_bytes()}
        assert len({each.version for each in versions}) == len(versions)
        assert versions[0] == first
        assert versions[0].info == {"label_info": []}

    died = each_death(
        lambda: None, lambda: datastore.save_label(datastore.get("ct"), "final", given, ".nii.gz", {"label_info": []}), judge
    )
    assert died >= 4
    assert datastore.label("ct", "final").version > 1


ASIDE = {  # writers of their own: what they write is new, in a folder that is thrown away, appended, or moved into its place
    "io/atomic.py",
    "io/archive.py",
    "io/safe_open.py",
    "model/weights.py",
    "evaluate/methods/__init__.py",
    "evaluate/run.py",
    "evaluate/answer.py",  # to /proc, which is no file: memory is watched from then on
    "train/loop.py",  # metrics.jsonl is appended
    "server/api.py",
    "server/worker_process.py",
    "server/session_store.py",
    "server/state.py",
    "server/monai_label.py",
    "server/datastore.py",
    "server/app.py",
    "cli/__init__.py",
}


def test_everybody_else_writes_through_one_door() -> None:
    """A call that opens a file for writing outside of `io.atomic` is new: is it killed in a test here?"""
    package = Path(medical_sam2.__file__).parent
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and opens_for_writing(node)
    }
    assert found <= ASIDE
    assert "io/atomic.py" in found


def opens_for_writing(call: ast.Call) -> bool:
    named, method = isinstance(call.func, ast.Name), isinstance(call.func, ast.Attribute)
    name = call.func.id if named else call.func.attr if method else ""  # type: ignore[union-attr]
    owner = call.func.value.id if method and isinstance(call.func.value, ast.Name) else ""  # type: ignore[union-attr]
    words = [arg.value for arg in [*call.args, *(k.value for k in call.keywords)] if isinstance(arg, ast.Constant)]
    modes = [word for word in words if isinstance(word, str) and word and set(word) <= set("rwaxbt+")]
    if name == "open":
        return owner == "os" or any(set(mode) & set("wax+") for mode in modes)
    into_a_stream = bool(call.args) and isinstance(call.args[0], ast.Name) and call.args[0].id == "stream"
    return (
        name == "write_text"
        or (name == "write_bytes" and method and owner != "atomic")
        or (owner == "np" and name.startswith("save") and not into_a_stream)
    )

"""Surfaces: closed, outward, in the right place and of the right size, as a foreign program reads them."""

from pathlib import Path

import numpy as np
import pytest
import trimesh

from medical_sam2 import io
from medical_sam2.errors import ConfigError, FormatError
from medical_sam2.io import atomic
from medical_sam2.volume import Segmentation, Volume
from tests.phantoms import directions, rotation

SHAPE = (40, 44, 30)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def ball(code: str, tilt_deg: float, centre_ijk: tuple[int, int, int] = (19, 22, 14), radius_mm: float = 12) -> Segmentation:
    """A ball, in millimetres, in a grid of any orientation."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(np.radians(tilt_deg)) @ directions(code) * (0.9, 0.8, 1.3)
    affine[:3, 3] = 12.25, -70.1, 31
    away = (np.indices(SHAPE).reshape(3, -1).T - centre_ijk) @ affine[:3, :3].T
    inside = (np.linalg.norm(away, axis=1) <= radius_mm).reshape(SHAPE)
    return Segmentation(inside.astype(np.uint8) * 5, affine, {5: "round thing"}, colours={5: (10, 200, 30)})


def read(path: Path) -> trimesh.Trimesh:
    found = trimesh.load(path, force="mesh")
    assert isinstance(found, trimesh.Trimesh)
    found.merge_vertices(digits_vertex=4)
    return found


@pytest.mark.parametrize("suffix", [".stl", ".ply", ".obj"])
@pytest.mark.parametrize(("code", "tilt_deg"), [("RAS", 0), ("LAS", 0), ("SAR", 23), ("PIL", 40)])
def test_a_ball_is_closed_outward_and_where_it_was(tmp_path: Path, suffix: str, code: str, tilt_deg: float) -> None:
    given = ball(code, tilt_deg)
    like = Volume(given.labels, given.affine)
    notes = io.save(given, tmp_path / f"ball{suffix}", like)
    lost = {".stl": "names and colours", ".ply": "names", ".obj": "colours"}[suffix]
    changed = ['OBJ calls object 5 "round_thing", since its name does not fit'] * (suffix == ".obj")
    assert notes == [f"ball{suffix} does not hold {lost}", *changed]
    found = read(tmp_path / f"ball{suffix}")
    assert found.is_watertight
    assert found.is_winding_consistent
    voxels_mm3 = np.count_nonzero(given.labels) * like.voxel_mm3
    assert found.volume == pytest.approx(voxels_mm3, rel=0.02), "positive: triangles are counterclockwise from outside"
    centre = (LPS @ given.affine @ [19, 22, 14, 1])[:3]
    np.testing.assert_allclose(found.center_mass, centre, atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(found.vertices - centre, axis=1), 12, atol=1.1)
    assert b"SPACE=LPS" in (tmp_path / f"ball{suffix}").read_bytes()[:200]


def test_an_object_at_the_edge_is_closed(tmp_path: Path) -> None:
    labels = np.ones((3, 2, 4), np.uint8)
    io.save(Segmentation(labels, np.eye(4)), tmp_path / "all.ply", Volume(labels, np.eye(4)))
    found = read(tmp_path / "all.ply")
    assert found.is_watertight
    np.testing.assert_allclose(found.bounds, [[-2.5, -1.5, -0.5], [0.5, 0.5, 3.5]])


def test_several_objects_that_overlap(tmp_path: Path) -> None:
    one, other = ball("RAS", 0), ball("RAS", 0, (22, 22, 14), 6)
    layers = (one.labels, (other.labels > 0).astype(np.uint8) * 7)
    both = Segmentation(one.labels, one.affine, {5: "organ", 7: "tumour in it"}, layers=layers)
    like = Volume(one.labels, one.affine)
    assert io.save(both, tmp_path / "a.obj", like) == ['OBJ calls object 7 "tumour_in_it", since its name does not fit']
    names = [line.split()[1] for line in (tmp_path / "a.obj").read_text().splitlines() if line.startswith("o ")]
    assert names == ["organ", "tumour_in_it"]
    parts = trimesh.load(tmp_path / "a.obj", force="scene", split_objects=True, group_material=False).geometry
    for name, meant in zip(names, (one, other), strict=True):
        part = parts[name]
        part.merge_vertices(digits_vertex=4)
        assert part.volume == pytest.approx(np.count_nonzero(meant.labels) * like.voxel_mm3, rel=0.06)
    for suffix in (".stl", ".ply"):
        with pytest.raises(FormatError, match=r"2 objects are outlined.*--separate"):
            io.save(both, tmp_path / f"a{suffix}", like)
        assert not (tmp_path / f"a{suffix}").exists()


def test_colours_reach_ply(tmp_path: Path) -> None:
    given = ball("RAS", 0)
    io.save(given, tmp_path / "a.ply", Volume(given.labels, given.affine))
    assert set(map(tuple, trimesh.load(tmp_path / "a.ply", process=False).visual.vertex_colors[:, :3].tolist())) == {
        (10, 200, 30)
    }


@pytest.mark.parametrize("suffix", [".stl", ".ply", ".obj", ".seg.nrrd"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ball("RAS", 0)
    target = tmp_path / f"a{suffix}"
    target.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(KeyboardInterrupt):
        io.save(given, target, Volume(given.labels, given.affine))
    assert [file.name for file in tmp_path.iterdir()] == [target.name]
    assert target.read_bytes() == b"old"


def test_nothing_has_no_surface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Segmentation(np.zeros((3, 3, 3), np.uint8), np.eye(4))
    like = Volume(empty.labels, empty.affine)
    with pytest.raises(FormatError, match="nothing is outlined"):
        io.save(empty, tmp_path / "a.obj", like)
    monkeypatch.setattr("medical_sam2.io.meshes.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'medical-sam2\[meshes\]'"):
        io.registry.OBJ.check_source(like, tmp_path / "a.obj")
    assert list(tmp_path.iterdir()) == []

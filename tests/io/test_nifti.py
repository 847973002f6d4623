"""NIfTI files as they should not be: refused, or read right with a warning, never anything else."""

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medical_sam2 import io
from medical_sam2.errors import AmbiguousError, FormatError, GeometryError, InputError, ResourceError
from medical_sam2.io.voxels import grid_distance
from medical_sam2.volume import Volume

ARRAY = np.random.default_rng(0).integers(-500, 900, (4, 5, 6)).astype(np.int16)
AFFINE = np.array([[-2.0, 0, 0, 7], [0, 2.5, 0, -3], [0, 0, 3, 1], [0, 0, 0, 1]])


def raw(array: np.ndarray = ARRAY, affine: np.ndarray | None = AFFINE, order: str = "<", **fields: object) -> bytes:
    """An uncompressed NIfTI-1 file with some header fields set by hand."""
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    if affine is not None:
        header.set_sform(affine, 1)
        header.set_qform(affine, 1)
    header["vox_offset"], header["scl_slope"] = 352, 1
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + bytes(4) + array.astype(array.dtype.newbyteorder(order)).tobytes(order="F")


def load(data: bytes, name: str = "image.nii", **options: object) -> Volume:
    with TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        return io.load(path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders(order: str) -> None:
    volume = load(raw(order=order))
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_array_equal(volume.affine, AFFINE)
    assert volume.array.dtype == np.int16
    assert volume.array.dtype.isnative
    assert volume.warnings == ()


@given(share=st.floats(0, 1, exclude_max=True), packed=st.booleans())
@settings(max_examples=60)
def test_a_cut_file_is_refused_wherever_it_is_cut(share: float, packed: bool) -> None:
    data = gzip.compress(raw()) if packed else raw()
    with pytest.raises(FormatError, match=r"truncated|incomplete|corrupt|empty|format|magic"):
        load(data[: int(share * len(data))], "image.nii.gz" if packed else "image.nii")


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=80)
def test_a_flipped_bit_in_gzip_is_refused_or_harmless(place: float, bit: int) -> None:
    data = bytearray(gzip.compress(raw(), mtime=0))
    data[int(place * len(data))] ^= 1 << bit
    try:
        volume = load(bytes(data), "image.nii.gz")
    except InputError:
        return
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_array_equal(volume.affine, AFFINE)


@given(place=st.integers(0, 351), value=st.integers(0, 255))
@settings(max_examples=150)
def test_no_header_byte_makes_more_than_an_error_of_ours(place: int, value: int) -> None:
    data = bytearray(raw())
    data[place] = value
    try:
        volume = load(bytes(data))
    except (InputError, AmbiguousError, ResourceError):
        return
    assert np.isfinite(volume.affine).all()
    assert volume.array.ndim == 3


@pytest.mark.parametrize("tail", [bytes(1000), b"other data"])
def test_what_follows_the_gzip_stream_does_no_harm(tail: bytes) -> None:
    volume = load(gzip.compress(raw()) + tail, "image.nii.gz")
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert len(volume.warnings) == (0 if tail == bytes(1000) else 1)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"vox_offset": np.nan}, "vox_offset"),
        ({"vox_offset": -352}, "vox_offset"),
        ({"vox_offset": 100}, "vox_offset"),
        ({"vox_offset": 348}, "vox_offset"),
        ({"vox_offset": 1e9}, "truncated"),
        ({"datatype": 0}, "datatype"),
        ({"datatype": 32}, "complex"),
        ({"datatype": 77}, "datatype"),
        ({"dim": [3, -4, 5, 6, 1, 1, 1, 1]}, "dimensions"),
        ({"dim": [3, 4, 5, 0, 1, 1, 1, 1]}, "dimensions"),
        ({"dim": [0, 4, 5, 6, 1, 1, 1, 1]}, "dimensions"),
        ({"dim": [8, 4, 5, 6, 1, 1, 1, 1]}, "dimensions"),
        ({"dim": [5, 4, 5, 2, 1, 3, 1, 1]}, "dimensions"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "truncated"),
        ({"scl_slope": np.inf}, "infinite"),
        ({"magic": b"abc"}, "magic"),
    ],
)
def test_impossible_headers_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(FormatError, match=said):
        load(raw(**fields))


@pytest.mark.parametrize("size", [0, 8, 20, -16, 2**31 - 16])
def test_extensions_of_impossible_size_are_refused(size: int) -> None:
    data = bytearray(raw(vox_offset=384))
    block = bytes([1, 0, 0, 0]) + np.int32(size).tobytes() + bytes(28)
    with pytest.raises(FormatError, match="extension"):
        load(bytes(data[:348]) + block[:36] + bytes(data[352:]))


def test_an_extension_is_passed_over() -> None:
    block = bytes([1, 0, 0, 0]) + np.array([32, 6], np.int32).tobytes() + b"n" * 24
    volume = load(raw(vox_offset=384)[:348] + block + ARRAY.tobytes(order="F"))
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert volume.warnings == ()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_affines_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(GeometryError, match="affine"):
        load(raw(srow_x=[value, 0, 0, 0]))


def test_a_singular_affine_is_refused() -> None:
    with pytest.raises(GeometryError, match="affine"):
        load(raw(srow_z=[0, 0, 0, 5]))


def test_a_quaternion_longer_than_one_is_refused() -> None:
    with pytest.raises(GeometryError, match="qform"):
        load(raw(quatern_b=1.0, quatern_c=0.9, sform_code=0))


@pytest.mark.parametrize("code", [-1, 6, 257])
def test_a_code_that_the_standard_does_not_know_says_nothing_of_a_place(code: int) -> None:
    with pytest.raises(GeometryError, match=f"sform_code is {code}"):
        load(raw(sform_code=code))
    assert "qform_code is" in load(raw(qform_code=code)).warnings[0]


@pytest.mark.parametrize("fields", [{"quatern_b": 1.0, "quatern_c": 0.9}, {"pixdim": [1, 0, 2.5, 3, 1, 1, 1, 1]}])
def test_a_broken_qform_beside_an_sform_is_told(tmp_path: Path, fields: dict[str, object]) -> None:
    (tmp_path / "a.nii").write_bytes(raw(**fields))
    volume = io.load(tmp_path / "a.nii")
    np.testing.assert_array_equal(volume.affine, AFFINE)
    assert "qform cannot be used" in volume.warnings[0]
    io.save(ARRAY % 2, tmp_path / "b.nii", volume)
    np.testing.assert_allclose(nib.load(tmp_path / "b.nii").get_qform(), AFFINE, atol=1e-5)


def test_sizes_that_contradict_the_sform_are_told() -> None:
    volume = load(raw(pixdim=[1, 1, 1, 1, 1, 1, 1, 1], qform_code=0))
    np.testing.assert_array_equal(volume.affine, AFFINE)
    assert "pixdim 1 × 1 × 1" in volume.warnings[0]


def test_forms_that_turn_an_axis_must_be_chosen() -> None:
    data = raw(srow_x=[2.0, 0, 0, 7])
    with pytest.raises(AmbiguousError, match="--geometry-from sform"):
        load(data)
    assert load(data, geometry_from="sform").orientation == "RAS"
    np.testing.assert_allclose(load(data, geometry_from="qform").affine, AFFINE)


def test_forms_that_lie_apart_are_told_and_both_are_written(tmp_path: Path) -> None:
    path = tmp_path / "image.nii"
    path.write_bytes(raw(qoffset_x=20.0))
    volume = io.load(path)
    np.testing.assert_array_equal(volume.affine, AFFINE)
    assert ["13 mm apart; the sform is used" in warning for warning in volume.warnings] == [True]
    io.save(ARRAY % 2, tmp_path / "out.nii", volume)
    written = nib.load(tmp_path / "out.nii")
    np.testing.assert_allclose(written.get_qform(), AFFINE, atol=1e-5)
    np.testing.assert_array_equal(written.get_sform(), AFFINE)
    assert min(int(written.header["qform_code"]), int(written.header["sform_code"])) > 0


def test_no_form_is_told_and_stays_so(tmp_path: Path) -> None:
    path = tmp_path / "image.nii"
    path.write_bytes(raw(affine=None, pixdim=[1, 2, 2.5, 3, 1, 1, 1, 1]))
    volume = io.load(path)
    assert "orientation unknown" in volume.warnings[0]
    assert volume.spacing_mm == (2.0, 2.5, 3.0)
    np.testing.assert_array_equal(volume.affine, nib.load(path).affine)
    io.save(ARRAY % 2, tmp_path / "out.nii", volume)
    np.testing.assert_array_equal(io.load(tmp_path / "out.nii").affine, volume.affine)


@pytest.mark.parametrize(("code", "factor"), [(1, 1000.0), (3, 0.001)])
def test_other_units_become_millimetres(tmp_path: Path, code: int, factor: float) -> None:
    path = tmp_path / "image.nii"
    path.write_bytes(raw(xyzt_units=code))
    volume = io.load(path)
    np.testing.assert_allclose(volume.spacing_mm, np.array([2, 2.5, 3]) * factor)
    assert "millimetres" in volume.warnings[0]
    io.save(ARRAY % 2, tmp_path / "out.nii", volume)
    assert io.load(tmp_path / "out.nii").affine.tobytes() == volume.affine.tobytes()


def test_time_points_must_be_chosen() -> None:
    array = np.random.default_rng(1).integers(0, 99, (3, 4, 5, 6)).astype(np.uint8)
    with pytest.raises(AmbiguousError, match="--frame 0"):
        load(raw(array))
    for packed in (False, True):
        data = gzip.compress(raw(array)) if packed else raw(array)
        np.testing.assert_array_equal(load(data, frame=4).array, array[..., 4])
    with pytest.raises(InputError, match="no frame 6"):
        load(raw(array), frame=6)
    np.testing.assert_array_equal(load(raw(array[..., :1])).array, array[..., 0])
    with pytest.raises(InputError, match="no frame 1: there is but one; use 0, or leave it out"):
        load(raw(array[..., :1]), frame=1)


def test_scaling() -> None:
    np.testing.assert_allclose(load(raw(scl_slope=0.5, scl_inter=10.25)).array, ARRAY * 0.5 + 10.25)
    assert load(raw(scl_slope=0)).array.dtype == np.int16
    assert "NaN" in load(raw(scl_slope=np.nan)).warnings[0]
    assert "upside down" in load(raw(scl_slope=-1)).warnings[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_become_background(bad: float) -> None:
    array = ARRAY.astype(np.float32)
    array[1, 2] = bad
    volume = load(raw(array))
    assert volume.warnings[0].startswith("6 of 120 voxels are NaN")
    lowest = np.delete(ARRAY.reshape(20, 6), 1 * 5 + 2, axis=0).min()
    assert (volume.array[1, 2] == lowest).all()
    with pytest.raises(FormatError, match="finite"):
        load(raw(np.full_like(array, bad)))


def test_colour_becomes_grey() -> None:
    colours = np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["R"][0], colours["G"][1] = 200, 100
    volume = load(raw(colours))
    assert "grey" in volume.warnings[0]
    np.testing.assert_array_equal(volume.array[:, 0, 0], [60, 59])


def test_names_do_not_decide(tmp_path: Path) -> None:
    for name, data in (("packed.nii", gzip.compress(raw())), ("plain.nii.gz", raw()), ("image.dat", raw())):
        volume = load(data, name)
        np.testing.assert_array_equal(volume.array, ARRAY)
        assert len(volume.warnings) == (name != "image.dat")


@pytest.mark.parametrize(("suffix", "given"), [("", ".hdr"), ("", ".img"), (".gz", ".hdr"), (".gz", ".img")])
def test_pairs_are_read_by_either_half(tmp_path: Path, suffix: str, given: str) -> None:
    nib.save(nib.Nifti1Pair(ARRAY, AFFINE), tmp_path / f"image.img{suffix}")
    volume = io.load(tmp_path / f"image{given}{suffix}")
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_array_equal(volume.affine, AFFINE)


@pytest.mark.parametrize(("gone", "given"), [(".img", ".hdr"), (".hdr", ".img")])
def test_half_a_pair_is_refused(tmp_path: Path, gone: str, given: str) -> None:
    nib.save(nib.Nifti1Pair(ARRAY, AFFINE), tmp_path / "image.img")
    (tmp_path / f"image{gone}").unlink()
    with pytest.raises(FormatError, match=rf"image{given}: its other half \({gone}\) cannot be read"):
        io.load(tmp_path / f"image{given}")


def test_a_limit_is_kept() -> None:
    with pytest.raises(ResourceError, match="limit"):
        load(gzip.compress(raw(np.zeros((64, 64, 64), np.int16))), "image.nii.gz", max_bytes=100_000)


def test_a_header_that_promises_more_than_gzip_can_hold_needs_no_memory() -> None:
    with pytest.raises(FormatError, match="truncated"):
        load(gzip.compress(raw(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])), "image.nii.gz")


def test_one_copy_is_enough_memory() -> None:
    volume = load(raw())
    assert volume.array.flags.f_contiguous
    assert volume.array.base is not None
    assert volume.array.flags.writeable


def test_bits_that_contradict_the_datatype_are_told() -> None:
    volume = load(raw(bitpix=8))
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert "bitpix says 8 bits, the datatype 16" in volume.warnings[0]


@pytest.mark.parametrize(
    "affine", [np.diag([2.0, 3.0, 1.0, 1.0]), np.array([[0, -2, 0, 5], [3, 0, 0, -7], [0, 0, 1.5, 9], [0, 0, 0, 1.0]])]
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_labels_of_a_picture_have_its_two_dimensions(tmp_path: Path, affine: np.ndarray, suffix: str) -> None:
    """Other programs compare shapes."""
    source, path = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    nib.save(nib.Nifti1Image(np.arange(35 * 51, dtype=np.int16).reshape(35, 51), affine), source)
    volume = io.load(source)
    labels = (volume.array > 900).astype(np.uint8)
    assert labels.shape == (35, 51, 1)
    io.save(labels, path, volume)
    written = nib.load(path)
    assert written.shape == (35, 51)
    assert np.array_equal(written.affine, nib.load(source).affine)
    assert np.array_equal(np.asarray(written.dataobj), labels[..., 0])
    again = io.load_labels(path, volume)
    assert np.array_equal(again.array, labels)
    assert np.array_equal(again.affine, volume.affine)


def test_labels_of_one_slice_or_of_a_time_point_have_three_dimensions(tmp_path: Path) -> None:
    for shape in ((35, 51, 1), (35, 51, 4, 2)):
        nib.save(nib.Nifti1Image(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), AFFINE), tmp_path / "a.nii")
        volume = io.load(tmp_path / "a.nii", frame=1 if len(shape) == 4 else None)
        io.save((volume.array > 900).astype(np.uint8), tmp_path / "b.nii", volume)
        assert nib.load(tmp_path / "b.nii").shape == shape[:3]


@pytest.mark.parametrize(("origin", "wide"), [(120.3, False), (333333.3, True)])
def test_labels_beside_another_format_lie_where_the_image_lies(tmp_path: Path, origin: float, wide: bool) -> None:
    affine = np.diag([0.7, 0.7, 2.5, 1.0])
    affine[:3, :3] = Rotation.from_euler("z", 0.3).as_matrix() @ affine[:3, :3]
    affine[0, 3] = origin
    volume = Volume(np.arange(60, dtype=np.int16).reshape(3, 4, 5), affine)
    io.save(volume.array, tmp_path / "image.nrrd", volume)
    image = io.load(tmp_path / "image.nrrd")
    told = io.save((image.array > 30).astype(np.uint8), tmp_path / "labels.nii.gz", image)
    why = "labels.nii.gz is NIfTI-2, since NIfTI-1 would move voxels by 0.013 mm"
    assert [line.split(";")[0] for line in told] == [why] * wide
    read = io.load_labels(tmp_path / "labels.nii.gz", like=image)
    assert (read.array == (image.array > 30)).all()
    assert grid_distance(read.affine, image.affine, image.shape) < 5e-4
    assert isinstance(nib.load(tmp_path / "labels.nii.gz"), nib.Nifti2Image) == wide


def test_an_axis_too_long_for_the_first_version_is_told(tmp_path: Path) -> None:
    told = io.save(np.ones((32768, 1, 1), np.uint8), tmp_path / "long.nii", Volume(np.zeros((32768, 1, 1)), np.eye(4)))
    assert told == [
        "long.nii is NIfTI-2, since NIfTI-1 has no room for so long an axis; "
        "for programs that do not read it (SimpleITK) save to .nrrd"
    ]
    image = io.load(tmp_path / "long.nii")
    assert io.save(image.array, tmp_path / "again.nii", image) == []


@pytest.mark.parametrize("further", [(1,), (1, 1)])
def test_labels_keep_further_axes_of_a_single_entry(tmp_path: Path, further: tuple[int, ...]) -> None:
    """Other programs compare shapes."""
    nib.save(nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(4, 5, 6, *further), AFFINE), tmp_path / "a.nii")
    volume = io.load(tmp_path / "a.nii")
    labels = (volume.array > 60).astype(np.uint8)
    io.save(labels, tmp_path / "b.nii", volume)
    written, source = nib.load(tmp_path / "b.nii"), nib.load(tmp_path / "a.nii")
    assert written.shape == source.shape == (4, 5, 6, *further)
    assert np.array_equal(written.affine, source.affine)
    assert np.array_equal(np.asarray(written.dataobj).reshape(4, 5, 6), labels)
    assert np.array_equal(io.load_labels(tmp_path / "b.nii", volume).array, labels)

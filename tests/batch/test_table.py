"""Tables of prompts: what a row means, and what is refused with its number."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medical_sam2 import io
from medical_sam2.batch.cases import check_cases, find_cases, find_faulty_rows
from medical_sam2.batch.table import read_table
from medical_sam2.errors import FormatError, InputError, MedicalSam2Error
from medical_sam2.io import load
from medical_sam2.io.registry import Options
from medical_sam2.prompts import Box, Mask, Point
from medical_sam2.strokes import Diameter, Lasso, Scribble, ShapeInterpolation, SliceRange
from tests.io.making import Series

SHAPE, AFFINE = (20, 18, 6), np.array([[-2.0, 0, 0, 40], [0, -2.0, 0, 30], [0, 0, 4.0, -50], [0, 0, 0, 1]])
HEAD = "case,image,object,name,kind,i,j,k,i2,j2,k2"


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)  # type: ignore[attr-defined]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, and a mask in their grid."""
    for name in ("a", "b"):
        save(tmp_path / "scans" / f"{name}.nii.gz", np.ones(SHAPE, np.int16))
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:8, 4:8, 2], mask[10:14, 4:8, 2] = 1, 2
    save(tmp_path / "mask.nii.gz", mask)
    return tmp_path


def table(folder: Path, *rows: str, name: str = "t.csv", head: str = HEAD) -> Path:
    (folder / name).write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return folder / name


def refused(path: Path) -> list[str]:
    """The lines of a table that must be refused, checked as the command does."""
    with pytest.raises(InputError) as caught:
        check_cases(read_table(path, check=lambda cases: find_faulty_rows(cases, Options())), Options(), "one", path)
    return getattr(caught.value, "__notes__", [str(caught.value)])


def test_a_row_is_a_prompt(folder: Path) -> None:
    path = table(
        folder,
        "x,scans/a.nii.gz,1,liver,point,14,12,3,,,",
        "x,scans/a.nii.gz,1,,negative,2,2,3,,,",
        "x,,2,tumour,box,9,9,2,3,4,2",
        "",
        "y,scans/b.nii.gz,,,point,1,1.5,1,,,",
    )
    x, y = read_table(path)
    volume = load(x.image)
    assert x.read_prompts(volume).prompts == (Point((14, 12, 3)), Point((2, 2, 3), 1, False), Box((3, 4, 2), (9, 9, 2), 2))
    assert x.read_prompts(volume).names == {1: "liver", 2: "tumour"}
    assert (y.name, y.image) == ("y", folder / "scans" / "b.nii.gz")
    assert y.read_prompts(volume).prompts == (Point((1, 1.5, 1)),)


def test_the_same_in_other_forms(folder: Path) -> None:
    """Millimetres, tabs, semicolons, JSON lines and free coordinates mean the same click, whatever the file is called."""
    at = AFFINE @ (14, 12, 3, 1)
    forms = [
        table(folder, f"scans/a.nii.gz;point;{at[0]};{at[1]};{at[2]}", head="image;kind;x_mm;y_mm;z_mm"),
        table(folder, "scans/a.nii.gz\tpoint\tn/a\t14 12 3", head="image\tkind\tobject\tcoordinates", name="t.tsv"),
        table(folder, "scans/a.nii.gz\tpoint\t\t14 12 3", head="image\tkind\tobject\tcoordinates", name="tabs.csv"),
        table(folder, "scans/a.nii.gz,point,14 12 3", head="image,kind,coordinates", name="commas.tsv"),
        table(folder, head=json.dumps({"image": "scans/a.nii.gz", "kind": "points", "x": 14, "y": 12, "z": 3}), name="t.jsonl"),
        table(
            folder, head=json.dumps({"image": "scans/a.nii.gz", "kind": "point", "coordinates": [14, 12, 3]}), name="u.jsonl"
        ),
    ]
    for path in forms:
        (case,) = read_table(path)
        (point,) = case.read_prompts(load(case.image)).prompts
        assert isinstance(point, Point)
        assert (case.name, np.round(point.index_ijk, 9).tolist()) == ("a", [14, 12, 3]), path


def test_capitals_of_columns_and_kinds_do_not_count(folder: Path) -> None:
    """As spreadsheets write them; the same prompts, whatever the kind of the table."""
    plain = table(folder, "scans/a.nii.gz,negative_box,1,1,1,4,4,4", head="image,kind,i,j,k,i2,j2,k2", name="plain.csv")
    (expected,) = read_table(plain)
    cells = {"Image": "scans/a.nii.gz", "Kind": "Negative_Box"} | dict(zip("IJK", (1, 1, 1), strict=True))
    cells |= {"I2": 4, "J2": 4, "K2": 4}
    lines = table(folder, head=json.dumps(cells), name="t.jsonl")
    for path in (lines, table(folder, "scans/a.nii.gz,NEGATIVE_BOX,1,1,1,4,4,4", head="Image,KIND,I,J,K,I2,J2,K2")):
        (case,) = read_table(path)
        assert case.read_prompts(load(case.image)).prompts == expected.read_prompts(load(case.image)).prompts


def test_what_is_drawn_by_hand(folder: Path) -> None:
    """In columns, and as lists in JSON lines."""
    line = "4 4 2 9 4 2 9 8 2"
    path = table(
        folder,
        f"scans/a.nii.gz,1,scribble,{line},2,,,,,,",
        f"scans/a.nii.gz,1,negative_lasso,{'1 1 2 3 1 2 3 3 2'},,,,,,,",
        "scans/a.nii.gz,1,slices,1 4,,,,,,,",
        f"scans/a.nii.gz,2,lasso,{line.replace(' 2', ' 3')},,,,,,,",
        f"scans/a.nii.gz,2,lassos,{line.replace(' 2', ' 5')},,,,,,,",
        "scans/a.nii.gz,2,interpolate,,,,,,,,",
        "scans/a.nii.gz,3,diameter,,,10,10,1,14,12,1",
        "scans/a.nii.gz,3,negative_box,,,0,0,0,3,3,3",
        head="image,object,kind,coordinates,width,i,j,k,i2,j2,k2",
    )
    (case,) = read_table(path)
    volume = load(case.image)
    places = ((4, 4, 2), (9, 4, 2), (9, 8, 2))
    assert case.read_prompts(volume).prompts == (
        Scribble(places, 1, True, 2),
        Lasso(((1, 1, 2), (3, 1, 2), (3, 3, 2)), 1, False),
        SliceRange(1, 4, 1),
        Lasso(tuple((i, j, 3) for i, j, _ in places), 2),
        Lasso(tuple((i, j, 5) for i, j, _ in places), 2),
        ShapeInterpolation(2),
        Diameter(((10, 10, 1), (14, 12, 1)), 3),
        Box((0, 0, 0), (3, 3, 3), 3, False),
    )
    assert check_cases([case], Options(), "one", path)
    drawn = {"image": "scans/a.nii.gz", "kind": "negative_scribble", "coordinates": [list(place) for place in places]}
    (case,) = read_table(table(folder, head=json.dumps(drawn), name="t.jsonl"))
    assert case.read_prompts(volume).prompts == (Scribble(places, 1, False),)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("slices,1 4 5,,", "a slices cannot have 3 numbers; write 2 into the column coordinates"),
        ("scribble,1 4 5 6,,", "a scribble cannot have 4 numbers; write three for each place into the column coordinates"),
        ("slices,1.5 4,,", "the slices of object 1 are no whole numbers"),
        ("lasso,1 1 1 5 5 1 5 1 1,2,", "width belongs to scribbles, and this is a lasso"),
        ("interpolate,1 1 1,,", "interpolate has no coordinates"),
        ("slices,,,1 4", "slices are counted, not measured"),
        ("diameter,1 1 1,,", "a diameter cannot have 3 numbers; give 6 or 12"),
        ("slices,1 4,,", "object 1 has no prompt that says where it is"),
        ("point,14 12 3,,\nscans/a.nii.gz,slices,1 4,,\nscans/a.nii.gz,slices,2 5,,", "object 1 has two ranges of slices"),
    ],
)
def test_what_is_drawn_wrongly_is_named(folder: Path, row: str, said: str) -> None:
    path = table(folder, f"scans/a.nii.gz,{row}", head="image,kind,coordinates,width,coordinates_mm")
    (line,) = refused(path)
    assert said in line


def test_masks(folder: Path) -> None:
    """Each label is an object unless one is named; a value chooses one of them."""
    head = "case,image,kind,object,file,value,threshold,axis"
    path = table(
        folder,
        "all,scans/a.nii.gz,mask,,mask.nii.gz,,,",
        "one,scans/a.nii.gz,mask,5,mask.nii.gz,2,,k",
        "both,scans/a.nii.gz,mask,3,mask.nii.gz,,1,",
        head=head,
    )
    drawn = {
        case.name: {
            p.object: int(p.array_ijk.sum()) for p in case.read_prompts(load(case.image)).prompts if isinstance(p, Mask)
        }
        for case in read_table(path)
    }
    assert drawn == {"all": {1: 16, 2: 16}, "one": {5: 16}, "both": {3: 32}}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("x,scans/none.nii.gz,1,,point,1,1,1,,,", "row 3: the image scans/none.nii.gz does not exist"),
        ("x,scans/b.nii.gz,1,,point,1,1,1,,,", "row 3: case x has another image above"),
        ("X,scans/a.nii.gz,1,,point,1,1,1,,,", "row 3: cases x and X differ in nothing but capitals"),
        ("x,,1,spleen,point,1,1,1,,,", "row 3: object 1 is called 'spleen' here and 'liver' in row 2"),
        ("x,,,spleen,point,1,1,1,,,", "row 3: object 1 is called 'spleen' here and 'liver' in row 2"),
        ("x,,1,,negative,14,12,3,,,", "row 3: it says negative of what is points in row 2"),
        ("x,,1,,point,14,12,3,,,", "row 3: it says the same as row 2"),
        ("x,,1,,negative,14.0,12,3,,,", "row 3: it says negative of what is points in row 2"),
        ("x,,1,,pont,1,1,1,,,", "row 3: the kind 'pont' is unknown; did you mean 'point'"),
        ("x,,1,,,1,1,1,,,", "row 3: it has no kind"),
        ("x,,1,,point,1,1,,,,", "row 3: k is missing"),
        ("x,,1,,point,1,one,1,,,", "row 3: j 'one' is no number"),
        ("x,,1,,point,1,1_0,1,,,", "row 3: j '1_0' is no number"),
        (f"{'x' * 151},scans/a.nii.gz,1,,point,1,1,1,,,", "row 3: the name 'xxxxxxxxxxxxxxxxxxxx' … of a case has 151 letters"),
        ("x,,1.5,,point,1,1,1,,,", "row 3: object 1.5 is no whole number"),
        ("x,,0,,point,1,1,1,,,", "row 3: label '0' is no label"),
        ("x,,1,,point,1,1,60,,,", "row 3: point at voxel (1, 1, 60) lies outside the image of 20×18×6 voxels"),
        (
            "x,,1,,box,1,1,1,1,4,1",
            "row 3: box (1.0, 1.0, 1.0) – (1.0, 4.0, 1.0) is neither a rectangle on one slice nor a box in 3D",
        ),
        ("x,,2,,negative,1,1,1,,,", "row 2 and the other rows of x: object 2 has negative clicks only"),
        ("../x,scans/a.nii.gz,1,,point,1,1,1,,,", "row 3: no file can be called '../x'"),
        ("x,,1,,point,1,1,1,,,,7", "row 3: it has 12 cells, the first row 11"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(folder: Path, row: str, said: str) -> None:
    path = table(folder, "x,scans/a.nii.gz,1,liver,point,14,12,3,,,", row)
    (line,) = refused(path)
    assert line.startswith(f"{path}, {said}")


def test_without_a_column_of_objects_names_are_of_the_first(folder: Path) -> None:
    path = table(folder, "scans/a.nii.gz,liver,point,1,1,1", "scans/a.nii.gz,spleen,point,2,1,1", head="image,name,kind,i,j,k")
    (line,) = refused(path)
    assert line.startswith(f"{path}, row 3: object 1 is called 'spleen' here and 'liver' in row 2")


def test_commas_at_the_end_of_each_line_are_no_columns(folder: Path) -> None:
    """As spreadsheets write them; a column without a name between others may have been one."""
    row = "x,scans/a.nii.gz,1,,point,14,12,3,,,"
    assert len(read_table(table(folder, row + ",,", head=HEAD + ",,"))) == 1
    with pytest.raises(FormatError, match="its column 2 has no name"):
        read_table(table(folder, row, head=HEAD.replace("image", "")))
    (line,) = refused(table(folder, row + ",,7", head=HEAD + ",,"))
    assert "row 2: it has 13 cells, the first row 11" in line


def test_an_image_is_no_table(folder: Path) -> None:
    with pytest.raises(FormatError, match="this is no table of prompts; give a folder of images, or end the name of a table"):
        find_cases(folder / "scans" / "a.nii.gz")


def test_names_that_are_one_file_elsewhere_are_told_apart(folder: Path) -> None:
    path = table(folder, "caf\u00e9,scans/a.nii.gz,1,,point,14,12,3,,,", "cafe\u0301,scans/b.nii.gz,1,,point,1,1,1,,,")
    (line,) = refused(path)
    assert "differ in nothing but capitals, or in how accents are written" in line


def test_a_mask_is_what_is_exactly_or_what_is_at_least(folder: Path) -> None:
    head = "case,image,kind,object,file,value,threshold"
    (line,) = refused(table(folder, "a,scans/a.nii.gz,mask,5,mask.nii.gz,2,1", head=head))
    assert "row 2: a value and a threshold are given" in line


def test_rows_that_contradict_each_other(folder: Path) -> None:
    path = table(folder, "x,scans/a.nii.gz,1,,box,2,2,3,9,9,3", "x,,2,,box,2,2,3,8,8,3", "x,,1,,box,2,2,3,8,8,3")
    assert refused(path) == [
        f"{path}, row 4 and row 2: object 1 has two boxes on one axial slice; "
        "give one box around all of it, or each box an object of its own"
    ]


def test_a_mask_of_another_grid_is_found_by_its_header(folder: Path) -> None:
    save(folder / "other.nii.gz", np.ones((20, 18, 5), np.uint8))
    path = table(folder, "x,scans/a.nii.gz,mask,1,other.nii.gz", head="case,image,kind,object,file")
    (line,) = refused(path)
    assert line.startswith(f"{path}, row 2: {folder / 'other.nii.gz'}: ")


def test_the_form_of_the_image_counts_for_its_masks(folder: Path) -> None:
    """Their headers say two things, as that of the image does; by themselves they would lie where the sform says."""
    moved = AFFINE.copy()
    moved[0, 3] += 5
    for name in ("scans/a.nii.gz", "mask.nii.gz"):
        image = nib.Nifti1Image(np.asarray(nib.load(folder / name).dataobj), AFFINE)  # type: ignore[attr-defined]
        image.set_sform(AFFINE, 1)
        image.set_qform(moved, 1)
        nib.save(image, folder / name)  # type: ignore[attr-defined]
    path = table(folder, "x,scans/a.nii.gz,mask,1,mask.nii.gz", head="case,image,kind,object,file")
    for form in ("sform", "qform"):
        options = Options(geometry_from=form)
        check_cases(
            read_table(path, check=lambda cases, options=options: find_faulty_rows(cases, options)), options, "one", path
        )


def test_all_that_is_wrong_is_told_at_once(folder: Path) -> None:
    path = table(folder, "x,scans/a.nii.gz,1,,point,99,1,1,,,", "y,scans/b.nii.gz,1,,point,1,1,1,,,", "y,,1,,point,1,1,77,,,")
    assert [line.partition(":")[0].rpartition(" ")[2] for line in refused(path)] == ["2", "4"]


def test_rows_of_every_kind_of_fault_are_told_at_once(folder: Path) -> None:
    path = table(
        folder,
        "x,scans/a.nii.gz,1,,point,99,1,1,,,",
        "y,scans/none.nii.gz,1,,point,1,1,1,,,",
        "z,scans/b.nii.gz,1,,negative,1,1,1,,,",  # alone only since the next one is wrong
        "z,,1,,pont,1,1,2,,,",
        "z,,2,,box,1,1,1,4,4,77",
    )
    lines = refused(path)
    assert [line.partition(":")[0].rpartition(" ")[2] for line in lines] == ["2", "3", "5", "6"]
    many = table(folder, "x,scans/a.nii.gz,1,,point,1,1,1,,,", *["x,,1,,point,99,1,1,,,"] * 24, "x,no.nii.gz,1,,point,1,1,1,,,")
    assert len(refused(many)) == 21
    assert refused(many)[-1] == "… and 5 more"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", "image,knd\n", "unknown column 'knd'"),
        ("t.csv", "image,kind,kind\n", "the column 'kind' twice"),
        ("t.csv", "image,kind,Kind\n", "the column 'Kind' twice"),
        ("t.csv", "image,kind,KND\n", "unknown column 'KND'; did you mean 'kind'"),
        ("t.jsonl", '{"image": "a", "IMAGE": "b"}\n', "the column 'IMAGE' twice"),
        ("t.csv", "image,kind\n", "it has no rows"),
        ("t.csv", 'image,kind\n"a,b\n', "row 2 is broken"),
        ("t.csv", b"image,kind\n\xff\n", "not written in UTF-8"),
        ("t.jsonl", '{"image": "a", "knd": 1}\n', "row 1: it has the unknown column 'knd'"),
        ("t.jsonl", '{"image": NaN}\n', "row 1"),
        ("t.xlsx", "image,kind\n", "no table of prompts"),
    ],
)
def test_what_is_no_table(folder: Path, name: str, content: str | bytes, said: str) -> None:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FormatError, match=said):
        read_table(folder / name)


def raw(folder: Path) -> Path:
    """Two cases of two channels, as nnU-Net has them."""
    (folder / "raw").mkdir()
    for name in ("p1_0000", "p1_0001", "p2_0000", "p2_0001"):
        save(folder / "raw" / "imagesTr" / f"{name}.nii.gz", np.ones(SHAPE, np.int16))
    return folder / "raw"


def test_folders_of_nnunet(folder: Path) -> None:
    (folder / "masks").mkdir()
    for name in ("p1.nii.gz", "stray.nii.gz"):
        (folder / "masks" / name).write_bytes((folder / "mask.nii.gz").read_bytes())
    found = find_cases(raw(folder), folder / "masks", channel=1)
    assert [(case.name, case.image.name, len(case.channels)) for case in found.cases] == [("p1", "p1_0001.nii.gz", 2)]
    assert (found.unprompted, [path.name for path in found.unused]) == (("p2",), ["stray.nii.gz"])
    assert "channel 0001 is outlined" in found.notes[0]
    with pytest.raises(InputError, match="no channel 0002"):
        find_cases(folder / "raw", folder / "masks", channel=2)


def test_folders_of_bids_and_trees(folder: Path) -> None:
    """Files of prompts beside the images; derivatives are no images of BIDS; names of a tree tell the place."""
    said = json.dumps({"objects": [{"points": [[1, 1, 1]]}]})
    for place, name in (("bids/sub-1/ses-2/anat", "sub-1_ses-2_T1w"), ("bids/derivatives/x", "y"), ("tree/one", "ct")):
        (folder / place).mkdir(parents=True)
        save(folder / place / f"{name}.nii.gz", np.ones(SHAPE, np.int16))
        (folder / place / f"{name}.prompts.json").write_text(said)
    assert [case.name for case in find_cases(folder / "bids").cases] == ["sub-1_ses-2_T1w"]
    (case,) = find_cases(folder / "tree").cases
    assert (case.name, case.read_prompts(load(case.image)).prompts) == ("one_ct", (Point((1, 1, 1)),))
    with pytest.raises(InputError, match="none of its 2 images has prompts"):
        find_cases(folder / "scans")


def test_a_table_of_the_prompts_of_a_folder(folder: Path) -> None:
    path = table(folder, "b,1,point,1,1,1", head="case,object,kind,i,j,k")
    found = find_cases(folder / "scans", path)
    assert ([case.name for case in found.cases], found.unprompted) == (["b"], ("a",))
    with pytest.raises(MedicalSam2Error, match="row 2: there is no image of the case c"):
        find_cases(folder / "scans", table(folder, "c,1,point,1,1,1", head="case,object,kind,i,j,k"))


@pytest.mark.parametrize("name", ["d.nrrd", "d.mha", "series"])
def test_a_click_outside_is_found_before_tracking_in_any_format(folder: Path, name: str) -> None:
    Series(AFFINE, np.ones(SHAPE, np.int16)).write(folder / "series")
    volume = load(folder / "series")
    if name != "series":
        io.save(volume.array, folder / name, volume)
    (line,) = refused(table(folder, f"x,{name},1,,point,3,3,6,,,"))
    assert "t.csv, row 2: point at voxel (3, 3, 6) lies outside the image" in line

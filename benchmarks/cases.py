"""Run every case of a folder of reported files as its README says, and write what was expected beside what happened.

    python benchmarks/cases.py FOLDER [-o benchmarks/results/cases.md] [--only WORD]

Each row is a command in a process of its own (10 s for reading, 120 s for outlining). Inputs that a few lines make are made
here: padding, large numbers, links that lead nowhere. The exit code is 1 if a row is wrong.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import tifffile
from PIL import Image

from cases_verdict import TRACKING_S, Case, judged, line_of, little_memory, lost_links, refused
from medical_sam2 import io
from medical_sam2.metrics import dice
from nasty import execute
from nasty_verdict import LIMIT_S, Run

SAME = 0.99
HEAD = """# Files of the kinds that people report

`python benchmarks/cases.py FOLDER`: each case through the command line, in a process of its own.

| case | expected | what happened | |
|---|---|---|---|
"""


def main() -> int:
    told = arguments()
    folder = told.folder.resolve()
    import torch  # noqa: F401  # what every outlining process needs, once

    lines, wrong = [], 0
    with tempfile.TemporaryDirectory(prefix="cases-") as scratch:
        for case in cases(folder, Path(scratch)):
            if told.only and told.only not in case.name:
                continue
            run = execute(case.command, Path(scratch), limit_s=case.limit_s)
            happened, right = judged(case, run)
            wrong += not right
            lines.append(f"| {case.name} | {case.expected} | {happened} | {'right' if right else '**WRONG**'} |")
            print(lines[-1], flush=True)
    if not told.only:
        total = f"\n{len(lines)} cases, {len(lines) - wrong} right, {wrong} wrong.\n"
        told.output.write_text(HEAD + "\n".join(lines) + "\n" + total)
    return int(wrong > 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/cases.md"))
    parser.add_argument("--only", help="cases whose name holds this")
    return parser.parse_args()


def cases(folder: Path, scratch: Path) -> Iterator[Case]:
    yield from masks(folder, scratch)
    yield from pictures(folder, scratch)
    yield from volumes(folder, scratch)
    yield from segments(folder, scratch)
    yield from nuclear(folder)
    yield from mutants(folder)
    yield from made_here(scratch)


def masks(folder: Path, scratch: Path) -> Iterator[Case]:
    """Masks of one object, drawn in many ways."""
    for name in ("white_transparent", "black_transparent", "la_transparent", "pal"):
        yield mask_case(folder / "a1_alpha_mask", f"{name}.png", scratch)
    soft = folder / "a2_antialiased_mask"
    command = set_command(soft / "set", "im0.png", soft / "soft.png", scratch / "none")
    yield Case("a2 soft.png", "a question that names an option", command, refused(4, says="--threshold 128"))
    yield mask_case(soft, "soft.png", scratch, "--threshold", "128", truth=np.array(Image.open(soft / "soft.png")) >= 128)
    white = folder / "a3_white16_mask"
    for file in sorted(white.glob("m*.*")):
        if file.suffix == ".npy":
            command = set_command(white / "set", "im0.png", file, scratch / "none")
            yield Case("a3 m.npy", "refused: no picture", command, refused(2, says="format is unknown"))
        else:
            yield mask_case(white, file.name, scratch, label=7 if file.stem in {"mi64", "mu32"} else 1)


def mask_case(folder: Path, name: str, scratch: Path, *words: str, label: int = 1, truth: np.ndarray | None = None) -> Case:
    if truth is None:
        last = np.array(Image.open(folder / name).convert("RGBA"))[..., 3] if "transparent" in name else opened(folder / name)
        truth = last > 0
    short = f"{folder.name.split('_')[0]}_{name}"
    out = scratch / f"{short}{len(words)}"

    def check(run: Run) -> tuple[str, bool]:
        if run.code:
            return f"exit {run.code}: {run.err.strip()}", False
        found = [np.array(Image.open(file)) for file in sorted(out.glob("*.png"))]
        numbers = {int(number) for one in found for number in np.unique(one)} - {0}
        pixels = int((found[0] > 0).sum())
        return f"objects {sorted(numbers)}, {pixels} pixels", numbers == {label} and bool(((found[0] > 0) == truth).all())

    command = [*set_command(folder / "set", "im0.png", folder / name, out), *words]
    named = f"{short.replace('_', ' ', 1)} {' '.join(words)}".strip()
    return Case(named, f"object {label} of {int(truth.sum())} pixels", command, check)


def opened(path: Path) -> np.ndarray:
    """As it is seen: in a TIFF whose white is 0, what is dark in numbers is the object."""
    if path.suffix != ".tif" or "1" in path.stem:
        return np.array(Image.open(path))
    with tifffile.TiffFile(path) as file:
        array, photometric = file.pages[0].asarray(), file.pages[0].photometric
    return ~array if photometric == tifffile.PHOTOMETRIC.MINISWHITE else array


def set_command(folder: Path, template: str, mask: Path, out: Path) -> list[str]:
    return ["segment-images", str(folder), "--template", template, "--mask", str(mask), "-o", str(out), "--quiet"]


def pictures(folder: Path, scratch: Path) -> Iterator[Case]:
    """Deep colours of a small range, and pyramids."""
    deep = folder / "a5_rgb16_low_range"
    for name in ("low", "range12"):
        grey = scratch / f"grey_{name}"
        grey.mkdir()
        for file in sorted((deep / name).glob("*.tif")):
            tifffile.imwrite(grey / file.name, tifffile.imread(file)[..., 0])
        yield colour_case(deep, name, grey, scratch)
    words = ["--template", "flat.tif", "--box", "30", "20", "70", "60", "-o", str(scratch / "pyramid"), "--dry-run"]
    yield Case(
        "a9 pyramid",
        "2 images",
        ["segment-images", str(folder / "a9_pyramid_tiff/set"), *words],
        lambda run: (line_of(run.out, "images"), run.code == 0 and "2 in" in line_of(run.out, "images")),
    )


def colour_case(deep: Path, name: str, grey: Path, scratch: Path) -> Case:
    outs = scratch / f"colours_{name}", scratch / f"greys_{name}"
    words = ["--template", "im0.tif", "--mask", str(deep / "m.png"), "--quiet", "-o"]

    def check(run: Run) -> tuple[str, bool]:
        same = execute(["segment-images", str(grey), *words, str(outs[1])], scratch, limit_s=TRACKING_S)
        if run.code or same.code:
            return f"exit {run.code} and {same.code}: {run.err.strip()}", False
        both = [[np.array(Image.open(out / f"im{n}.png")) > 0 for n in (1, 2)] for out in outs]
        score = dice(np.stack(both[0]), np.stack(both[1]))
        return f"Dice {score:.3f} to the same in grey", score >= SAME

    only = scratch / f"only_{name}"
    only.mkdir()
    for file in (deep / name).glob("*.tif"):
        (only / file.name).symlink_to(file)
    return Case(
        f"a5 {name}", f"as the same in grey, Dice {SAME} or more", ["segment-images", str(only), *words, str(outs[0])], check
    )


def volumes(folder: Path, scratch: Path) -> Iterator[Case]:
    """Labels of atlases, and a spacing of no image."""
    big = folder / "b1_big_label_id"
    words = ["segment", str(big / "img.nii.gz"), "--mask", str(big / "mask.nii.gz"), "-o", str(scratch / "big.nii.gz")]
    yield Case("b1 label 614454277", "refused before tracking", words, refused(2, says="too large"), LIMIT_S)
    bad = folder / "fuzz/mhd_badgeom_1028/x.mhd"
    yield Case("fuzz mhd_badgeom_1028", "refused", ["info", str(bad)], refused(2, says="voxels of"), LIMIT_S)


def segments(folder: Path, scratch: Path) -> Iterator[Case]:
    """Segmentations of 3D Slicer: the prompted slices must come back where they were drawn, under their names."""
    slicer = folder / "b3_seg_nrrd"
    image = io.load(slicer / "img.nrrd")
    truth = io.load(slicer / "ours.seg.nrrd").array > 0
    for file in sorted(slicer.glob("*.seg.nrrd")):
        names = {1: "liver", 2: "lesion"} if file.name.startswith("layers") else {1: "liver"}
        out = scratch / f"{file.name}.nii.gz"

        def check(run: Run, out: Path = out, file: Path = file, names: dict[int, str] = names) -> tuple[str, bool]:
            if run.code:
                return f"exit {run.code}: {run.err.strip()}", False
            outlines = {one.label: one for one in io.load_outlines(file, image)}
            placed = bool((outlines[1].inside == truth).all())
            found = np.asarray(nib.load(out).dataobj)
            drawn = truth.any(axis=(0, 1))
            score = dice((found > 0)[:, :, drawn], truth[:, :, drawn])
            named = file.name == "ours.seg.nrrd" or {label: one.name for label, one in outlines.items()} == names
            text = f"objects {sorted(outlines)}, Dice {score:.3f} on its slice, names {'kept' if named else 'lost'}"
            return text, placed and named and score == 1 and sorted(outlines) == sorted(names)

        command = ["segment", str(slicer / "img.nrrd"), "--mask", str(file), "-o", str(out), "--quiet"]
        yield Case(f"b3 {file.name}", f"{len(names)} objects where they were drawn", command, check)


def nuclear(folder: Path) -> Iterator[Case]:
    """Slices of nuclear medicine lie along the normal, on the side of the sign."""
    for file in sorted((folder / "c1_nm_spect_negative_spacing").glob("*.dcm")):
        header = pydicom.dcmread(file, stop_before_pixels=True)
        place = header.DetectorInformationSequence[0].ImagePositionPatient[2]
        ends = sorted([place, place + (header.NumberOfFrames - 1) * header.SpacingBetweenSlices])

        def check(run: Run, file: Path = file, ends: list[float] = ends) -> tuple[str, bool]:
            if run.code:
                return f"exit {run.code}: {run.err.strip()}", False
            volume = io.load(file)
            corners = [float((volume.affine @ [0, 0, k, 1])[2]) for k in (0, volume.shape[2] - 1)]
            return f"slices from {min(corners):g} to {max(corners):g} mm", bool(np.allclose(sorted(corners), ends))

        yield Case(f"c1 {file.name}", f"slices from {ends[0]:g} to {ends[1]:g} mm", ["info", str(file)], check, LIMIT_S)


def mutants(folder: Path) -> Iterator[Case]:
    """Files that a fuzzer broke."""
    fuzz = folder / "fuzz"
    for name in ("fuzz_73", "fuzz_292"):
        yield Case(f"fuzz {name}", "refused", ["info", str(fuzz / name / "zip.tif")], refused(2), LIMIT_S)
    yield Case("fuzz fuzz_3722", "refused", ["info", str(fuzz / "fuzz_3722")], refused(2, 3, 4), LIMIT_S)
    bomb = ["info", str(fuzz / "dicom_frames_bomb.dcm")]
    yield Case("fuzz dicom_frames_bomb", "refused, little memory", bomb, little_memory, LIMIT_S)


def made_here(scratch: Path) -> Iterator[Case]:
    """What a few lines make: the same click in a padded, a scaled and a plain phantom; a series with lost links."""
    array = phantom()
    plain = outline(array, scratch, "plain")
    wide = np.zeros([4 * side for side in array.shape[:2]] + [2 * array.shape[2]], array.dtype)
    corner = [(big - small) // 2 for big, small in zip(wide.shape, array.shape, strict=True)]
    inner = tuple(slice(start, start + side) for start, side in zip(corner, array.shape, strict=True))
    wide[inner] = array
    changed = {
        "padding": (wide, inner),
        "times 1000": (array.astype(np.int32) * 1000, (...,)),
        "phase": (array.astype(np.float32) * 8190 / array.max() - 4096, (...,)),
    }
    yield from (same_case(name, other, where, plain, scratch) for name, (other, where) in changed.items())
    series = scratch / "series"
    series.mkdir()
    for k in range(24):
        save_slice(array[:, :, k % array.shape[2]], k, series / f"{k:02d}.dcm")
    for k in (0, 23):
        (series / f"{k:02d}.dcm").unlink()
        (series / f"{k:02d}.dcm").symlink_to(scratch / "nowhere")
    yield Case("links to nothing", "refused or warned, by name", ["info", str(series)], lost_links, LIMIT_S)


def phantom() -> np.ndarray:
    """An MR of a bright ellipsoid in a darker one, with noise."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in (64, 64, 24)), indexing="ij")
    body, object_ = x**2 + y**2 + z**2 < 0.9, (x / 0.6) ** 2 + (y / 0.4) ** 2 + (z / 0.4) ** 2 < 1
    return np.clip(20 + 200 * body + 350 * object_ + rng.normal(0, 12, body.shape), 1, None).astype(np.int16)


def outline(array: np.ndarray, scratch: Path, name: str) -> np.ndarray:
    run = execute(click_command(array, scratch, name), scratch, limit_s=TRACKING_S)
    if run.code:
        raise SystemExit(run.err)
    return np.asarray(nib.load(scratch / f"{name}_out.nii.gz").dataobj) > 0


def click_command(array: np.ndarray, scratch: Path, name: str) -> list[str]:
    """A click in the middle, where the object is."""
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2, 3, 1])), scratch / f"{name}.nii.gz")
    middle = [str(side // 2) for side in array.shape]
    out = str(scratch / f"{name}_out.nii.gz")
    return ["segment", str(scratch / f"{name}.nii.gz"), "--point", *middle, "-o", out, "--quiet"]


def same_case(name: str, array: np.ndarray, where: tuple, plain: np.ndarray, scratch: Path) -> Case:
    file = name.replace(" ", "_")

    def check(run: Run) -> tuple[str, bool]:
        if run.code:
            return f"exit {run.code}: {run.err.strip()}", False
        found = np.asarray(nib.load(scratch / f"{file}_out.nii.gz").dataobj) > 0
        score = dice(found[where], plain)
        return f"Dice {score:.3f} to the plain one", score >= SAME

    expected = f"as the plain phantom, Dice {SAME} or more"
    return Case(name, expected, click_command(array, scratch, file), check)


def save_slice(array: np.ndarray, k: int, path: Path) -> None:
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = pydicom.uid.MRImageStorage, f"1.2.3.{k + 1}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.Modality = "1.2.4", "1.2.5", "MR"
    dataset.Rows, dataset.Columns = array.T.shape
    dataset.PixelSpacing, dataset.SliceThickness = [2, 2], 3
    dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 3 * k]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.PixelData = np.ascontiguousarray(array.T).tobytes()
    dataset.save_as(path, enforce_file_format=True)


if __name__ == "__main__":
    sys.exit(main())

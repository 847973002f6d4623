"""Images and a table of their prompts, in a folder of their own."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.batch.test_run import AFFINE, SHAPE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images and a table of boxes."""
    rows = ["case,image,object,name,kind,i,j,k,i2,j2,k2"]
    for n in range(3):
        array = np.random.default_rng(n).integers(0, 9, SHAPE).astype(np.int16)
        nib.save(nib.Nifti1Image(array, AFFINE), tmp_path / f"c{n}.nii.gz")  # type: ignore[attr-defined]
        rows.append(f"sub-{n}_T1w,c{n}.nii.gz,1,liver,box,2,2,0,{5 + n},6,0")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    return tmp_path

"""The public names are there, and cost nothing before they are used."""

import subprocess
import sys

import pytest

import medical_sam2


@pytest.mark.parametrize("name", medical_sam2.__all__)
def test_public_names_are_there(name: str) -> None:
    assert name in dir(medical_sam2)
    assert getattr(medical_sam2, name) is not None


def test_a_name_that_is_not_there_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        medical_sam2.Segmentor  # noqa: B018


def test_the_package_itself_loads_neither_numpy_nor_torch() -> None:
    code = "import sys, medical_sam2; print([name for name in ('numpy', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"

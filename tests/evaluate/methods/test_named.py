"""What is told of a method is the same in every run, and differs where the method does."""

import re
from pathlib import Path

import pytest

from medical_sam2.errors import ConfigError
from medical_sam2.evaluate.methods import CLASSICAL, METHODS, describe_method, find_method
from medical_sam2.evaluate.methods.trained_networks import SupportSet, Tailored


def test_settings_tell_methods_apart() -> None:
    told = {name: describe_method(method) for name, method in METHODS.items()}
    assert told["+ resampling"] == told["self-sorting"], "the last step is the whole bank"
    assert len(set(told.values())) == len(told) - 1


def test_settings_hold_no_address() -> None:
    """An address differs from run to run, and a run could not be gone on with."""
    assert describe_method(Tailored(lambda size: None)).count("0x") == 0  # type: ignore[arg-type, return-value]
    assert "lambda" in describe_method(SupportSet(lambda *told: told[0]))
    assert describe_method(Tailored("UNETR", steps=5)) != describe_method(Tailored("UNETR"))


@pytest.mark.parametrize("name", CLASSICAL)
def test_a_method_that_left_the_package_says_where_it_is(name: str) -> None:
    """And there it is found."""
    with pytest.raises(ConfigError) as refused:
        find_method(name)
    (place,) = re.findall(r"benchmarks/\S+:[A-Z_]+", str(refused.value))
    assert name in describe_method(find_method(str(Path(__file__).parents[3] / place)))

"""Recipes: defaults, TOML, settings on top, and what is refused."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from medical_sam2.errors import ConfigError
from medical_sam2.train.config import Recipe, build_config, read_recipe

TOML = """
rate = 1e-3
losses = { dice = 2.0 }
phases = [{ steps = 10, frames = 1, clips = 2 }, { steps = 5, frames = 3, clips = 1 }]
"""


def recipe_file(folder: Path, text: str = TOML) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_a_setting_overrides_the_recipe_which_overrides_the_defaults(tmp_path: Path) -> None:
    recipe = read_recipe(recipe_file(tmp_path), ["seed=7", "losses.iou=0.25", "pool=elsewhere"])
    assert (recipe.rate, recipe.seed, recipe.pool) == (1e-3, 7, "elsewhere")
    assert (recipe.losses.dice, recipe.losses.iou) == (2.0, 0.25)
    assert recipe.steps == 15
    assert [recipe.phase(step).frames for step in (0, 9, 10, 14)] == [1, 1, 3, 3]


@pytest.mark.parametrize(("setting", "nearest"), [("sede=7", "seed"), ("losses.dise=1", "dice")])
def test_an_unknown_setting_is_refused_with_the_nearest_one(tmp_path: Path, setting: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{nearest}'"):
        read_recipe(recipe_file(tmp_path), [setting])


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recipe(recipe_file(tmp_path, "= nonsense"))


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("seed=half", "seed: 'half' does not fit"),
        ("precision=fp8", "'bf16' or 'fp32'"),
        ("prompt=[1, 0]", "3 numbers"),
        ("rate", "sets nothing"),
    ],
)
def test_a_value_of_another_kind_is_refused(tmp_path: Path, setting: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        read_recipe(recipe_file(tmp_path), [setting])


def test_a_setting_reaches_into_a_phase_and_a_recipe_survives_being_told(tmp_path: Path) -> None:
    recipe = read_recipe(recipe_file(tmp_path), ["phases.1.steps=7"])
    assert recipe.steps == 17
    assert build_config(Recipe, json.loads(json.dumps(asdict(recipe)))) == recipe


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "recipes").rglob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_repository_are_valid(path: Path) -> None:
    assert read_recipe(path).steps > 1000

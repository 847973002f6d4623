"""Recipes: defaults, TOML, settings on top, and what is refused."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from medical_sam2.errors import ConfigError, InputError
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
        ("parts=mend.", "a list of texts"),
    ],
)
def test_a_value_of_another_kind_is_refused(tmp_path: Path, setting: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        read_recipe(recipe_file(tmp_path), [setting])


@pytest.mark.parametrize(
    "setting",
    [
        *(
            "rate=nan",
            "rate=0",
            "rate=-1e-3",
            "rate=inf",
            "seed=-1",
            "seed=4294967296",
            "warm_up=-5",
            "average=1",
            "average=-1",
        ),
        *("clicks=-1", "clip=0", "clip=-1", "workers=-1", "save_every=0", "picture_every=-3", "weight_decay=-1", "rank=0"),
        *("layer_decay=0", "layer_decay=1.5", "encoder_rate=-1", "cool_down=-1", "cool_down=9", "regions=9", "sets=-0.5"),
        *("from_truth=7", "corrections=-1", "phases.0.size=65", "phases.0.size=0", "phases.1.size=16", "phases.0.context=-1"),
        *("phases.0.smallest=-1", "phases.0.smallest=1", "losses.focal=-1", "losses.dice=inf", "losses.gamma=nan"),
        *("losses.alpha=2", "prompt=[-1, 1, 1]", "prompt=[0, 0, 0]", "prompt=[1, 0, 0]", "phases.1.clips=0"),
    ],
)
def test_a_number_with_which_nothing_is_learnt_is_refused_by_name(tmp_path: Path, setting: str) -> None:
    name = setting.partition("=")[0].rpartition(".")[2]
    with pytest.raises(ConfigError, match=r"^[a-z_, ]*: .*; give .*$") as refused:
        read_recipe(recipe_file(tmp_path), [setting])
    assert str(refused.value.subject).rpartition(", ")[2] == name
    assert "\n" not in str(refused.value)


def test_numbers_at_the_ends_of_their_ranges_are_taken(tmp_path: Path) -> None:
    zero = (
        "warm_up",
        "average",
        "clicks",
        "workers",
        "picture_every",
        "weight_decay",
        "encoder_rate",
        "regions",
        "sets",
        "seed",
    )
    recipe = read_recipe(
        recipe_file(tmp_path),
        [*(f"{name}=0" for name in zero), "cool_down=1", "layer_decay=1", "seed=4294967295", "phases.0.size=32"],
    )
    assert (recipe.average, recipe.cool_down, recipe.seed, recipe.phases[0].size) == (0, 1, 2**32 - 1, 32)
    assert read_recipe(recipe_file(tmp_path), ["phases.0.frames=2", "prompt=[1, 0, 0]"]).prompt == (1, 0, 0)


def test_a_recipe_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nope\.toml: there is no such file; check the path$"):
        read_recipe(tmp_path / "nope.toml")
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"a\.toml: the recipe cannot be read; give a TOML file$"):
        read_recipe(tmp_path / "a.toml")
    with pytest.raises(ConfigError, match="unknown setting 'x'; choose among adapter, augmentation, average, "):
        read_recipe(recipe_file(tmp_path), ["x=1"])


def test_a_setting_reaches_into_a_phase_and_a_recipe_survives_being_told(tmp_path: Path) -> None:
    recipe = read_recipe(recipe_file(tmp_path), ["phases.1.steps=7"])
    assert recipe.steps == 17
    assert build_config(Recipe, json.loads(json.dumps(asdict(recipe)))) == recipe


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "recipes").rglob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_repository_are_valid(path: Path) -> None:
    assert read_recipe(path).steps > 1000

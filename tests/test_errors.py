"""Errors: one line each, an exit code, and the subject named once."""

import copy
from inspect import isclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_sam2 import errors
from medical_sam2.errors import (
    AmbiguousError,
    GeometryError,
    InputError,
    MedicalSam2Error,
    ResourceError,
    say_count,
    spell_options,
)

TREE = [kind for kind in vars(errors).values() if isclass(kind) and issubclass(kind, MedicalSam2Error)]
texts = st.text(max_size=40)
kinds = st.sampled_from(TREE)


def test_tree_is_complete() -> None:
    assert {kind.__name__ for kind in TREE} == {name for name in vars(errors) if name.endswith("Error")}
    assert len(TREE) == 9


@given(kinds, texts, texts, st.none() | texts)
def test_text_is_one_line(kind: type[MedicalSam2Error], problem: str, remedy: str, subject: str | None) -> None:
    assert len(str(kind(problem, remedy, subject=subject)).splitlines()) <= 1


@given(texts, texts, st.lists(texts))
def test_choices_are_on_the_same_line(problem: str, remedy: str, choices: list[str]) -> None:
    assert len(str(AmbiguousError(problem, remedy, choices=choices)).splitlines()) <= 1


@pytest.mark.parametrize("kind", TREE)
def test_text_names_subject_problem_and_remedy_in_order(kind: type[MedicalSam2Error]) -> None:
    assert str(kind("it is\n broken", "mend it", subject="a.nii")) == "a.nii: it is broken; mend it"


def test_choices_follow_the_text() -> None:
    error = AmbiguousError("two series", "pick one", subject="folder", choices=["--series 1", "--series 2"])
    assert str(error) == "folder: two series; pick one: --series 1, --series 2"


@given(kinds, texts, texts)
def test_about_names_a_subject_only_once(kind: type[MedicalSam2Error], problem: str, remedy: str) -> None:
    named = kind(problem, remedy).about("first")
    assert type(named) is kind
    assert named.subject == "first"
    assert named.about("second") is named
    assert (named.problem, named.remedy) == (problem, remedy)


def test_about_keeps_the_choices() -> None:
    assert AmbiguousError("two", choices=["a", "b"]).about("x").choices == ("a", "b")


@pytest.mark.parametrize("kind", TREE)
def test_a_copy_says_the_same(kind: type[MedicalSam2Error]) -> None:
    """Copying goes the way by which an error crosses from one process to another."""
    error = kind("problem", "remedy", subject="subject")
    assert str(copy.copy(error)) == str(error)
    assert vars(copy.copy(error)) == vars(error)


def test_exit_codes() -> None:
    assert (InputError("").exit_code, GeometryError("").exit_code) == (2, 2)
    assert (ResourceError("").exit_code, AmbiguousError("").exit_code) == (3, 4)


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 label maps were"), (1, "1 label map was"), (2, "2 label maps were"), (21, "21 label maps were")]
)
def test_one_thing_is_said_in_the_singular(number: int, said: str) -> None:
    assert say_count(number, "label map", "were") == said
    assert say_count(number, "label map") == said.rsplit(maxsplit=1)[0]


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("take `views=one`, or prompt it", "take --views one, or prompt it"),
        ("`islands` keeps them", "--islands keeps them"),
        ("give `adapt=0` to 3600", "give --adapt 0 to 3600"),
        ("lower `smallest`, a setting", "lower `smallest`, a setting"),  # of a recipe: no option of a command
    ],
)
def test_arguments_are_told_as_options_to_whoever_typed_options(text: str, typed: str) -> None:
    assert spell_options(text) == typed

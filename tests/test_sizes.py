"""A file fits on a few screens, a function on one."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "tests", "examples", "benchmarks", "scripts", "recipes")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
LINES_OF_A_FILE, LINES_OF_A_FUNCTION, POSITIONAL_ARGUMENTS = 500, 40, 6

Function = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert list(too_large(text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "\n" * (LINES_OF_A_FILE + 1),
        "def f():\n" + "    pass\n" * LINES_OF_A_FUNCTION,
        "def f(a, b, c, d, e, f, g): ...",
        "class A:\n    async def f(self):\n" + "        pass\n" * LINES_OF_A_FUNCTION,
    ],
)
def test_the_rule_can_fail(text: str) -> None:
    assert len(list(too_large(text))) == 1


def test_a_docstring_is_no_code() -> None:
    lines = "\n".join(["    word"] * 60)
    assert list(too_large(f'def f():\n    """One.\n{lines}\n    """\n    return 1\n')) == []


def too_large(text: str) -> Iterator[str]:
    """What breaks the rule, one line each."""
    if (lines := len(text.splitlines())) > LINES_OF_A_FILE:
        yield f"{lines} lines, allowed are {LINES_OF_A_FILE}"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, Function):
            continue
        if (lines := code_lines(node)) > LINES_OF_A_FUNCTION:
            yield f"line {node.lineno}: {node.name} has {lines} lines of code, allowed are {LINES_OF_A_FUNCTION}"
        if (
            count := len([a for a in node.args.posonlyargs + node.args.args if a.arg not in {"self", "cls"}])
        ) > POSITIONAL_ARGUMENTS:
            yield f"line {node.lineno}: {node.name} takes {count} positional arguments, allowed are {POSITIONAL_ARGUMENTS}"


def code_lines(function: Function) -> int:
    """Lines from `def` to the end, without those of the docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function, clean=False) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def test_no_public_class_has_the_name_of_another() -> None:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES if path.is_relative_to(ROOT / "src")}
    classes = [
        (node.name, path.name) for path, tree in trees.items() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    ]
    names = Counter(name for name, _ in classes if not name.startswith("_"))
    assert [(name, file) for name, file in classes if names[name] > 1] == []

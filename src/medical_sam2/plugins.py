"""Parts chosen by name: a short name from a table, `module:attribute`, or `file.py:attribute`."""

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import partial
from hashlib import sha256
from inspect import getmembers, isfunction
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from medical_sam2.errors import ConfigError

T = TypeVar("T")


def find(
    table: Mapping[str, T],
    name: str | T,
    *,
    what: str = "name",
    trusted: bool = True,
    makes: type | None = None,
    interface: type | None = None,
) -> T:
    """The part called `name`.

    Args:
        table: the short names and what they stand for.
        name: a short name, `module:attribute`, `file.py:attribute`, or the part itself, which is handed back.
        what: what is looked for, for the message ("fusion", "bank" …).
        trusted: False refuses all but short names: a module or file runs code, so never resolve one that a client sent.
        makes: protocol whose methods a plug-in must have, which is then a class of such parts.
        interface: the same for a plug-in that is such a part itself.

    Raises:
        ConfigError: there is no such part (the nearest valid name is suggested), or a plug-in is something else.

    >>> find({"mean": min, "vote": max}, "mean") is min
    True
    """
    if not isinstance(name, str):
        return name
    if name in table:
        return table[name]
    if trusted and ":" in name:
        found = _imported(name, what)
        if (wanted := makes or interface) is not None:
            _check_methods(found, wanted, f"{name} is no {what}", is_class=makes is not None)
        return found
    forms = ", or give module:attribute or file.py:attribute" if trusted else ""
    raise ConfigError(f"unknown {what} {name!r}", suggestion(name, table) + forms)


def suggestion(name: str, valid: Iterable[str]) -> str:
    """What to put instead of an unknown name: the nearest valid one first, then all of them.

    >>> suggestion("vot", ["mean", "vote"])
    "did you mean 'vote'? valid are mean, vote"
    """
    names = sorted(valid)
    near = get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    listed = f"valid are {', '.join(names)}" if names else "none is defined"
    return f"did you mean {near[0]!r}? {listed}" if near else listed


def _imported(name: str, what: str) -> Any:
    place, _, attribute = name.rpartition(":")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except ConfigError:
        raise
    except Exception as error:  # a plug-in is foreign code: whatever it raises is shown as its fault, not ours
        raise ConfigError(f"cannot load {what} {name!r}: {type(error).__name__}: {error}", "mend or rename it") from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        public = [each for each in vars(module) if not each.startswith("_")]
        raise ConfigError(f"{place} has no {attribute!r}", suggestion(attribute, public)) from error


def _check_methods(found: object, wanted: type, problem: str, *, is_class: bool) -> None:
    found = found.func if isinstance(found, partial) else found  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    methods = [method for method, _ in getmembers(wanted, isfunction) if not method.startswith("_")]
    if isinstance(found, type) != is_class or not all(callable(getattr(found, method, None)) for method in methods):
        what = "a class" if is_class else "an object"
        raise ConfigError(problem, f"give {what} with {' and '.join(methods)} (see {wanted.__module__}.{wanted.__name__})")


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"there is no file {path}", "give the path of a Python file")
    # named after its path: two plug-ins may both be called plugin.py, and the same one must stay one module
    name = f"{path.stem}_{sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file", "give the path of a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up while it runs
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module

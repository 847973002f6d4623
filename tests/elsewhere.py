"""A device that is not there: its tensors say that they lie elsewhere, and the processor computes them.

What a GPU refuses is refused here too: an operation on tensors of both places, but for single numbers and indices. So any
machine can tell whether all that is made on the way follows the network to its device. Built on what torch offers for
devices that are written in Python.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend  # pyright: ignore[reportPrivateUsage]

NAME = "elsewhere"
_setup_privateuseone_for_python_backend(NAME)
module: Any = getattr(torch, NAME)
module.get_amp_supported_dtype = lambda: [torch.bfloat16]  # autocast asks, also where it is switched off
DEVICE = torch.device(NAME, 0)


class Away(Tensor):
    """A tensor that says that it lies elsewhere."""

    here: Tensor

    @staticmethod
    def __new__(cls: "type[Away]", here: Tensor) -> "Away":
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype, device=DEVICE
        )
        made.here = here
        return made

    def tolist(self) -> Any:
        """Its numbers."""
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return _performed(func, args, kwargs or {})


class _Dispatched(TorchDispatchMode):
    """What makes tensors without having any."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return _performed(func, args, kwargs or {})


class _Made(TorchFunctionMode):
    """What torch makes of Python's numbers is made here first, as for any device, and then sent there."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        told = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor):
            device = told.pop("device", None)
            made = func(*args, **told)
            return made if device is None else made.to(device)
        if func is Tensor.new_tensor:
            return torch.tensor(args[1], dtype=told.get("dtype") or args[0].dtype).to(told.get("device") or args[0].device)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = (args[0], tuple(torch.tensor(each) if isinstance(each, list) else each for each in places), *args[2:])
        return func(*args, **told)


def sent(network: nn.Module) -> None:
    """Send all weights there, in place."""
    for part in network.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(Away(weight.detach()), requires_grad=weight.requires_grad))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, Away(buffer))


@contextmanager
def elsewhere() -> Iterator[None]:
    """While it lasts, tensors can be made there."""
    with _Dispatched(), _Made():
        yield


def _performed(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    given: list[Tensor] = []

    def here(each: Tensor) -> Tensor:
        given.append(each)
        return each.here if isinstance(each, Away) else each

    places = [_replaced(value, here) for value in args]
    told = {key: _replaced(value, here) for key, value in kwargs.items()}
    away = {id(each.here): each for each in given if isinstance(each, Away)}
    if away:
        _refused(func, args, given)
    asked = kwargs.get("device")
    if asked is not None:
        told["device"] = torch.device("cpu")
    there = bool(away) if asked is None else torch.device(asked).type == NAME

    def placed(result: Tensor) -> Tensor:
        if id(result) in away:
            return away[id(result)]  # what was written to stays what it was
        return Away(result) if there else result

    return _replaced(func(*places, **told), placed)


def _refused(func: Any, args: Sequence[Any], given: Sequence[Tensor]) -> None:
    """Tensors of both places; copies go between them, and indices may be anywhere."""
    if not any(_is_near(each) for each in given):
        return
    name = str(func)
    if "_to_copy" in name or "copy_" in name:
        return
    asked = [each for each in args if isinstance(each, Tensor)] if ".index" in name else given
    for each in asked:
        if _is_near(each):
            raise RuntimeError(f"{name}: tensors {tuple(each.shape)} of the processor among those of {DEVICE}")


def _is_near(each: Tensor) -> bool:
    return bool(each.dim()) and not isinstance(each, Away)


def _replaced(value: Any, act: Callable[[Tensor], Tensor]) -> Any:
    """A value with what `act` makes of its tensors; torch's own way through any value takes longer than the operations."""
    if isinstance(value, Tensor):
        return act(value)
    if isinstance(value, list | tuple):
        return type(value)([_replaced(each, act) for each in value])  # type: ignore[call-arg]
    return value

"""One process or many: started by `torchrun`, they share the clips of each step and keep the same weights.

With one process nothing of this is loaded. With several, Accelerate finds the devices and connects them; weights are copied to
each (DDP) or spread over all (FSDP2), gradients are averaged, and a process that ends takes the job with it.
"""

import gc
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import torch
from torch import Tensor, nn

from medical_sam2.errors import ConfigError, InputError, ResourceError
from medical_sam2.train.watch import Watch

STALLED_S = 45.0
SIGNS = ("gloo", "nccl", "connection", "socket", "timed out", "process group")


class Processes:
    """The processes of a job, as one of them sees it.

    Args:
        device: "auto", "cpu", "cuda".
        stalled_s: silence of another process after which it counts as dead.
    """

    def __init__(self, device: str = "auto", *, stalled_s: float = STALLED_S) -> None:
        self.rank, self.count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self._accelerator: Any = None
        self._watch: Watch | None = None
        if self.count == 1:
            self.device = _device(device)
            return
        self._accelerator = _accelerator(device)
        self.device: torch.device = self._accelerator.device
        self._watch = Watch(self.rank, self.count, stalled_s)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the job; whoever holds the wrapped module and its optimiser lets go of them first (gloo aborts otherwise)."""
        if self._accelerator is None:
            return
        if self._watch is not None:
            self._watch.stop()
        gc.collect()
        if kind is None:
            torch.distributed.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def share(self, module: nn.Module, parts: Sequence[nn.Module], *, spread: bool) -> nn.Module:
        """The module as all processes train it together.

        Args:
            module: on the device of this process.
            parts: of it that are spread one by one, the large ones.
            spread: over the processes, instead of a copy in each.
        """
        if self._accelerator is None:
            return module
        if not spread:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of torch, about a name that Accelerate uses
                return self._accelerator.prepare_model(module)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.count,))
        whole = {parameter for parameter in module.parameters() if parameter.ndim == 0}
        for part in parts:
            fully_shard(part, mesh=mesh)
        fully_shard(module, mesh=mesh, ignored_params=whole)
        return module

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes."""
        if self._accelerator is None:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        with told():
            torch.distributed.all_reduce(sums)
        return sums.tolist()

    def settle(self, parameters: Iterable[nn.Parameter]) -> None:
        """After the backward pass: average the gradients of parameters that are not spread while others are."""
        if self._accelerator is None:
            return
        parameters = list(parameters)
        if not any(is_spread(parameter) for parameter in parameters):
            return
        for parameter in (one for one in parameters if not is_spread(one)):
            gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            torch.distributed.all_reduce(gradient)
            parameter.grad = gradient / self.count

    def limit(self, parameters: Sequence[nn.Parameter], most: float) -> float:
        """Scale all gradients so that their norm is at most `most`; returns the norm before."""
        if not any(is_spread(parameter) for parameter in parameters):
            return float(nn.utils.clip_grad_norm_(parameters, most))
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        squares = torch.zeros(2, dtype=torch.float64)
        for gradient in gradients:
            squares[int(is_spread(gradient))] += float(local(gradient).double().square().sum())
        norm = (float(squares[0]) + self.total([float(squares[1])])[0]) ** 0.5
        for gradient in gradients:
            local(gradient).mul_(min(1.0, most / (norm + 1e-6)))
        return norm


def is_spread(tensor: Tensor) -> bool:
    """Whether this process holds a part of it only."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """The part that this process holds."""
    return cast(Any, tensor).to_local() if is_spread(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of it; every process asks at once."""
    return cast(Any, tensor).full_tensor() if is_spread(tensor) else tensor


def put(tensor: Tensor, value: Tensor) -> None:
    """Copy all of a value into a tensor, of which each process may hold a part."""
    if is_spread(tensor):
        from torch.distributed.tensor import distribute_tensor

        spread = cast(Any, tensor)
        value = distribute_tensor(value.to(spread.device, spread.dtype), spread.device_mesh, spread.placements)
    with torch.no_grad():
        local(tensor).copy_(local(value))


@contextmanager
def told() -> Iterator[None]:
    """Turns the failure of a call that all processes make together into a line that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if not torch.distributed.is_initialized() or not any(sign in str(error).lower() for sign in SIGNS):
            raise
        remedy = "start it again with --resume: it goes on at its checkpoint"
        raise ResourceError("another process of this job has ended", remedy) from error


def _accelerator(device: str) -> Any:
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    except ImportError:
        raise InputError("several processes need Accelerate", "pip install 'medical-sam2[train]'") from None
    unused = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    patience = InitProcessGroupKwargs(timeout=timedelta(minutes=10))
    return Accelerator(cpu=device == "cpu" or not torch.cuda.is_available(), kwargs_handlers=[unused, patience])


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}", "choose auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device here", "choose auto or cpu")
    return device

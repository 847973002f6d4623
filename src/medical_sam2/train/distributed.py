"""One process or many: started by `torchrun`, they share the clips of each step and keep the same weights.

With one process nothing of this is loaded. With several, Accelerate finds the devices and connects them; weights are copied to
each (DDP) or spread over all (FSDP2), gradients are averaged, and a process that ends takes the job with it.

For that each process counts on a store that all can read, and one that stops is missed. Else a process that waits in a
collective call for a dead one would wait for ten minutes, or for ever: `torchrun` ends the others of its own machine alone.
"""

import gc
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from medical_sam2.errors import ConfigError, InputError, ResourceError

STALLED_S = 45.0
BEAT_S = 2.0
EXIT = 3
SIGNS = ("gloo", "nccl", "connection", "socket", "timed out", "process group")


class ProcessGroup:
    """The processes of a job, as one of them sees it.

    Args:
        device: "auto", "cpu", "cuda".
        stalled_s: silence of another process after which it counts as dead.
    """

    def __init__(self, device: str = "auto", *, stalled_s: float = STALLED_S) -> None:
        self.rank, self.count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self._accelerator: Any = None
        self._heartbeat: Heartbeat | None = None
        if self.count == 1:
            self.device = _choose_device(device)
            return
        self._accelerator = _make_accelerator(device)
        self.device: torch.device = self._accelerator.device
        self._heartbeat = Heartbeat(self.rank, self.count, stalled_s)

    def __enter__(self) -> "ProcessGroup":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the job; whoever holds the wrapped module and its optimiser lets go of them first (gloo aborts otherwise)."""
        if self._accelerator is None:
            return
        if self._heartbeat is not None:
            self._heartbeat.stop()
        gc.collect()
        if kind is None:
            torch.distributed.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def wrap(self, module: nn.Module, parts: Sequence[nn.Module], *, spread: bool) -> nn.Module:
        """The module as all processes train it together.

        Args:
            module: on the device of this process.
            parts: of it that are spread one by one, the large ones.
            spread: over the processes, instead of a copy in each.
        """
        if self._accelerator is None:
            return module
        if not spread:
            with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of a name that Accelerate uses
                return self._accelerator.prepare_model(module)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.count,))
        scalars = {parameter for parameter in module.parameters() if parameter.ndim == 0}
        for part in parts:
            fully_shard(part, mesh=mesh)
        fully_shard(module, mesh=mesh, ignored_params=scalars)
        return module

    def add_up(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes."""
        if self._accelerator is None:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        with explain_lost_process():
            torch.distributed.all_reduce(sums)
        return sums.tolist()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """After the backward pass: average the gradients of parameters that are not spread while others are."""
        if self._accelerator is None:
            return
        parameters = list(parameters)
        if not any(is_sharded(parameter) for parameter in parameters):
            return
        for parameter in (one for one in parameters if not is_sharded(one)):
            gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            torch.distributed.all_reduce(gradient)
            parameter.grad = gradient / self.count

    def clip_gradients(self, parameters: Sequence[nn.Parameter], most: float) -> float:
        """Scale all gradients so that their norm is at most `most`; returns the norm before."""
        if not any(is_sharded(parameter) for parameter in parameters):
            return float(nn.utils.clip_grad_norm_(parameters, most))
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        squares = torch.zeros(2, dtype=torch.float64)
        for gradient in gradients:
            squares[int(is_sharded(gradient))] += float(local_part(gradient).double().square().sum())
        norm = (float(squares[0]) + self.add_up([float(squares[1])])[0]) ** 0.5
        for gradient in gradients:
            local_part(gradient).mul_(min(1.0, most / (norm + 1e-6)))
        return norm


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a part of it only."""
    return hasattr(tensor, "full_tensor")


def local_part(tensor: Tensor) -> Tensor:
    """The part that this process holds."""
    return cast(Any, tensor).to_local() if is_sharded(tensor) else tensor


def gather(tensor: Tensor) -> Tensor:
    """All of it; every process asks at once."""
    return cast(Any, tensor).full_tensor() if is_sharded(tensor) else tensor


def assign(tensor: Tensor, value: Tensor) -> None:
    """Copy all of a value into a tensor, of which each process may hold a part."""
    if is_sharded(tensor):
        from torch.distributed.tensor import distribute_tensor

        spread = cast(Any, tensor)
        value = distribute_tensor(value.to(spread.device, spread.dtype), spread.device_mesh, spread.placements)
    with torch.no_grad():
        local_part(tensor).copy_(local_part(value))


@contextmanager
def explain_lost_process() -> Iterator[None]:
    """Turns the failure of a call that all processes make together into a line that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if not torch.distributed.is_initialized() or not any(sign in str(error).lower() for sign in SIGNS):
            raise
        remedy = "start it again with --resume: it goes on at its checkpoint"
        raise ResourceError("another process of this job has ended", remedy) from error


def _make_accelerator(device: str) -> Any:
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    except ImportError:
        raise InputError("several processes need Accelerate", "pip install 'medical-sam2[train]'") from None
    unused = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    patience = InitProcessGroupKwargs(timeout=timedelta(minutes=10))
    return Accelerator(cpu=device == "cpu" or not torch.cuda.is_available(), kwargs_handlers=[unused, patience])


def _choose_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}", "choose auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device here", "choose auto or cpu")
    return device


class Heartbeat:
    """Beats for this process, and ends it with a line when another has been silent for too long.

    Args:
        patience_s: silence after which a process counts as dead.
    """

    def __init__(self, rank: int, count: int, patience_s: float, beat_s: float = BEAT_S) -> None:
        self.rank, self.count, self.patience_s, self.beat_s = rank, count, patience_s, beat_s
        self._done = threading.Event()
        self._store = _open_store(rank, count)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more beats; the others learn that this is no death."""
        self._done.set()
        self._thread.join()
        try:
            self._store.set(f"end{self.rank}", "1")
            deadline = time.monotonic() + 5
            while self.rank == 0 and time.monotonic() < deadline and not self._all_ended():
                time.sleep(0.05)  # the store goes with the process that holds it
        except RuntimeError:
            pass

    def _all_ended(self) -> bool:
        return all(self._store.check([f"end{rank}"]) for rank in range(self.count))

    def _run(self) -> None:
        # A process that ended in order counts as alive; a store that is gone means that process 0 is.
        others = [rank for rank in range(self.count) if rank != self.rank]
        last: dict[int, tuple[int, float]] = {rank: (0, time.monotonic()) for rank in others}
        while not self._done.wait(self.beat_s):
            try:
                self._store.add(f"beat{self.rank}", 1)
                for rank, (seen, since) in last.items():
                    count = self._store.add(f"beat{rank}", 0)
                    if count != seen or self._store.check([f"end{rank}"]):
                        last[rank] = (count, time.monotonic())
                    elif time.monotonic() - since > self.patience_s:
                        self._end(f"process {rank} has been silent for {self.patience_s:.0f} s")
            except RuntimeError:  # the store itself is gone
                if not self._done.wait(5.0):
                    self._end("process 0 has ended")

    def _end(self, what: str) -> None:
        sys.stderr.write(f"{what}: the job ends; start it again with --resume, and it goes on at its checkpoint\n")
        sys.stderr.flush()
        os._exit(EXIT)  # the main thread may wait in a call that nothing interrupts


def _open_store(rank: int, count: int) -> TCPStore:
    """A store at the first process; the others learn its port through the process group."""
    host = os.environ.get("MASTER_ADDR", "localhost")
    store = TCPStore(host, 0, count, True, timedelta(seconds=60), wait_for_workers=False) if rank == 0 else None
    port: list[int] = [store.port if store else 0]
    torch.distributed.broadcast_object_list(port, src=0)
    return store or TCPStore(host, port[0], count, False, timedelta(seconds=60), wait_for_workers=False)

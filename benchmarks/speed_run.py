"""Measures: all runs of a scene frame by frame in turn, so that whatever else the machine does hits all of them."""

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from medical_sam2.segmenter import Precision
from medical_sam2.tracking.encoding import FeatureCache
from speed_own import HERE, VERBS, WAYS, Watched, tracked
from speed_peers import official, session
from speed_scene import Scene, Steps, network, scene

SETTLE = 8  # frames until all maps of SAM 2's memory are there
PEER, OFFICIAL, KEPT = "transformers' session", "official predictor", "features kept"
SIDE, REPEATS = 1024, 5  # of the matrices whose product tells the peak


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        encoder: tiny, small or large.
        sizes: of the network's input, in pixels.
        objects: numbers of objects.
        runs: of this package, of `WAYS`; the others compute in fp32.
        frames: of each run that count, after those that fill the memory.
        official: checkout of the official repository.
    """

    encoder: str = "tiny"
    sizes: tuple[int, ...] = (256, 512)
    objects: tuple[int, ...] = (1, 2, 8)
    runs: tuple[str, ...] = HERE
    frames: int = 5
    official: Path | None = None


@dataclass(frozen=True)
class Timed:
    """How long one run took for a frame.

    Args:
        size: of the network's input, in pixels.
        objects: tracked together.
        name: who ran.
        wall_s: on the clock, of each frame.
        processor_s: of the processor, of each frame.
        apart: largest difference of its mask logits to those of transformers' session.
    """

    size: int
    objects: int
    name: str
    wall_s: tuple[float, ...]
    processor_s: tuple[float, ...]
    apart: float

    @property
    def seconds(self) -> float:
        """Median of the processor's, which other programs disturb less than the clock."""
        return statistics.median(self.processor_s)

    def faster_than(self, other: "Timed") -> float:
        """How many times: median over frames that were computed one after the other, so that what comes and goes cancels."""
        return statistics.median(theirs / own for theirs, own in zip(other.processor_s, self.processor_s, strict=True))


@dataclass(frozen=True)
class Part:
    """What one verb of the network costs.

    Args:
        size: of the network's input, in pixels.
        objects: tracked together.
        name: of this package's run.
        precision: fp32 or bf16.
        verb: encode, fuse, decode or memorise.
        seconds: of the processor, median over frames.
        operations: of one frame, in matrix products and convolutions.
    """

    size: int
    objects: int
    name: str
    precision: str
    verb: str
    seconds: float
    operations: int


@dataclass(frozen=True)
class Measured:
    """All of it.

    Args:
        encoder: tiny, small or large.
        machine: processor, threads and libraries.
        timed: one for each run of each scene.
        parts: one for each verb of each of this package's runs.
        peak: precision → operations a second of a large matrix product.
    """

    encoder: str
    machine: str
    timed: tuple[Timed, ...]
    parts: tuple[Part, ...]
    peak: Mapping[str, float]


def measure(
    plan: Plan, tell: Callable[[str], None] = lambda _: None, keep: Callable[[Measured], None] = lambda _: None
) -> Measured:
    """All scenes, one after the other.

    Args:
        plan: what is measured.
        tell: told of each scene as it begins.
        keep: given what was measured so far after each scene.

    Raises:
        ConfigError: the official predictor cannot be run.
    """
    result = Measured(plan.encoder, machine(), (), (), {precision: _peak(precision) for precision in ("fp32", "bf16")})
    for size, objects in product(plan.sizes, plan.objects):
        tell(f"{size} px, {objects} object(s)")
        one = scene(size, objects, SETTLE + plan.frames + 1)  # the last one is counted
        with torch.autocast("cpu", enabled=False):  # outermost: weights that autocast has rounded stay rounded
            rows, watched = _scene(plan, one)
            parts = [part for name, each in watched.items() for part in _parts(one, name, each)]
        result = replace(result, timed=(*result.timed, *rows), parts=(*result.parts, *parts))
        keep(result)
    return result


def _scene(plan: Plan, one: Scene) -> tuple[list[Timed], dict[str, Watched]]:
    made = network(plan.encoder, one.size)
    runs: dict[str, Steps] = {PEER: session(made, one)}
    if plan.official is not None:
        runs[OFFICIAL] = official(plan.official, plan.encoder, made, one)
    cache = FeatureCache()
    watched = {name: Watched(WAYS[name](made)) for name in plan.runs}
    for name, each in watched.items():
        runs[name] = tracked(each, one, name, cache)
        runs[f"{name}, {KEPT}"] = tracked(Watched(each.segmenter), one, name, cache)
    rows = _interleaved(runs, one, SETTLE + plan.frames)
    made.requires_grad_(False)  # the counter of operations listens to gradients where there can be any
    for name, each in watched.items():
        each.counting = True
        next(runs[name])
    return rows, watched


def _interleaved(runs: Mapping[str, Steps], one: Scene, frames: int) -> list[Timed]:
    """One frame of each run in turn."""
    wall: dict[str, list[float]] = {name: [] for name in runs}
    work: dict[str, list[float]] = {name: [] for name in runs}
    apart = dict.fromkeys(runs, 0.0)
    for _ in range(frames):
        peer: Tensor | None = None
        for name, run in runs.items():
            clock, processor = time.perf_counter(), time.process_time()
            logits = next(run)
            wall[name].append(time.perf_counter() - clock)
            work[name].append(time.process_time() - processor)
            peer = logits if peer is None else peer
            apart[name] = max(apart[name], float((logits - peer).abs().max()))
    return [
        Timed(one.size, one.objects, name, tuple(wall[name][SETTLE:]), tuple(work[name][SETTLE:]), apart[name]) for name in runs
    ]


def _parts(one: Scene, name: str, watched: Watched) -> Iterator[Part]:
    for verb in VERBS:
        seconds = statistics.median(watched.spent[verb][SETTLE:])
        yield Part(one.size, one.objects, name, watched.precision, verb, seconds, watched.counted[verb])


def _peak(precision: Precision) -> float:
    """Operations a second of a large matrix product."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.ones(SIDE, SIDE, dtype=kind) for _ in range(2))
    took = [_seconds(lambda: left @ right) for _ in range(REPEATS + 1)][1:]
    return 2 * SIDE**3 / min(took)


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def machine() -> str:
    """Processor, what it computes in bfloat16 with, threads and libraries."""
    able = torch.cpu.get_capabilities()
    units = [name for name in ("avx512_bf16", "amx_bf16") if able.get(name)]
    name = f"{able.get('cpu_name') or platform.processor()} ({', '.join(units) or 'no bf16 unit'})"
    libraries = f"torch {torch.__version__}, transformers {version('transformers')}"
    return f"{name}, {torch.get_num_threads()} thread(s), {libraries}"


def chosen(rows: Sequence[Timed], size: int, objects: int) -> dict[str, Timed]:
    """The runs of one scene by name."""
    return {row.name: row for row in rows if (row.size, row.objects) == (size, objects)}

"""Memory banks: which memories of an object are kept, and how much each counts on the next frame.

Three policies, one small class each: `Fifo` (SAM 2; equation 1 of the paper), `SelfSorting` (equations 2-5) and `Greedy`
(the rule of the authors' released code). Prompted memories are pinned: they carry the prompt, are never evicted and always
attended to; `SelfSorting(pin="first")` pins the first alone, as the paper does (equation 6), and sorts later ones. All state
of tracking lives here. A bank holds a bounded number of memories, however long the sequence. Each object sorts its own
memories, so objects in lock step do not influence each other.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from medical_sam2.model.backbone import Memory, Recall, Recalled

NEAR = 2  # frames between which a mask is moved from one to the other
FLOOR = 1e-3  # a negative cosine has no meaning as a share of draws (equation 4)


class MemoryBank(Protocol):
    """State of tracking: memories of B objects."""

    def recall(self, t: int, query_BC: Tensor) -> Recall:
        """What each object attends to on frame t, whose image embedding is `query_BC` (B may be 1)."""
        ...

    def store(self, memories: Sequence[Memory]) -> None:
        """Offer one memory for each object."""
        ...


class Policy(Protocol):
    """How the memories of a single object are kept and weighed."""

    def keep(self, bank: list[Memory], new: Memory) -> list[Memory]:
        """The bank after `new` was offered."""
        ...

    def weigh(self, bank: list[Memory], t: int, query_C: Tensor) -> list[Recalled]:
        """What is attended to on frame t."""
        ...


@runtime_checkable
class Timed(Protocol):
    """A policy that counts time in shares of the sequence: a bank that knows the length tells it."""

    frames: int | None


class PolicyBank:
    """A memory bank that applies one policy to each object on its own.

    Args:
        policy: makes that of an object.
        ordered: whether frames that follow each other show neighbouring slices (for all objects, or for each): then what was
            found on the nearest frame is recalled too, whatever the policy keeps.
        frames: length of the sequence, for a policy that is `Timed` and was not told.
    """

    def __init__(
        self, policy: Callable[[], Policy], *, ordered: bool | Sequence[bool] = False, frames: int | None = None
    ) -> None:
        self._policy, self._ordered, self._frames = policy, ordered, frames
        self._policies: list[Policy] = []
        self._latest: list[Memory] = []
        self.memories: list[list[Memory]] = []

    def recall(self, t: int, query_BC: Tensor) -> Recall:
        """What each object attends to on frame t."""
        queries = query_BC.expand(len(self.memories), -1)
        recall = [p.weigh(m, t, q) for p, m, q in zip(self._policies, self.memories, queries, strict=True)]
        ordered = [self._ordered] * len(recall) if isinstance(self._ordered, bool) else self._ordered
        return [[*own, *(self._nearest(b, t) if ordered[b] else ())] for b, own in enumerate(recall)]

    def _nearest(self, b: int, t: int) -> Sequence[Recalled]:
        memory = min([self._latest[b], *self.memories[b]], key=lambda m: abs(m.t - t))
        return [Recalled(memory, map=False, pointer=False, near=True)] if abs(memory.t - t) <= NEAR else ()

    def store(self, memories: Sequence[Memory]) -> None:
        """Offer one memory for each object."""
        if not self.memories:
            self._policies = [self._made() for _ in memories]
            self.memories = [[] for _ in memories]
        self._latest = list(memories)
        for b, memory in enumerate(memories):
            self._offer(b, memory)

    def _offer(self, b: int, memory: Memory) -> None:
        with torch.autocast(memory.map_Chw.device.type, enabled=False):  # rounded likeness keeps other memories
            self.memories[b] = self._policies[b].keep(self.memories[b], memory)

    def _made(self) -> Policy:
        policy = self._policy()
        if isinstance(policy, Timed) and policy.frames is None:
            policy.frames = self._frames
        return policy

    def forget(self, b: int, times: Collection[int]) -> dict[int, float]:
        """Drop what an object remembers of some frames; returns its unprompted memories among them, frame → confidence."""
        if not self.memories:
            return {}
        dropped = [m for m in self.memories[b] if m.t in times]
        self.memories[b] = [m for m in self.memories[b] if m.t not in times]
        return {m.t: m.confidence for m in dropped if not m.prompted}

    def branch(self) -> "PolicyBank":
        """One that remembers the same, and from now on what it is offered itself."""
        other = copy(self)
        other._policies, other.memories = [copy(policy) for policy in self._policies], [[*own] for own in self.memories]
        return other

    def store_all(self, other: "PolicyBank") -> None:
        """Offer each object what it remembers in another bank, as far as it is not remembered here."""
        for b, offered in enumerate(other.memories):
            known = {memory.t for memory in self.memories[b]}
            for memory in (one for one in offered if one.t not in known):
                self._offer(b, memory)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between vectors: `sim` of the paper, 1 for a vector and itself."""
    return F.cosine_similarity(a.flatten(1).float(), b.flatten(1).float(), dim=1)


@dataclass
class Fifo:
    """SAM 2's memory: prompted frames and the last `maps` − 1 tracked ones, in time (equation 1)."""

    maps: int = 7  # memories attended to beside further prompted ones, SAM 2's `num_maskmem`
    pointers: int = 16  # object pointers attended to, SAM 2's `max_object_pointers_in_encoder`
    # length of the sequence where it is known: from fewer than `pointers`, as many less one are attended to, and the time of
    # pointers is counted in shares of that
    frames: int | None = None
    _last: int | None = None

    def keep(self, bank: list[Memory], new: Memory) -> list[Memory]:
        """Prompted memories stay, the oldest of the others goes."""
        self._last = new.t
        pinned = [m for m in bank if m.prompted and m.t != new.t]
        tracked = [m for m in bank if not m.prompted and m.t != new.t]
        if new.prompted:
            return [*pinned, new, *tracked]
        return [*pinned, *[*tracked, new][-(self.pointers - 1) :]]

    def weigh(self, bank: list[Memory], t: int, query_C: Tensor) -> list[Recalled]:
        """Prompted memories first, then the tracked ones from far to near, each with its distance."""
        direction = -1 if self._last is not None and t < self._last else 1
        longest = max(1, min(self.frames or self.pointers, self.pointers) - 1)
        recalled = []
        for memory in sorted(bank, key=lambda m: (not m.prompted, m.t if m.prompted else -abs(t - m.t))):
            elapsed = (t - memory.t) * direction
            if memory.prompted:
                recalled.append(Recalled(memory, place=0, elapsed=elapsed / longest, pointer=elapsed >= 0))
            elif 0 < elapsed <= longest:
                near = elapsed < self.maps
                recalled.append(Recalled(memory, place=elapsed, elapsed=elapsed / longest, map=near))
        return recalled


@dataclass
class SelfSorting:
    """The self-sorting memory bank of Medical SAM 2 (equations 2-5): confident and dissimilar memories, in no order."""

    size: int = 7  # K, memories kept, the prompted ones among them
    threshold: float = 0.5  # c_thresh, the confidence (predicted IoU) from which a memory may enter
    # "expected" weighs each memory by its expected number of draws, "sample" draws K times with replacement, "none" lets each
    # count once
    resample: Literal["expected", "sample", "none"] = "expected"
    temperature: float | None = None  # None for the paper's plain normalisation of cosines, else that of a softmax over them
    # which temporal encoding a memory gets: none, that of a prompted frame, or by rank of likeness
    temporal: Literal["none", "prompted", "rank"] = "prompted"
    # which prompted memories are kept and attended to whatever their likeness: each, the first alone (equation 6), or none
    pin: Literal["all", "first", "none"] = "all"
    sort: bool = True  # whether dissimilar memories are preferred (equations 2-3); otherwise the latest confident ones stay
    seed: int = 0  # of the draws, where there are any
    _first: int | None = field(default=None, repr=False)  # when the first prompt was shown: a frame may be shown anew

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def __copy__(self) -> "SelfSorting":
        other = object.__new__(type(self))
        vars(other).update(vars(self), _rng=deepcopy(self._rng))  # draws of its own: both may be asked at once
        return other

    def keep(self, bank: list[Memory], new: Memory) -> list[Memory]:
        """The K most dissimilar of the bank and a confident newcomer; an unsure one leaves the bank as it is."""
        if not new.prompted and new.confidence < self.threshold:
            return bank
        if new.prompted and self._first is None:
            self._first = new.t
        # in the order of the equations: who may enter, who is pinned, who is most unlike the others; the bank's order stays
        candidates = [*(m for m in bank if m.t != new.t or m.prompted), new]
        if len(candidates) <= self.size:
            return candidates
        pinned = self._pinned(candidates)
        worth = self._dissimilarity(candidates) if self.sort else [float(i) for i in range(len(candidates))]
        ranked = sorted(range(len(candidates)), key=lambda i: (not pinned[i], -worth[i]))
        kept = ranked[: max(self.size, sum(pinned))]
        return [candidates[i] for i in sorted(kept)]

    def weigh(self, bank: list[Memory], t: int, query_C: Tensor) -> list[Recalled]:
        """Each memory with the logarithm of how often it counts."""
        if not bank:
            return []
        likeness = cosine(query_C[None].expand(len(bank), -1), torch.stack([m.summary_C for m in bank])).detach()
        counts = self._counts(likeness, self._pinned(bank))
        rank = likeness.argsort(descending=True).argsort().tolist()
        return [
            Recalled(memory, log_weight=math.log(count), place=self._place(memory, rank[i]))
            for i, (memory, count) in enumerate(zip(bank, counts, strict=True))
            if count > 0
        ]

    def _pinned(self, memories: Sequence[Memory]) -> list[bool]:
        return [m.prompted and (self.pin == "all" or (self.pin == "first" and m.t == self._first)) for m in memories]

    def _dissimilarity(self, memories: list[Memory]) -> list[float]:
        """D_i = Σ_{j≠i} (1 − sim(E_i, E_j)), equation 2."""
        maps = F.normalize(torch.stack([m.map_Chw.detach().flatten() for m in memories]).float(), dim=1)
        similar = maps @ maps.T
        return (len(memories) - 1 - (similar.sum(1) - similar.diagonal())).tolist()

    def _counts(self, likeness: Tensor, pinned: Sequence[bool]) -> list[float]:
        """How often each memory counts among as many draws as there are memories (equations 4 and 5)."""
        k = len(likeness)
        if self.resample == "none":
            return [1.0] * k
        share = likeness.clamp(min=FLOOR) if self.temperature is None else (likeness / self.temperature).softmax(0)
        share = share.double() / share.double().sum()
        if self.resample == "expected":
            draws = (k * share).cpu().numpy()
        else:
            draws = self._rng.multinomial(k, share.cpu().numpy()).astype(float)
        return [max(float(n), float(pin)) for n, pin in zip(draws, pinned, strict=True)]

    def _place(self, memory: Memory, rank: int) -> int | None:
        if self.temporal == "none":
            return None
        if self.temporal == "prompted" or memory.prompted:
            return 0
        return 1 + min(rank, 5)


@dataclass
class Greedy:
    """The swap of the authors' released 2D code: a newcomer replaces the nearest neighbour of its own nearest neighbour.

    With a = argmax-similar memory to the newcomer turned round as released, a = argmin_i sim(new, i) and
    b = argmax_{j≠a} sim(a, j), the newcomer replaces b if sim(new, a) < sim(a, b) and its confidence exceeds b's less 0.1.
    """

    size: int = 16  # K, memories kept beside the prompted ones
    slack: float = 0.1  # how much less confident than b the newcomer may be
    resample: Literal["expected", "sample", "none"] = "expected"  # as in `SelfSorting`
    seed: int = 0

    def __post_init__(self) -> None:
        self._weigher = SelfSorting(size=self.size, resample=self.resample, seed=self.seed)

    def __copy__(self) -> "Greedy":
        other = object.__new__(type(self))
        vars(other).update(vars(self), _weigher=copy(self._weigher))
        return other

    def keep(self, bank: list[Memory], new: Memory) -> list[Memory]:
        """The bank, with one memory swapped for the newcomer where the rule says so."""
        free = [i for i, m in enumerate(bank) if not m.prompted]
        if new.prompted or len(free) < self.size:
            return [*bank, new]
        if len(free) < 2:
            return bank
        # a and b as in the docstring; the argmin is the released code's, whatever it was meant to be
        maps = F.normalize(torch.stack([bank[i].map_Chw.detach().flatten() for i in free]).float(), dim=1)
        to_new = maps @ F.normalize(new.map_Chw.detach().flatten().float(), dim=0)
        a = int(to_new.argmin())
        to_a = maps @ maps[a]
        to_a[a] = -math.inf
        b = int(to_a.argmax())
        if to_new[a] < to_a[b] and new.confidence > bank[free[b]].confidence - self.slack:
            return [new if i == free[b] else memory for i, memory in enumerate(bank)]
        return bank

    def weigh(self, bank: list[Memory], t: int, query_C: Tensor) -> list[Recalled]:
        """As the self-sorting bank."""
        return self._weigher.weigh(bank, t, query_C)


POLICIES: Mapping[str, Callable[..., Policy]] = {
    "self-sorting": SelfSorting,
    "first-pinned": partial(SelfSorting, pin="first"),  # self-sorting with later prompts sorted too, as in the paper
    "fifo": Fifo,
    "greedy": Greedy,
    "prompted": partial(SelfSorting, threshold=2.0),  # and nothing else: answers do not depend on the order of frames
}

"""What the property tests draw from."""

from itertools import permutations, product

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from medical_sam2.views import View

PAIRS = ("RL", "AP", "SI")
CODES = sorted("".join(code) for pairs in permutations(PAIRS) for code in product(*pairs))
"""All 48 orientations."""

codes = st.sampled_from(CODES)
views = codes.map(View)
shapes = st.tuples(*[st.integers(1, 6)] * 3)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def indices(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A voxel of an array."""
    return tuple(draw(st.integers(0, size - 1)) for size in shape)


@st.composite
def masks(draw: st.DrawFn, shape: tuple[int, ...], *, some: bool = False) -> NDArray[np.bool_]:
    """A mask of random density, from empty to full; with `some`, never empty."""
    rng = np.random.default_rng(draw(seeds))
    mask = rng.random(shape) < draw(st.sampled_from([0.0, 0.05, 0.3, 0.7, 1.0]))
    if some:
        mask[draw(indices(shape))] = True
    return mask

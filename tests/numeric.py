"""Gradients of NumPy functions, to compare those of losses with."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def numeric_gradient(function: Callable[[NDArray], float], at: NDArray, step: float = 1e-5) -> NDArray:
    """Central differences in every entry of a float64 array; good to about 1e-8 for a smooth function near 1."""
    gradient = np.zeros_like(at)
    for entry in np.ndindex(at.shape):
        nudge = np.zeros_like(at)
        nudge[entry] = step
        gradient[entry] = (function(at + nudge) - function(at - nudge)) / (2 * step)
    return gradient

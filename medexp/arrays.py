"""Types of arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
"""Floating-point numbers of any precision; a docstring gives the shape."""

MAX_VALUE = 1e30
"""Largest absolute value of a voxel: squares and sums of more leave float32's range."""

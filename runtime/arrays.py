"""Types of the arrays that every wing passes around."""

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Floating = NDArray[np.floating]
Ints = NDArray[np.int64]

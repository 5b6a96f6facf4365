"""The arrays that networks take and give."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32 | np.float16 | np.int64 | np.uint8]
FloatArray = npt.NDArray[np.float32]

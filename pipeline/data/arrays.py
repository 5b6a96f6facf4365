"""The arrays that data and networks are made of."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


Float64 = npt.NDArray[np.float64]


IntArray = npt.NDArray[np.int64]


Bytes = npt.NDArray[np.uint8]


Targets = npt.NDArray[np.int64 | np.float32]


Numbers = npt.NDArray[np.uint8 | np.int64 | np.float32]


class Split(Protocol):
    """Map-style labelled data, as a torch Dataset is: `self[i]` is an input and its target."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[npt.ArrayLike, npt.ArrayLike]: ...

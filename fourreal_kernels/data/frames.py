"""The frame arrays that the writers accept, checked and turned into 8-bit RGB."""

from typing import Any

import numpy as np
import torch

# Room for the rounding of float arithmetic; anything further out is a mistake of the caller.
RANGE_TOLERANCE = 1e-3


class VideoError(ValueError):
    """Bad video input or output, in one line that names the path, what was found and what was expected."""


def video_error(path: object, got: object, expected: object) -> VideoError:
    """A VideoError whose message stays on one line whatever its parts hold."""
    return VideoError(" ".join(f"{path}: {got}; expected {expected}".split()))


def to_numpy(array: Any) -> np.ndarray:
    """A numpy view or copy of a tensor or array; 16-bit floats become float32."""
    if isinstance(array, torch.Tensor):
        array = array.detach()
        if array.is_floating_point():
            array = array.float()
        return array.cpu().numpy()
    return np.asarray(array)


def to_uint8(frames: Any, leading: str) -> np.ndarray:
    """Turn frames into contiguous uint8 ``(*leading, H, W, 3)``.

    ``frames`` is a tensor or array, either floating point ``(*leading, 3, H, W)`` in [0, 1] or uint8
    ``(*leading, H, W, 3)``. ``leading`` names the leading axes by one letter each, e.g. ``"F"`` or ``"VT"``.
    Raises TypeError for another dtype and ValueError for another shape, an empty axis, NaN, infinity or
    a value outside [0, 1].
    """
    array = to_numpy(frames)
    names = ", ".join(leading)
    expected = f"float ({names}, 3, H, W) in [0, 1] or uint8 ({names}, H, W, 3)"
    is_float = np.issubdtype(array.dtype, np.floating)
    if not is_float and array.dtype != np.uint8:
        raise TypeError(f"frames: got dtype {array.dtype}, expected {expected}")
    channel_axis = -3 if is_float else -1
    if array.ndim != len(leading) + 3 or array.shape[channel_axis] != 3 or array.size == 0:
        got = f"{array.dtype} of shape {array.shape}"
        raise ValueError(f"frames: got {got}, expected {expected}, no axis empty")
    if not is_float:
        return np.ascontiguousarray(array)
    lowest, highest = float(array.min()), float(array.max())
    if not (lowest >= -RANGE_TOLERANCE and highest <= 1 + RANGE_TOLERANCE):
        raise ValueError(
            f"frames: got values from {lowest:.4g} to {highest:.4g}, expected finite values in [0, 1]; "
            "clamp them first if they are meant to be saturated"
        )
    levels = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(levels, -3, -1))


def check_given(given: Any, views: int, times: int) -> np.ndarray | None:
    """Return ``given`` as a bool array ``(V, T)``, or None; ValueError for another shape or dtype."""
    if given is None:
        return None
    mask = to_numpy(given)
    if mask.dtype != np.bool_ or mask.shape != (views, times):
        got = f"{mask.dtype} of shape {mask.shape}"
        raise ValueError(f"given: got {got}, expected bool (V, T) = ({views}, {times})")
    return mask

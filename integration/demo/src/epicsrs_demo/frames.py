"""The camera's frames, as the catalog gives them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from epicsrs_demo.stored import Stored


class FramesError(RuntimeError):
    """They show no light."""


@dataclass(frozen=True)
class Frames:
    """The frames of a run.

    Attributes:
        path: The file that they are in.
        images: Of shape (frames, rows, columns).
    """

    path: Path
    images: np.ndarray

    @property
    def spots(self) -> np.ndarray:
        """The middle of the light in each frame, in pixels: shape (frames, 2), column and row."""
        # Noise is much less than half of the brightest pixel.
        light = np.where(self.images > self.images.max(axis=(1, 2), keepdims=True) / 2, self.images, 0).astype(float)
        rows, columns = np.indices(light.shape[1:])
        total = light.sum(axis=(1, 2))
        return np.stack([(light * axis).sum(axis=(1, 2)) / total for axis in (columns, rows)], axis=1)


def frames_of(run: Stored) -> Frames:
    """The frames of the camera scan.

    Raises:
        FramesError: Some are without light.
    """
    images = run.stream("primary").data["camera"]
    if not images.any(axis=(1, 2)).all():
        raise FramesError(f"{run.files[0]} has frames without any light")
    return Frames(run.files[0], images)

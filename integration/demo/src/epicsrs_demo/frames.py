"""The camera's frames, in the HDF5 file that a run's documents point to."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

import h5py
import numpy as np

from epicsrs_demo.documents import RunDocuments


class FramesError(RuntimeError):
    """The file does not hold what the documents say."""


@dataclass(frozen=True)
class Frames:
    """The frames of a run.

    Attributes:
        path: The file.
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


def read_frames(run: RunDocuments) -> Frames:
    """Read the file back.

    Raises:
        FramesError: It has another number of frames than the documents tell, or frames without light.
    """
    [resource] = run.named("stream_resource")
    told = max(datum["indices"]["stop"] for datum in run.named("stream_datum"))
    path = Path(unquote(urlparse(resource["uri"]).path))
    with h5py.File(path) as file:
        images = np.asarray(file[resource["parameters"]["dataset"]])
    if len(images) != told:
        raise FramesError(f"{path} has {len(images)} frames, and the documents tell of {told}")
    if not images.any(axis=(1, 2)).all():
        raise FramesError(f"{path} has frames without any light")
    return Frames(path, images)

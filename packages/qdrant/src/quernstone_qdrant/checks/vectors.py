"""Check the vectors of a point against the settings, each other and embeddings of its text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from quernstone.types import Float32Array, unit_prefix
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.settings import PREFIX, uint8_scale

_LENGTH_TOLERANCE = 0.01
"""Tolerance for the length of a unit vector: float16 storage rounds each number to three digits."""
_UINT8_LENGTH_TOLERANCE = 0.04
"""Rounding every value by half a step changes the length by up to 4 / 127."""
_FLOAT32_ERROR = 2.0**-21
"""Relative error of a vector that was normalized twice in float32, here and by Qdrant."""
_FLOAT16_ERROR, _FLOAT16_STEP = 2.0**-11, 2.0**-25
"""Rounding of a float16: relative, and for values that are nearly 0."""

_Doubles = npt.NDArray[np.float64]


class VectorCheck:
    """A check of the vectors of one collection."""

    def __init__(self, provenance: Provenance) -> None:
        self._settings = provenance.settings
        self._expected = self._settings.vectors(provenance.dimensions)

    def problems(self, vectors: Mapping[str, Float32Array]) -> list[str]:
        """Describe each missing or damaged vector, and a short vector that does not match."""
        found = {name: self.problem(name, vectors.get(name)) for name in self._expected}
        wrong = [
            f"its vector{f' `{name}`' if name else ''} {problem}"
            for name, problem in found.items()
            if problem is not None
        ]
        if not wrong and not self.is_prefix(vectors):
            wrong.append(f"its vector `{PREFIX}` is not the beginning of `{self._settings.vector}`")
        return wrong

    def is_prefix(self, vectors: Mapping[str, Float32Array]) -> bool:
        """Return True if the short vector is the prefix of the full one, except for rounding.

        Args:
            vectors: The vectors of a point, each of which is valid by itself.
        """
        if PREFIX not in self._expected:
            return True
        short = vectors[PREFIX].astype(np.float64)
        stored = vectors[self._settings.vector][: short.size]
        full, error = self._decoded(stored, vectors[self._settings.vector].size)
        exact = np.isfinite(error)
        full, short, error = full[exact], short[exact], error[exact]
        length, rounding = float(np.linalg.norm(full)), float(np.linalg.norm(error))
        if length <= 2 * rounding:
            return True  # rounding left nothing to compare
        norm = float(np.linalg.norm(short)) or 1.0
        distance = float(np.linalg.norm(full / length - short / norm))
        return distance <= 2 * rounding / length + _FLOAT32_ERROR

    def prefix_of(self, full: Float32Array) -> Float32Array:
        """Compute the short vector from the stored full one.

        Shape: (dimensions,) -> (size of the short vector,)
        """
        values, _ = self._decoded(full, full.size)
        return unit_prefix(values.astype(np.float32), self._expected[PREFIX].size)

    def cosines(
        self, vectors: Mapping[str, Float32Array], embedding: Float32Array, text: str
    ) -> dict[str, float]:
        """Compare each dense vector of a point with an embedding of its text.

        Args:
            vectors: The vectors of the point, which must be valid.
            embedding: A unit vector. Shape: (dimensions,)
            text: The embedded text.

        Returns:
            The cosine for each name.
        """
        rows = self._settings.vectors_to_write(embedding[None], [text])
        return {
            name: _cosine(self._centered(name, vectors[name]), self._centered(name, row[0]))
            for name, row in rows.items()
            if isinstance(row, np.ndarray)
        }

    def problem(self, name: str, vector: Float32Array | None) -> str | None:
        """Describe why a vector of a point is not valid by itself; return None if it is."""
        expected = self._expected[name]
        if vector is None:
            return "is missing"
        if vector.shape != (expected.size,):
            return f"has {vector.size} numbers instead of {expected.size}"
        if not np.isfinite(vector).all():
            return "contains NaN or infinity"
        return self._wrong_length(name, vector)

    def _wrong_length(self, name: str, vector: Float32Array) -> str | None:
        """Describe a vector whose length, before the conversion to uint8, is not 1."""
        tolerance, clipped = _LENGTH_TOLERANCE, False
        values = vector.astype(np.float64)
        if self._is_uint8(name):
            tolerance = _UINT8_LENGTH_TOLERANCE
            values, error = self._decoded(vector, vector.size)
            clipped = bool(np.isinf(error).any())
        length = float(np.linalg.norm(values))
        # Clipping makes values smaller, and the vector shorter.
        if length > 1 + tolerance or (length < 1 - tolerance and not clipped):
            return f"has length {length:.3f} instead of 1"
        return None

    def _decoded(self, stored: Float32Array, dimensions: int) -> tuple[_Doubles, _Doubles]:
        """Return the values of a stored full vector, and the largest rounding error of each.

        Both have the shape of `stored`. The error of a clipped uint8 value is infinite.
        """
        datatype = self._settings.datatype
        values = stored.astype(np.float64)
        if datatype == "uint8":
            scale = uint8_scale(dimensions)
            clipped = (stored <= 0) | (stored >= 255)
            return (values - 128) / scale, np.where(clipped, np.inf, 0.5 / scale)
        if datatype == "float16":
            return values, np.abs(values) * _FLOAT16_ERROR + _FLOAT16_STEP
        return values, np.abs(values) * _FLOAT32_ERROR

    def _is_uint8(self, name: str) -> bool:
        return name == self._settings.vector and self._settings.datatype == "uint8"

    def _centered(self, name: str, vector: Float32Array) -> Float32Array:
        return vector - 128 if self._is_uint8(name) else vector


def _cosine(one: Float32Array, other: Float32Array) -> float:
    norms = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(one @ other) / (norms or 1.0)

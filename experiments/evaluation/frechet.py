"""The Fréchet distance between two sets of images, in the features of any network.

It is called FID in the features of one Inception network (experiments/evaluation), and nowhere else. Figures for other
features, or for sets of other sizes (small sets lie further away), do not compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from configs import InputError


class Moments(Protocol):
    """What a Fréchet distance needs to know of a set of features."""

    @property
    def mean(self) -> np.ndarray: ...  # (width,) float64

    @property
    def cov(self) -> np.ndarray: ...  # (width, width) float64


@dataclass(frozen=True)
class Gaussian:
    """Moments that were computed earlier, as files of statistics hold them."""

    mean: np.ndarray  # (width,)
    cov: np.ndarray  # (width, width)

    def __post_init__(self) -> None:
        for name in ("mean", "cov"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        if self.mean.ndim != 1 or self.cov.shape != 2 * self.mean.shape:
            raise InputError(f"a mean must be (width,) and its covariance (width, width), not {self.mean.shape} and "
                             f"{self.cov.shape}")  # fmt: skip
        if not (np.isfinite(self.mean).all() and np.isfinite(self.cov).all()):
            raise InputError("a mean and its covariance must be finite, but some values are NaN or infinite")


class FeatureStatistics:
    """Count, mean and covariance, in float64, of features that come in batches of any size."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = np.zeros(width)  # (width,)
        self._scatter = np.zeros((width, width))  # sum of (x - mean)(x - mean)ᵀ

    @property
    def width(self) -> int:
        return len(self.mean)

    @property
    def cov(self) -> np.ndarray:
        """The unbiased covariance, as np.cov -> (width, width). Raises InputError for fewer than 2 samples."""
        if self.count < 2:
            raise InputError(f"a covariance needs at least 2 samples, not {self.count}")
        return self._scatter / (self.count - 1)

    def update(self, features: Tensor) -> None:
        """Adds features (N, width). Raises InputError for another shape, and for NaN or infinity."""
        x = features.detach().double().cpu().numpy()
        if x.ndim != 2 or x.shape[1] != self.width:
            raise InputError(f"features must be (N, {self.width}), not {x.shape}")
        if not np.isfinite(x).all():
            raise InputError("features must be finite, but some are NaN or infinite")
        if len(x):
            mean = x.mean(0)
            self._add(len(x), mean, (x - mean).T @ (x - mean))

    def merge(self, other: FeatureStatistics) -> None:
        """Adds the samples of `other`. Raises InputError where their features are of another width."""
        _check_widths(self, other)
        if other.count:
            self._add(other.count, other.mean, other._scatter)

    def _add(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        """The parallel update of Chan, Golub and LeVeque (1979), which never subtracts large sums."""
        total = self.count + count
        difference = mean - self.mean
        self._scatter = self._scatter + scatter + np.outer(difference, difference) * (self.count * count / total)
        self.mean = self.mean + difference * (count / total)
        self.count = total


def frechet_distance(a: Moments, b: Moments) -> float:
    """|μa - μb|² + tr(Sa + Sb - 2 (Sa Sb)^½) (Dowson and Landau 1982), squared as FID is.

    Sa Sb = A Aᵀ B Bᵀ has the eigenvalues of (Aᵀ B)(Aᵀ B)ᵀ, so tr (Sa Sb)^½ is the sum of the singular values of Aᵀ B:
    real, and defined for singular covariances, unlike the square root of a matrix that is not symmetric.
    Raises InputError for fewer than 2 samples and for features of different widths.
    """
    _check_widths(a, b)
    cov_a, cov_b = a.cov, b.cov
    root = np.linalg.svd(_factor(cov_a).T @ _factor(cov_b), compute_uv=False).sum()
    distance = np.square(a.mean - b.mean).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root
    return max(0.0, float(distance))  # rounding can leave equal sets a little below 0


def _factor(cov: np.ndarray) -> np.ndarray:
    """A with A Aᵀ = cov, which is symmetric and has no eigenvalues below 0 but for rounding."""
    values, vectors = np.linalg.eigh(cov)
    return vectors * np.sqrt(values.clip(min=0))


def _check_widths(a: Moments, b: Moments) -> None:
    if len(a.mean) != len(b.mean):
        raise InputError(f"features of {len(a.mean)} dimensions cannot be compared with features of {len(b.mean)}")

"""Fresh noise from a few low-dose versions of a slice, at the price of a sum.

Versions x_k of one slice are the same anatomy with independent noise of one distribution, mean m
and covariance C. With factors a_k whose sum and sum of squares are 1, the mean of sum a_k x_k is
sum a_k m = m, and its covariance sum a_k^2 C = C. Three such factors lie on a circle, so that an
angle and a choice of three versions make a new image each time. Draws are not independent of each
other: all lie in the space that the versions span. Higher moments are nearer to those of a normal
distribution than one version's.

Factors are whole numbers of 1 / UNIT, so that every loader and device computes the same pixels.
"""

import math

import numpy as np

BITS = 16
UNIT = 1 << BITS
"""What a factor of 1 is stored as."""
MIXED = 3
"""Versions in a mixture."""
Mix = tuple[tuple[int, int], ...]
"""Version and factor in 1 / UNIT, for each that is mixed."""


def draw(versions: int, generator: np.random.Generator) -> Mix:
    """How to mix so many versions of a slice once.

    Args:
        versions: how many there are, at least 1; of two, one is taken as it is.
        generator: not used for one version.

    Returns:
        Empty for one version, else one or three versions with their factors.
    """
    if versions == 1:
        return ()
    if versions < MIXED:
        return ((int(generator.integers(versions)), UNIT),)
    chosen = generator.choice(versions, MIXED, replace=False).tolist()
    return tuple(zip(chosen, factors(generator.uniform(0, 2 * math.pi)), strict=True))


def factors(angle: float) -> tuple[int, int, int]:
    """Three factors in 1 / UNIT, the sum exactly 1 and the sum of squares 1 up to rounding.

    Args:
        angle: place on their circle in rad; at 0 the first one is 1 and the others are 0.
    """
    first, second = (
        round(UNIT * (1 + 2 * math.cos(angle + turn)) / 3) for turn in (0, 2 * math.pi / 3)
    )
    return first, second, UNIT - first - second

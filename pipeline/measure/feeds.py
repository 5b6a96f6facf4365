"""Inputs on which every form of a network must agree: real ones, noise and edges."""

import numpy as np

from pipeline.data.arrays import FloatArray
from pipeline.data.batches import balanced_indices, batches
from pipeline.task import Task

REAL_INPUTS = 32


RANDOM_INPUTS = 32


EDGE_INPUTS = 8


def images_and_others(inputs: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The real ones of `parity_inputs`, and the random and edge ones."""
    real = len(inputs) - RANDOM_INPUTS - EDGE_INPUTS
    return inputs[:real], inputs[real:]


def parity_inputs(task: Task) -> FloatArray:
    """Real, random and edge inputs [n, ...] on which every later form must agree."""
    real, _ = next(batches(task.train, balanced_indices(task.train, REAL_INPUTS, 0), REAL_INPUTS))
    generator = np.random.default_rng(0)
    shape = real.shape[1:]
    random = generator.standard_normal((RANDOM_INPUTS, *shape), np.float32)
    return np.concatenate([real, random, _edges(shape, real.min(), real.max())])


def _edges(shape: tuple[int, ...], least: float, most: float) -> FloatArray:
    """[EDGE_INPUTS, *shape]: constants, single values, one channel, a ramp, a chequered field."""
    middle, corner, channel = (np.zeros(shape) for _ in range(3))
    middle.flat[middle.size // 2] = most
    corner.flat[-1] = least
    channel[0] = most
    ramp = np.linspace(least, most, middle.size).reshape(shape)
    chequers = np.where(np.indices(shape).sum(0) % 2, least, most)
    constants = [np.zeros(shape), np.full(shape, least), np.full(shape, most)]
    return np.stack([*constants, middle, corner, channel, ramp, chequers]).astype(np.float32)

"""Checkpoints: a folder with plain tensors and a channel table, never a pickle.

model.py        a network with its table of channels and masks; load and save
hashes.py       what a checkpoint computes, as hashes
options.py      what a recipe can say of its network
imported.py     networks of the user's own, and the hash of their code
weights.py      a file of weights to start from
files.py        the two files of a checkpoint, read within limits
noise_level.py  networks that take a noise level beside the slice
standardised.py networks that were trained on standardised HU
ldct_benchmark.py checkpoints of that package
"""

from compress.checkpoint.hashes import code_of, identity, trained_on, weights_hash
from compress.checkpoint.model import (
    Model,
    channels,
    fingerprint,
    kernels,
    load,
    save,
)
from compress.checkpoint.options import NETWORKS, ModelOptions

__all__ = [
    "NETWORKS",
    "Model",
    "ModelOptions",
    "channels",
    "code_of",
    "fingerprint",
    "identity",
    "kernels",
    "load",
    "save",
    "trained_on",
    "weights_hash",
]

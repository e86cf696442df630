"""2:4 sparsity.

eligibility.py  which layers can be 2:4 sparse, and why the others cannot
pattern.py      the 2:4 pattern: masks, and where a weight breaks it
layers.py       every layer: its zeros, 2:4 and where it fails
records.py      what a row of a layer holds
masks.py        masks of ModelOpt and Apex ASP, and how training keeps them
reconstruction.py  masks and weights that keep the outputs of layers
layer_inputs.py  what layers read, unfolded to columns
permutation.py  input channels reordered so that a 2:4 mask keeps more
"""

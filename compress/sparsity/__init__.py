"""2:4 sparsity.

pattern.py      which layers can be 2:4 sparse, and whether they are
layers.py       every layer: its zeros, 2:4 and where it fails
masks.py        masks of ModelOpt and Apex ASP, and how training keeps them
permutation.py  input channels reordered so that a 2:4 mask keeps more
"""

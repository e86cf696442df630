"""A network's graph: what it costs, which channels belong together, exact rewrites.

cost.py     multiply-accumulates and parameters
groups.py   channels that must be removed together (Torch-Pruning's dependency graph)
resize.py   a network rebuilt with other numbers of channels
rewrite.py  stride-1 transposed convolutions as convolutions, exactly
"""

"""A network's graph: what it costs, which channels belong together, exact rewrites.

cost.py          multiply-accumulates and parameters
products.py      products of values that no layer computes, as in attention
trial.py         a network tried out: slices that it takes, whether it can be trained
fitness.py       networks that no step can handle
draws.py         networks that draw random numbers in eval mode
effect.py        which layers the output depends on
groups.py        channels that must be removed together, and their removal
trace.py         one run of a network, operator by operator: how channels hang together
labels.py        which entries of which tensors belong to which channel
parameters.py    which parameter a tensor is
rules.py         what PyTorch's operators do with channels; also joins, layer_rules, layout_rules
resize.py        a network rebuilt with other numbers of channels, and with smaller kernels
plain.py         whether a layer computes what PyTorch's class does, with the weight it stores
layout.py        along which dimensions of a weight outputs and inputs lie
kernels.py       kernels that can lose their outer ring
rewrite.py       stride-1 transposed convolutions as convolutions, exactly
uses.py          layers whose weight the network's code uses by itself
flow.py          how values flow from module to module
joins.py         how the channels of several operands combine
layer_rules.py   channels of convolutions and matrix products
layout_rules.py  channels of slices, reshapes, concatenations
padding.py       slices of any size through a network
slices.py        networks that see neighbouring slices
"""

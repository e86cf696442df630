"""Structured pruning: which channels are removed, and their removal.

plan.py           the plan: groups of channels, kept counts, cost after pruning
network.py        what is known of a network before that
solving.py        which channels and kernels stay at a threshold, given or solved
rings.py          which kernels lose rings beside the channels that go
worth.py          what channels and rings are worth in one currency
ranking.py        ranks of channels, and the groups that stay whole
selection.py      scores, the Gaussian threshold, rounding to a multiple
taylor.py         first-order Taylor scores
variance.py       shares of the output's variance, which no rescaling changes
knapsack.py       channels by worth for cost, and the budget filled
unstructured.py   single weights set to zero, for comparison
modelopt_mode.py  pruning as a mode of ModelOpt
options.py        what a plan is asked for
ledger.py         cost as a function of the kept channels
shrinking.py      products of values, as in attention, as a function of the same
latency.py        predicted milliseconds from a table of measured times
families.py       layers that differ in their channel counts alone, and which of them to measure
proof.py          a plan tried on the network itself
"""

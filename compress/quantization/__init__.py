"""INT8 quantisation.

layers.py      which layers can be quantised, and why the others cannot
quantisers.py  ModelOpt's quantisers: put in, calibrated, restored, taken out
equalise.py    channels of an input scaled to one range, the function unchanged
error.py       what quantising costs in HU, and which layers stay in half precision
records.py     what is remembered of a layer
"""

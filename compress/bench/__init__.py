"""`compress bench`: checkpoints and engines timed in turns.

command.py  the command: ratios with their spread over rounds
table.py    its result, as a table and in sentences
records.py  what it measures, as records
targets.py  what can be timed: a checkpoint in a mode, an engine
"""

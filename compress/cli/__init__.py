"""The command line. Empty on purpose: worker processes start before anything heavy is imported.

main.py     the group of commands; run, check, sweep, doctor
engines.py  export, bench
images.py   enhance, simulate, evaluate
reports.py  report, inspect
clusters.py    options of commands that a cluster can run
parameters.py  types of options that click does not have
"""

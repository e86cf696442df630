"""The command line. Empty on purpose: worker processes start before anything heavy is imported.

main.py     the group of commands; run, check, sweep, doctor, inspect
engines.py  export, bench
images.py   enhance, simulate, evaluate
reports.py  report
clusters.py    options of commands that a cluster can run
parameters.py  types of options that click does not have
"""

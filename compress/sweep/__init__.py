"""`compress sweep`: one recipe at every point of a grid, each stage that points share done once.

options.py  what a sweep is asked for
grid.py     --vary -> points: a name and a recipe each
run.py      the whole sweep, in one or several processes
work.py     points -> run folders; shared stages, resuming, several processes
rows.py     run folders -> one row a point, means over seeds
tables.py   rows -> CSV, JSON, Markdown
latency.py  how much faster a point's network is

    out/shared/<key>/        run folders of stages that several points begin with
    out/points/<name>/       one run folder a point, and point.json, its row
    out/sweep.{csv,json,md}  all rows found in out/points, whoever made them
    out/{quality,seconds}.png
"""

"""What the commands do with a recipe or a checkpoint.

pipeline.py  `compress run`: from a recipe to a run folder
execution.py stages in order, resumed where they were stopped
stages.py    the stages of a recipe and their folders
resume.py    which stages are done, and how an interrupted one begins again
keys.py      the hash by which a stage counts as done
folder.py    run folders and their lock
manifest.py  what a run was made with: versions, commit, GPU, data
records.py   what manifest.json, facts.json, plans and evaluations hold
preview.py   `compress check`: what a recipe would do
pictures.py  `compress check --plot`: the scores of every layer
new.py       `compress new`: a recipe to begin with
doctor.py    `compress doctor`: what this machine has and lacks
report.py    `compress report`: a run's report, written again
export.py    `compress export`: the step `export` on a checkpoint
evaluate.py  `compress evaluate`: the step `evaluate` on a checkpoint or an engine
sides.py     sides of slices that the steps ask of the network
"""

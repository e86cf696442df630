"""Exit statuses of every command, and so of a Slurm job.

docker/slurm/task.sh reads STOPPED here, and docker/slurm/job.sh ends the job with it. The text of
`compress --help` (cli/main.py) repeats the numbers.
"""

FAILED = 1
USAGE = 2
"""A wrong recipe, option, file or folder."""
QUALITY = 3
"""A gate on image quality or accuracy failed."""
STOPPED = 75
"""Stopped by a signal after saving (EX_TEMPFAIL)."""

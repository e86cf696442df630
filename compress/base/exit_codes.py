"""Exit statuses of every command."""

FAILED = 1
USAGE = 2
"""A wrong recipe, option, file or folder."""
QUALITY = 3
"""A gate on image quality or accuracy failed."""
STOPPED = 75
"""Stopped by a signal after saving (EX_TEMPFAIL). docker/slurm/task.sh reads it here."""

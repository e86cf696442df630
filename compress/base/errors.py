"""What can go wrong, as seen by the person at the terminal.

CompressError
  UsageError     a wrong recipe, option, file or folder
  QualityError   a quality or parity gate failed
  Stopped        a signal came and the work so far is saved

Exit statuses are in `exit_codes.py`. Every message is one sentence that says what was found and
what to do.
"""

from compress.base import exit_codes


class CompressError(Exception):
    """An error whose message is meant for the user; `exit_code` is the process's exit status."""

    exit_code: int = exit_codes.FAILED


class UsageError(CompressError):
    """The recipe, an option, a file or a folder is not usable."""

    exit_code = exit_codes.USAGE


class QualityError(CompressError):
    """A result is outside the limits that the recipe or the tool sets."""

    exit_code = exit_codes.QUALITY


class Stopped(CompressError):
    """A signal stopped the work after a checkpoint was written; run again to go on."""

    exit_code = exit_codes.STOPPED

"""`python -m compress`: the same as the console script."""

from compress.cli.main import main

main(prog_name="compress")

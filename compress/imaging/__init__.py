"""`compress enhance` and `compress simulate`: CT series in, derived series out.

Nothing is imported here: worker processes start before anything heavy is imported.

command.py     the command: from the input to the manifest
parts.py       the same in parts, on a cluster
scan.py        the headers of all files
stream.py      slices from the workers through the network and back, in order
inference.py   a checkpoint or an engine that takes slices of any size
workers.py     the processes beside the network
forking.py     the server that they are forked from
one_thread.py  one thread for the libraries of each worker
records.py     what the manifests hold
tasks.py       the tasks of a worker process: scan, decode, encode
arena.py       the memory that workers share with the network
output.py      whether OUT can take results
manifest.py    what became of every file
clock.py       where the time went
simulate.py    low-dose partners of a series
going_on.py    what a simulation that was stopped has done
arrays.py      slices as NumPy arrays, for `compress.enhance`

Only inference.py, simulate.py and arrays.py need torch: `enhance` starts its workers before it
imports it.
"""

STOPPED = "enhance: stopped; run again with --skip-existing to go on"
STOPPED_SIMULATION = "simulate: stopped; run the same command again to go on"
"""What the commands say when a signal ends them."""

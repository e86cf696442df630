"""What every other package may use: errors, files, devices, processes, progress, timing.

exit_codes.py  exit statuses of every command
errors.py      exceptions that end as one sentence, and their exit status
files.py       files that are whole or not there
locks.py       locks between processes of one folder
tensors.py     tensors of networks: numbers, memory order, bytes of a safetensors file
hu.py          HU <-> normalised intensity in [0, 1]
devices.py     which device a command runs on
cuda_graph.py  work of a GPU captured and replayed
renamed.py     options that had other names
machine.py     what this machine has installed
world.py       the processes that train together
torchrun.py    how they meet
openmp.py      how waiting threads wait
ending.py      how one of several processes exits
signals.py     signals that ask for the end
progress.py    log lines and progress bars
timing.py      candidates timed in turns
filekind.py    what a file is, by its first bytes
reasons.py     why something failed, in one line
words.py       lists in sentences
around.py      slices out of a volume: around one, evenly spread
"""

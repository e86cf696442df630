"""`--cluster`: commands of this program as tasks of Ray or Slurm.

A task is a command of its own, which goes on from what lies in the shared folder. So a task that a
lost machine had is simply begun again.

task.py          what a task is, what became of it, and what an engine can do
spread.py        all tasks through an engine: lost ones again, a signal, failures
engines.py       the engine that --cluster names
ray.py           Ray
submitit.py      Slurm, and processes of this machine, through submitit
node.py          the task where it runs: its lock, its log, its command
tied.py          a command that ends with the process that started it
"""

"""Training: one loop for every number format, device and network.

options.py      what a recipe can say of a training
session.py      the host's side: epochs and steps, resume, save, log, what facts.json keeps
epoch_log.py    log.csv
remaining.py    how long the training of a run will still take
facts.py        what a training stage remembers
update.py       the device's side: one optimizer step, its loss, and what holds after it
parts.py        what an update consists of: objective, network and optimizer
twin.py         an equal network that torch.compile can compile
cuda_graph.py   how a step is executed: call by call, or captured as one CUDA graph
profiling.py    where a step's time goes, on request
state.py        the state of a stopped training on disk
losses.py       training losses
precision.py    training precisions and loss scaling
apex_amp.py     mixed precision by Apex
distill.py      the dense network as a teacher
recalibrate.py  BatchNorm statistics measured again
samples.py      a few training crops for measuring
"""

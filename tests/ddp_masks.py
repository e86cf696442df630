"""One rank of a data-parallel run under 2:4 masks: python ddp_masks.py RANK WORLD STORE OUT.

Each rank computes the masks itself, sees its own batches, and writes masks and weights to OUT.
"""

import os
import sys

import torch
import torch.distributed as dist
from networks import Plain
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

from compress.sparsity import masks


def main(rank: int, world: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    torch.manual_seed(rank)  # other starting weights on every rank: DDP sends out those of rank 0
    net = Plain(32)
    parallel = DistributedDataParallel(net)
    held = masks.compute(net, "modelopt")
    hold = masks.Holder(net, held)
    optimizer = torch.optim.AdamW(parallel.parameters(), 1e-2, weight_decay=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        parallel(torch.rand(2, 1, 16, 16)).square().mean().backward()
        optimizer.step()
        hold()
        hold.check()
    weights = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    save_file({**weights, **{f"mask.{n}": m.contiguous() for n, m in held.items()}}, out)
    dist.destroy_process_group()
    os._exit(0)  # as compress.base.ending does: threads of torch.distributed may outlive it


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])

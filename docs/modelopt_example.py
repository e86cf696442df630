"""DDnet, 60 % of its MACs pruned away and then 2:4 sparse, saved and restored by ModelOpt alone."""

import modelopt.torch.opt as mto
import modelopt.torch.sparsity as mts
import torch

from compress.models.ddnet import DDnet
from compress.pruning import modelopt_mode

mode = modelopt_mode.register()  # before mto.restore too
net = mto.apply_mode(DDnet(residual=True), [(mode, {"amount": 0.6, "round_to": 16})])
net = mts.export(mts.sparsify(net, "sparse_magnitude"))  # retraining would stand between the two
mto.save(net, "ddnet.pth")
again = mto.restore(DDnet(residual=True), "ddnet.pth").eval()
x = torch.rand(1, 1, 64, 64)
assert torch.equal(again(x), net.eval()(x))

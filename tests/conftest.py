"""What every test needs: few threads, quiet vendors."""

import torch

torch.set_num_threads(1)

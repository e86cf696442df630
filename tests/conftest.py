"""What every test needs: few threads, quiet vendors, no clock where examples are drawn."""

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
# One example that waits for other work on the machine says nothing about the code.
settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")

"""Evaluation: the suite of tasks, their data, their metrics, and the run over all of them.

`encoder` and `run` need torch, nothing else here does.
"""

import os

# torch's OpenMP threads spin while they wait. Beside the processes that decode pictures that burns the very cores
# they wait for: on two busy cores a forward pass takes four times as long. Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

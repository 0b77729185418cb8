"""What all tests share."""

import os

import torch

os.environ["COLUMNS"] = "160"  # pytest-xdist says 80, at which long names fold
torch.set_num_threads(1)  # two processes of as many threads as there are cores are slower than one

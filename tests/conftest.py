"""What all tests share."""

import os

os.environ["COLUMNS"] = "160"  # pytest-xdist says 80, at which long names fold

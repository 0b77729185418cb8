"""``python -m mtlbench``."""

from mtlbench.cli import entry

if __name__ == "__main__":
    entry()

"""The command line: ``mtlbench quickstart | list | run | leaderboard | show | check | data |
bench``. Nothing but arguments and printing."""

from mtlbench.cli.app import entry, main

__all__ = ["entry", "main"]

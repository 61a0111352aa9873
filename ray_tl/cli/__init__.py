"""The command line: one command a verb, each parses, calls one function, and prints."""

from ray_tl.cli.app import main

__all__ = ["main"]

"""The `saccade` command: it alone prints, shows progress and ends the process."""

from saccade.cli.main import main

__all__ = ["main"]

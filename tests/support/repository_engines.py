"""The engines of the repository: only the default one is in the wheel, so tests take the others by their folders."""

from pathlib import Path

ENGINES = Path(__file__).parents[2] / "engines"
NAMES = ("default", "ratio-4", "ratio-64", "ratio-256")

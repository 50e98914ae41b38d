"""The page of the tiny run's report: how it is made, and what it must hold."""

from pathlib import Path

from fsae.training.cli.main import main

MEMBERS, LEADS = 3, 2  # generated and forecast for it
NAMES = {"overview", "rebuilt", "rate", "superresolution", "climate", "spectrum", "memory", "spread", "ranks"}
NAMES |= {"reliability", "forecast-ranks"}  # of its pictures


def page_of(folder: Path) -> str:
    """The page of a run that `fsae-train report` writes."""
    assert main(["report", str(folder), "--quiet"]) == 0
    return (folder / "report.html").read_text(encoding="utf-8")

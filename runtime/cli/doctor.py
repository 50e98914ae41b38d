"""`fsae-run doctor`: what can run on this machine, and one line of advice for every problem."""

import json
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

import click

from .options import with_json, with_model

if TYPE_CHECKING:
    from fsae.runtime.checks.doctor import Report


def report_text(report: "Report") -> str:
    """The findings by section, then a line for each problem with what to do about it."""
    lines = []
    for section, findings in groupby(report.findings, key=lambda finding: finding.section):
        rows = list(findings)
        width = max(len(row.name) for row in rows)
        lines += [section, *(f"  {row.name:{width}}  {row.value}" for row in rows), ""]
    problems = [finding for finding in report.findings if finding.advice is not None]
    lines += [f"problem: {p.section}: {p.name}: {p.value}; do: {p.advice}" for p in problems] or ["no problems"]
    return "\n".join(lines)


def report_json(report: "Report") -> str:
    """The same as JSON: `findings`, the `exit_code`, and the `failure` behind it or null."""
    failure = report.failure
    record = {
        "exit_code": 0 if failure is None else failure.exit_code,
        "failure": None if failure is None else str(failure),
        "findings": [asdict(finding) for finding in report.findings],
    }
    return json.dumps(record, indent=2, ensure_ascii=False)


@click.command()
@click.option("--hashes", is_flag=True, help="Compare every file of the bundles with its hash, not just its size.")
@with_json
@with_model
def doctor(hashes: bool, as_json: bool, model: str | None) -> None:
    """Check this machine.

    Report platform, libraries, GPUs, bundles, engines and devices, and what to do about every problem. The exit code is
    0 if the bundle runs on at least one device, else 3, or 4 without a usable bundle.

    \b
    Examples:
      fsae-run doctor
      fsae-run doctor --model engines/default --hashes --json
    """
    from fsae.runtime.checks.doctor import examine

    report = examine(model, hashes)
    click.echo(report_json(report) if as_json else report_text(report))
    if report.failure is not None:
        raise report.failure

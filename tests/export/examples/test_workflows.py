"""The examples for workflow managers: what they do after each exit code, and that the command knows their options."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fsae.runtime.cli.generate import generate
from fsae.runtime.cli.main import main
from fsae.runtime.errors import Stopped, UsageError

WORKFLOWS = Path(__file__).parents[3] / "export" / "examples" / "workflows"
STOPPED, FAILED = Stopped.exit_code, UsageError.exit_code
Runs = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Run a script of bash with programs that only note how they are called; `fsae-run` ends with the given code."""

    def run(script: str, code: int, *programs: str, **variables: str) -> tuple[int, list[str]]:
        calls = tmp_path / "calls"
        calls.write_text("")
        for name, end in (("fsae-run", code), *((name, 0) for name in programs)):
            stub = tmp_path / name
            stub.write_text(f'#!/bin/sh\necho "$(basename "$0")" "$@" >> {calls}\nexit {end}\n')
            stub.chmod(0o755)
        (tmp_path / "srun").write_text('#!/bin/sh\nexec "$@"\n')
        (tmp_path / "srun").chmod(0o755)
        environment = {**os.environ, **variables, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-c", script], env=environment, cwd=tmp_path, check=False, timeout=60)
        return done.returncode, calls.read_text().splitlines()

    return run


def check_options(words: Sequence[str]) -> None:
    """Fail unless `fsae-run` takes these words: it reads all of them before it prints its help."""
    assert "generate" in words
    after = [*words[words.index("generate") + 1 :], "--help"]
    with pytest.raises(SystemExit) as end:
        generate.main(after, standalone_mode=True)
    assert end.value.code == 0
    assert main([*words[: words.index("generate")], "generate", "--help"]) == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(("code", "ends", "requeued"), [(0, 0, False), (STOPPED, 0, True), (FAILED, FAILED, False)])
def test_a_stopped_task_of_slurm_goes_back_into_the_queue(runs: Runs, code: int, ends: int, requeued: bool) -> None:
    # oracle: the table of exit codes; scontrol names an array's task JOB_TASK
    script = (WORKFLOWS / "slurm.sh").read_text()
    task = {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "3", "SLURM_CPUS_PER_TASK": "4"}
    found, calls = runs(script, code, "scontrol", **task)
    assert found == ends
    assert calls[1:] == (["scontrol requeue 77_3"] if requeued else [])
    check_options(calls[0].split()[1:])


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(("code", "tries_end"), [(0, False), (STOPPED, False), (FAILED, True)])
def test_ecflow_tries_a_stopped_task_again_and_no_other(runs: Runs, code: int, tries_end: bool) -> None:
    # oracle: the table of exit codes; ECF_TRIES of the task is what ecFlow counts
    suite, script = ((WORKFLOWS / name).read_text() for name in ("fsae.def", "draw.ecf"))
    values = dict(re.findall(r"^ *edit (\w+) '(.*?)'", suite, re.M)) | {"YEAR": "2031", "ECF_NAME": "/fsae/draw"}
    script = re.sub(r"^%include.*$", "", script, flags=re.M)
    script = re.sub(r"%(\w+)%", lambda found: values[found[1]], script)
    found, calls = runs(f"set -eu\n{script}", code, "ecflow_client")
    assert found == code
    assert calls[1:] == (["ecflow_client --alter=add variable ECF_TRIES 1 /fsae/draw"] if tries_end else [])
    check_options(calls[0].split()[1:])


def test_the_rules_of_snakemake_call_the_command_as_it_is() -> None:  # oracle: the command's own parser
    text = (WORKFLOWS / "Snakefile").read_text()
    values = dict(re.findall(r'^(\w+) = config.get\("\w+", "?(\w+)"?\)', text, re.M))
    shell = "".join(re.findall(r'"(.*)"', text.partition("rule ensemble:")[2].partition("shell:")[2]))
    words = re.sub(r"\{(\w+)\}", lambda found: {"threads": "4", "output": "x.zarr", **values}[found[1]], shell).split()
    assert words[0] == "fsae-run"
    assert words[-1] == "--resume"
    check_options(words[1:])

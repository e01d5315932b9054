"""What the job script of a training asks srun for, with stand-ins for SLURM, which is in test_slurm.py."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "slurm" / "train.sbatch"
COMMANDS = {
    "python": "printf 'run\\ndata\\nNone\\n'",
    "scontrol": "echo node1",
    "srun": 'echo "$SRUN_CPUS_PER_TASK $OMP_NUM_THREADS"',
    "nvidia-smi": "exit 1",
}


@pytest.mark.parametrize(
    ("per_task", "asked", "is_warned"),
    [(None, "16 4", False), ("8", "8 2", False), ("2", "2 1", True)],
    ids=["all cores of the job", "as many as asked for", "too few"],
)
def test_processes_of_a_node_share_the_cores_of_the_job(tmp_path, per_task, asked, is_warned):
    for name, line in COMMANDS.items():
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/bin/sh\n{line}\n")
        command.chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "node1", "SLURM_CPUS_ON_NODE": "16"}
    job |= {"PROCESSES_PER_NODE": "4", "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    job |= {"SLURM_CPUS_PER_TASK": per_task} if per_task else {}
    result = subprocess.run(["bash", SCRIPT], cwd=tmp_path, env=job, capture_output=True, text=True, timeout=60)
    assert result.stdout.splitlines()[-2] == asked, result.stderr
    assert ("warning: 4 processes share 2 core(s)" in result.stdout + result.stderr) == is_warned

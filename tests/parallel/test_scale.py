"""What a process asks of the file system does not grow with the number of processes.

``GLOW_PROCESSES=64 python -m pytest tests/parallel/test_scale.py`` simulates more of them: forked, with gloo. With
``GLOW_TABLE=docs/explanation/many-processes.md`` it adds its rows to the table there.
"""

import os
import sys
from collections import Counter

import pytest
from conftest import fill_table, run_ranks, table_rows
from training_runs import options, train_and, train_main

from glow.training import stop as stopping

WORLD = int(os.environ.get("GLOW_PROCESSES", "8"))
TINY = [
    "--model.num_levels", "1", "--model.num_steps_per_level", "1", "--model.hidden_channels", "4",
    "--train.validate_every", "1000", "--train.checkpoint_every", "5",
]  # fmt: skip
EVENTS = {"open", "os.listdir", "os.scandir", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.utime"}


def counted(function, run, data):
    """Count the calls of a function to the file system below two directories, by the directory."""
    counts, is_on = Counter(), True

    def count(path):
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        for name, directory in (("run", run), ("data", data)):
            # The stop file is looked for once a second, so that its count depends on the time.
            if is_on and text.startswith(str(directory)) and not text.endswith("/stop"):
                counts[name] += 1

    sys.addaudithook(lambda event, arguments: count(arguments[0]) if event in EVENTS else None)

    def counting(call):  # not audited
        def look(path, *args, **options):
            count(path)
            return call(path, *args, **options)

        return look

    os.stat, os.lstat = counting(os.stat), counting(os.lstat)
    function()
    is_on = False
    return [counts["run"], counts["data"]]


def start(arguments, run, data):
    return counted(lambda: train_main([*arguments, "--train.num_steps", "10"]), run, data)


def resume_and_stop(arguments, run, data):
    stopping.LOOK_S = 0
    return counted(lambda: train_and([*arguments, "--train.num_steps", "1000"], 15, (run / "stop").touch), run, data)


@pytest.fixture(scope="module")
def counts(dataset, tmp_path_factory):
    """Calls of each process, [of the run, of the data], by the number of processes and what they do."""
    found = {}
    for world in (2, WORLD):
        run = tmp_path_factory.mktemp(f"run-{world}") / "run"
        arguments = [*options(dataset, run, *TINY), "--train.batch_size", str(world)]
        found[world, "start, ten steps, save"] = run_ranks(start, world, arguments, run, dataset)
        found[world, "resume, five steps, stop"] = run_ranks(resume_and_stop, world, arguments, run, dataset)
    if "GLOW_TABLE" in os.environ:
        rows = {
            f"| {what} | {world} | {ranks[0][0]} | {max(run for run, _ in ranks[1:])} | {max(d for _, d in ranks)} |"
            for (world, what), ranks in found.items()
        }
        head = ["", "processes", "run directory, main process", "run directory, others", "data, each process"]
        fill_table("calls", head, sorted(rows | set(table_rows("calls", os.environ["GLOW_TABLE"]))))
    return found


def test_only_the_main_process_looks_into_the_run_directory(counts):
    for case, ranks in counts.items():
        assert [run for run, _ in ranks[1:]] == [0] * (len(ranks) - 1), case


def test_calls_of_a_process_do_not_grow_with_the_number_of_processes(counts):
    for (world, what), ranks in counts.items():
        few = counts[2, what]
        assert ranks[0][0] <= few[0][0] + 2, (world, what)
        # The images of a process may lie in a few more shards.
        assert max(data for _, data in ranks) <= max(data for _, data in few) + 10, (world, what)

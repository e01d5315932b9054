"""The commands of pages and configurations: stages understand them, and the four stages run as the pages say."""

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

from glow.cli import parse_config
from pipelines import STAGES

ROOT = Path(__file__).parents[2]
# Pages of the reference show forms and mistakes, not commands.
PAGES = [path for path in ROOT.glob("docs/**/*.md") if "reference" not in path.parts]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "slurm/README.md", *sorted(PAGES)]
CONFIGS = sorted(ROOT.glob("configs/*.yaml"))
FOUR = ["prepare", "train", "sample", "evaluate"]
SMALL = ["--train.num_steps", "3", "--model.num_steps_per_level", "2", "--model.hidden_channels", "8"]


def command_lines(text):
    """Yield the lines of the ``sh`` blocks, and those after a ``$`` of the ``console`` blocks, continuations joined."""
    for kind, block in re.findall(r"^ *```(sh|console)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if kind == "sh" or line.lstrip().startswith("$ "):
                yield line.lstrip().removeprefix("$ ")


def lines_of_head(text):
    """Return the lines of ``# Command:`` in a configuration."""
    comment = "\n".join(line.removeprefix("#") for line in text.splitlines() if line.startswith("#"))
    return comment.partition("Command:")[2].replace("\\\n", " ").splitlines()


def stage_of(line):
    """Return stage and arguments of ``glow STAGE``, ``[launcher] -m pipelines.STAGE`` or ``sbatch slurm/STAGE.sbatch``;
    None of another command.
    """
    words = shlex.split(line.rstrip(")") if "$(" in line else line, comments=True)
    for number, word in enumerate(words):
        script = re.fullmatch(r"slurm/(\w+)\.sbatch|pipelines\.(\w+)", word)
        if script:
            return script[1] or script[2], words[number + 1 :]
    if words[:1] == ["glow"] and not words[1].startswith("-"):
        return words[1], words[2:]
    return None


def commands_of(page):
    lines = command_lines(page.read_text()) if page.suffix == ".md" else lines_of_head(page.read_text())
    return [found for line in lines if (found := stage_of(line))]


@pytest.mark.parametrize("page", PAGES + CONFIGS, ids=lambda page: str(page.relative_to(ROOT)))
def test_stages_understand_the_commands_of_a_page(page):
    for stage, arguments in commands_of(page):
        if "--help" not in arguments:
            parse_config(STAGES[stage].config, arguments, stage, STAGES[stage].positional)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_says_its_own_command(path):
    assert any(path.stem in arguments for _, arguments in commands_of(path))


def test_most_stages_have_a_command_on_a_page():
    assert {stage for page in PAGES for stage, _ in commands_of(page)} >= set(STAGES) - {"demo"}


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_the_four_stages_run_as_the_page_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(ROOT / "configs")
    commands = [(stage, arguments) for stage, arguments in commands_of(ROOT / page) if stage in FOUR]
    end = [stage for stage, _ in commands].index("evaluate") + 1
    assert [stage for stage, _ in commands[:end]] == FOUR
    for stage, arguments in commands[:end]:
        importlib.import_module(f"pipelines.{stage}").main([*arguments, *SMALL * (stage == "train")])
    run = Path("runs/digits")
    report = json.loads((run / "report/step-00000003-test/bpd.json").read_text())
    assert report["valid"]
    assert report["num_images"] == 360
    assert (run / "samples/step-00000003/grid-t0.70.png").exists()
    check_documented(run, "run-files.md")
    check_documented(Path("data/digits"), "dataset-files.md")


def check_documented(directory, page):
    """Every file of a directory, and every metric in it, has its line on a page of the reference."""
    text = (ROOT / "docs/reference" / page).read_text()
    files = [path.name for path in directory.rglob("*") if path.is_file() and "tensorboard" not in path.parts]
    names = {re.sub(r"-t\d\.\d\d", "-t0.70", name) for name in files}
    for metrics in directory.glob("metrics.jsonl"):
        keys = {key for line in metrics.read_text().splitlines() for key in json.loads(line)}
        names |= {re.sub(r"_\d$", "_1", re.sub(r"/\d{3}$", "/001", key)) for key in keys}
    assert [name for name in names if f"{name}`" not in text] == []

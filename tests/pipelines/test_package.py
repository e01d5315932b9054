"""The package as ``pip install`` leaves it: the command, its stages and configurations, away from the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from conftest import write_images

from pipelines import STAGES


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Packages of a fresh environment with what ``pip install .`` puts there; what it depends on is found here.

    It is built from a copy, because building leaves files behind.
    """
    source, environment = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("environment")
    for name in ("glow", "pipelines", "configs"):
        shutil.copytree(name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(name, source)
    venv.create(environment)
    site = next(environment.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", str(source)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(environment / "bin/python"), *install], check=True)
    return site


def run(site, folder, *arguments):
    """Run the installed command in a folder."""
    command = site.parents[2] / "bin/glow"
    return subprocess.run([str(command), *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_files_that_are_no_code_are_packaged(site):
    for path in [*Path("glow").rglob("*.html.j2"), *Path("glow").rglob("py.typed")]:
        assert (site / path).read_bytes() == path.read_bytes()
    shipped = [path for path in Path("glow/shipped").rglob("*") if path.is_file()]
    assert len(shipped) >= 4
    assert all((site / path).read_bytes() == path.read_bytes() for path in shipped)
    configs = {path.relative_to("configs"): path.read_bytes() for path in Path("configs").rglob("*.yaml")}
    packaged = site / "glow/configs"
    assert {path.relative_to(packaged): path.read_bytes() for path in packaged.rglob("*.yaml")} == configs
    assert not (site / "configs").exists()


def test_command_says_its_stages_and_version(site, tmp_path):
    done = run(site, tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    assert all(stage.summary in done.stdout for stage in STAGES.values())
    assert "smoke" in done.stdout
    assert run(site, tmp_path, "--version").stdout.startswith("glow 0.")


def test_stages_work_in_any_folder_with_configurations_by_name(site, tmp_path):
    write_images(tmp_path / "images", 4, (1, 8, 8))
    done = run(site, tmp_path, "prepare", "--source", "images", "--output", "data", "--num_workers", "0")
    assert done.stdout.splitlines()[-1] == "data", done.stderr
    done = run(site, tmp_path, "train", "--config", "smoke", "--data.path", "data", "--data.shift", "8")
    assert (done.returncode, done.stderr) == (1, "error: data.shift: 8, but the images of data are [1, 8, 8]\n")


@pytest.mark.parametrize("program", ["python", "accelerate"])
def test_programs_of_the_container_run_in_the_image(program, tmp_path, monkeypatch):
    (tmp_path / "apptainer").write_text('#!/bin/sh\necho apptainer "$@"\n')
    (tmp_path / "apptainer").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GLOW_IMAGE", "glow.sif")
    done = subprocess.run([f"containers/bin/{program}", "-m", "a b"], capture_output=True, text=True, check=True)
    assert done.stdout == f"apptainer exec --nv glow.sif {program} -m a b\n"
    monkeypatch.delenv("GLOW_IMAGE")
    done = subprocess.run([f"containers/bin/{program}"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "name the image: export GLOW_IMAGE=$PWD/glow.sif" in done.stderr

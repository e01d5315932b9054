"""The notebook runs from top to bottom; the outputs in the repository are small and of no particular machine."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path("examples/digits.ipynb")


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_outputs_are_in_the_repository():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum("image/png" in output.get("data", {}) for output in outputs(notebook)) >= 5
    assert not [
        output for output in outputs(notebook) if output.output_type == "error" or output.get("name") == "stderr"
    ]
    text = NOTEBOOK.read_text()
    assert len(text) < 300_000
    assert not any(f"{folder}/" in text for folder in ("/home", "/root", "/tmp", "/usr", "/work", str(Path.home())))


# The kernel and its messages are libraries' own: their sockets are closed late.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("NUM_STEPS", "3")
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    (tmp_path / "examples").mkdir()
    shutil.copy(NOTEBOOK, tmp_path / "examples")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path / "examples")}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    printed = "".join(output.get("text", "") for output in outputs(notebook))
    assert "bits/dim on 360 test images" in printed
    assert "same levels: True" in printed
    assert (tmp_path / "runs/digits/checkpoints/step-00000003").is_dir()

"""The sample stage: grids, single images, and the work of several processes put together."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from saved_runs import save_moved_run

from pipelines import sample as sample_stage


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_moved_run(tmp_path_factory.mktemp("runs") / "tiny")


def test_grids_show_the_same_latents_at_every_temperature(run, tmp_path, capsys):
    arguments = [
        "--checkpoint",
        str(run),
        "--temperatures",
        "[0, 0.5, 1]",
        "--num_images",
        "9",
        "--output",
        str(tmp_path),
    ]
    sample_stage.main([*arguments, "--save_images", "true"])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path)
    description = json.loads((tmp_path / "samples.json").read_text())
    assert description["temperatures"] == [0.0, 0.5, 1.0]
    assert description["dtype"] == "float32"
    cold = [np.asarray(Image.open(tmp_path / "images-t0.00" / f"{n:08d}.png")) for n in range(9)]
    warm = [np.asarray(Image.open(tmp_path / "images-t1.00" / f"{n:08d}.png")) for n in range(9)]
    half = [np.asarray(Image.open(tmp_path / "images-t0.50" / f"{n:08d}.png")) for n in range(9)]
    assert all(np.array_equal(image, cold[0]) for image in cold)
    assert not np.array_equal(warm[0], warm[1])

    def distance(a, b):
        return np.abs(a.astype(float) - b.astype(float)).mean()

    own = np.mean([distance(half[n], warm[n]) for n in range(9)])
    other = np.mean([distance(half[n], warm[(n + 1) % 9]) for n in range(9)])
    assert own < other
    with Image.open(tmp_path / "grid-t0.50.png") as grid:
        assert grid.size[0] == 3 + 3 * (6 * 8 + 3)


def test_shared_sampling_merges_to_what_one_process_writes(run, tmp_path):
    arguments = ["--checkpoint", str(run), "--temperatures", "[0.5, 1]"]
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    one = ["--first_index", "3", "--num_images", "9"]
    sample_stage.main([*arguments, *one, "--save_images", "true", "--output", str(whole)])
    for first, count in ((3, 2), (5, 4), (9, 3)):
        part = ["--first_index", str(first), "--num_images", str(count), "--save_images", "true"]
        sample_stage.main([*arguments, *part, "--save_grids", "false", "--output", str(shared)])
    assert sorted(path.name for path in shared.iterdir()) == ["images-t0.50", "images-t1.00"]
    sample_stage.main([*arguments, *one, "--merge", "true", "--output", str(shared)])
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert len(files) == 2 * 9 + 2 + 1
    assert files == sorted(path.relative_to(shared) for path in shared.rglob("*") if path.is_file())
    for file in files:
        assert (whole / file).read_bytes() == (shared / file).read_bytes()


def test_merge_refuses_missing_and_foreign_images(run, tmp_path):
    arguments = ["--checkpoint", str(run), "--temperatures", "[1]", "--output", str(tmp_path)]
    sample_stage.main([*arguments, "--num_images", "3", "--save_images", "true", "--save_grids", "false"])
    with pytest.raises(ValueError, match=r"images-t1.00/00000003.png: missing; 2 of 5 images are not there"):
        sample_stage.main([*arguments, "--num_images", "5", "--merge", "true"])
    with pytest.raises(ValueError, match=r"images-t1.00/00000000.png: drawn from .*\"seed\": 0"):
        sample_stage.main([*arguments, "--num_images", "3", "--merge", "true", "--seed", "1"])
    with pytest.raises(ValueError, match=r"images-t1.00/00000000.png: drawn from .*, not from "):
        sample_stage.main([*arguments, "--num_images", "3", "--merge", "true", "--weights", "raw"])
    with pytest.raises(ValueError, match="save_grids: false is not allowed; set save_images to true, too"):
        sample_stage.main([*arguments, "--save_grids", "false"])
    assert [path.name for path in tmp_path.iterdir()] == ["images-t1.00"]
    cut = tmp_path / "images-t1.00/00000001.png"
    cut.write_bytes(cut.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"images-t1.00/00000001.png: cannot be read or damaged: .*; draw it again"):
        sample_stage.main([*arguments, "--num_images", "3", "--merge", "true"])


def test_sampling_in_several_processes_is_refused(run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"sample runs as one process; .* --first_index"):
        sample_stage.main(["--checkpoint", str(run)])


def test_stages_refuse_what_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="holds no latest checkpoint; give a run directory"):
        sample_stage.main(["--checkpoint", str(tmp_path)])
    with pytest.raises(ValueError, match=r"temperatures: .* give finite numbers, each 0 or more"):
        sample_stage.main(["--checkpoint", str(tmp_path), "--temperatures", "[0.5, .nan]"])
    with pytest.raises(ValueError, match=r"temperatures: .* differ by 0\.01"):
        sample_stage.main(["--checkpoint", str(tmp_path), "--temperatures", "[0.701, 0.699]"])
    assert not list(Path(tmp_path).iterdir())

"""The sample stage: grids, single images, and the work of several processes put together."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_ranks
from PIL import Image
from saved_runs import save_moved_run

import glow
from glow.data.read.batch import Share
from glow.sampling import images as sampling_images
from glow.sampling.files import write_npz
from glow.sampling.groups import share_of
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


def test_each_level_may_have_a_temperature_of_its_own(run, tmp_path):
    arguments = ["--checkpoint", str(run), "--num_images", "4", "--output", str(tmp_path)]
    sample_stage.main([*arguments, "--temperatures", "[0.5, [0.5, 0.5], [0, 0.8]]", "--save_images", "true"])
    assert {path.name for path in tmp_path.glob("grid*")} == {
        "grid-t0.50.png",
        "grid-t0.50-0.50.png",
        "grid-t0.00-0.80.png",
    }
    assert json.loads((tmp_path / "samples.json").read_text())["temperatures"] == [0.5, [0.5, 0.5], [0.0, 0.8]]
    images = {name: (tmp_path / f"images-t{name}/00000001.png") for name in ("0.50", "0.50-0.50", "0.00-0.80")}
    pixels = {name: np.asarray(Image.open(path)) for name, path in images.items()}
    assert np.array_equal(pixels["0.50"], pixels["0.50-0.50"])
    assert not np.array_equal(pixels["0.50"], pixels["0.00-0.80"])
    loaded = glow.load(run)
    assert np.array_equal(pixels["0.00-0.80"], loaded.sample(2, temperature=[0, 0.8])[1].permute(1, 2, 0).numpy())
    with pytest.raises(ValueError, match=r"temperatures: \[0.5, 0.6, 0.7\] has 3 numbers, but the model has 2 levels"):
        sample_stage.main([*arguments, "--temperatures", "[[0.5, 0.6, 0.7]]"])
    assert (tmp_path / "samples.json").is_file()


def test_images_in_one_npz_are_those_of_the_pngs(run, tmp_path):
    arguments = ["--checkpoint", str(run), "--num_images", "70", "--temperatures", "0.7", "--output", str(tmp_path)]
    sample_stage.main([*arguments, "--save_images", "true"])
    sample_stage.main([*arguments, "--save_images", "npz", "--save_grids", "false"])
    with np.load(tmp_path / "images-t0.70.npz") as file:
        array = file["arr_0"]
    assert (array.shape, array.dtype) == ((70, 8, 8, 3), np.uint8)
    for number, image in enumerate(array):
        assert np.array_equal(image, np.asarray(Image.open(tmp_path / f"images-t0.70/{number:08d}.png")))
    (tmp_path / "images-t0.70.npz").unlink()
    sample_stage.main([*arguments, "--save_images", "npz", "--merge", "true"])
    with np.load(tmp_path / "images-t0.70.npz") as file:
        assert np.array_equal(file["arr_0"], array)
    write_npz(tmp_path, torch.full((2, 1, 4, 5), 7, dtype=torch.uint8), 1.0)
    with np.load(tmp_path / "images-t1.00.npz") as file:
        assert file["arr_0"].shape == (2, 4, 5, 3)


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


def sample_main(arguments):
    sample_stage.main(arguments)


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_write_what_one_writes(run, tmp_path, monkeypatch, world):
    monkeypatch.setattr(sample_stage, "group_size", lambda shape: 4)  # three groups of 4, the first of 1
    monkeypatch.setattr(sampling_images, "group_size", lambda shape: 4)
    arguments = ["--checkpoint", str(run), "--temperatures", "[0.5, 1]", "--first_index", "3", "--num_images", "9"]
    arguments += ["--save_images", "true", "--output"]
    sample_stage.main([*arguments, str(tmp_path / "whole")])
    run_ranks(sample_main, world, [*arguments, str(tmp_path / "shared")])
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file())
    assert len(files) == 2 * 9 + 2 + 1
    for file in files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "shared" / file).read_bytes()


def test_processes_share_whole_groups():
    shares = [share_of(range(3, 103), 4, Share(rank, 3)) for rank in range(3)]
    assert [number for share in shares for number in share] == [*range(3, 103)]
    assert [share.start % 4 for share in shares[1:]] == [0, 0]
    assert [len(share_of(range(3), 64, Share(rank, 2))) for rank in range(2)] == [0, 3]


def test_networks_compute_in_the_precision_that_is_asked_for(run, tmp_path):
    arguments = ["--checkpoint", str(run), "--temperatures", "[1]", "--num_images", "9", "--save_images", "true"]
    exact = sample_stage.main([*arguments, "--output", str(tmp_path / "exact")])
    half = sample_stage.main([*arguments, "--dtype", "bf16", "--output", str(tmp_path / "half")])
    assert json.loads((half / "samples.json").read_text())["dtype"] == "bf16"
    a, b = (np.asarray(Image.open(each / "grid-t1.00.png")).astype(int) for each in (exact, half))
    assert np.abs(a - b).max() > 0
    assert np.abs(a - b).mean() < 2
    with pytest.raises(ValueError, match=r"00000000.png: drawn from .*, not from .*\"dtype\": \"bf16\""):
        sample_stage.main([*arguments[:-2], "--merge", "true", "--dtype", "bf16", "--output", str(exact)])


def test_stages_refuse_what_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="holds no latest checkpoint; give a run directory"):
        sample_stage.main(["--checkpoint", str(tmp_path)])
    with pytest.raises(ValueError, match=r"temperatures: .* give finite numbers, each 0 or more"):
        sample_stage.main(["--checkpoint", str(tmp_path), "--temperatures", "[0.5, .nan]"])
    with pytest.raises(ValueError, match=r"temperatures: .* differ by 0\.01"):
        sample_stage.main(["--checkpoint", str(tmp_path), "--temperatures", "[0.701, 0.699]"])
    assert not list(Path(tmp_path).iterdir())

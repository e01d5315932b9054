"""The benchmark stage: it measures everything, compares with rivals, and writes the results."""

import gzip
import json
import sys

import pytest

from glow.benchmarking import limits as limits_module
from pipelines import benchmark

OPTIONS = ["--model.image_shape", "[3, 8, 8]", "--model.num_levels", "2", "--model.num_steps_per_level", "2"]
OPTIONS += ["--data.path", "nowhere"]
OPTIONS += ["--model.hidden_channels", "64", "--train.batch_size", "4", "--repeats", "2", "--seconds", "0"]


@pytest.fixture
def normflows():
    return pytest.importorskip("normflows", reason="normflows is not installed: pip install '.[bench]'")


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    monkeypatch.setattr(limits_module, "MATRIX_SIZES", {"cpu": (128, 256)})
    monkeypatch.setattr(limits_module, "COPIED_BYTES", {"cpu": 2**20})


def read_results(output):
    return json.loads((output / "benchmark.json").read_text())


def test_everything_is_measured_and_written(dataset, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- performance -->\n<!-- -->\nafter\n<!-- other -->\n<!-- -->\n")
    options = [*OPTIONS, "--data.path", str(dataset), "--output", str(tmp_path / "run"), "--readme", str(readme)]
    output = benchmark.main([*options, "--profile", "true", "--train.mixed_precision", "bf16"])
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == str(output) == str(tmp_path / "run" / "benchmark")
    results = read_results(output)
    names = ["training", "log_prob", "sampling 64", "sampling 1", "reading"]
    assert [each["name"] for each in results["measurements"]] == names
    for each in results["measurements"]:
        assert each["images_per_s"]["count"] == 2
        assert 0 < each["images_per_s"]["low"] <= each["images_per_s"]["median"] <= each["images_per_s"]["high"]
        assert each["name"] == "reading" or each["fraction_of_limit"] > 0
        assert each["name"] in text
    assert results["limits"]["dtype"] == "torch.bfloat16"
    assert min(results["limits"]["flops_per_s"], results["limits"]["bytes_per_s"]) > 1e8
    assert (
        results["memory"]["ours"]["peak_bytes"]
        > results["memory"]["ours"]["held_bytes"]
        > 16 * results["num_parameters"]
    )
    assert results["precision"]["bf16"] == pytest.approx(results["precision"]["float32"], abs=0.05)
    assert results["precision"]["bf16"] != results["precision"]["float32"]
    assert {"cpu", "num_threads", "load_average", "versions", "commit"} <= set(results["environment"])
    for name in ("training", "sampling-64", "sampling-1"):
        events = json.loads(gzip.decompress((output / f"{name}.pt.trace.json.gz").read_bytes()))["traceEvents"]
        assert sum(event["name"] == "aten::mm" for event in events) >= 3 * 2 * 2
    row = (output / "row.md").read_text()
    assert readme.read_text().startswith("before\n<!-- performance -->\n| model")
    assert readme.read_text().endswith(f"|\n{row}<!-- -->\nafter\n<!-- other -->\n<!-- -->\n")


def test_memory_modes_take_turns_at_training(tmp_path, capsys):
    options = [*OPTIONS, "--model.num_steps_per_level", "8", "--output", str(tmp_path), "--memory", "reversible"]
    results = read_results(benchmark.main([*options, "--train.batch_size", "16", "--against", "stored"]))
    assert "no data set: images are random, and reading is not measured" in capsys.readouterr().out
    training, *others = results["measurements"]
    assert training["ratios"]["stored"]["median"] < 1
    assert [each["ratios"] for each in others] == 3 * [{}]
    reversible, stored = results["memory"]["ours"], results["memory"]["stored"]
    assert reversible["held_bytes"] == stored["held_bytes"]
    assert reversible["peak_bytes"] < stored["peak_bytes"]


def test_normflows_takes_turns_at_everything(normflows, tmp_path, capsys):
    options = [*OPTIONS, "--model.split_prior", "standard", "--output", str(tmp_path), "--against", "normflows"]
    results = read_results(benchmark.main(options))
    assert "network_actnorm is set to false in both models" in capsys.readouterr().out
    assert not results["config"]["model"]["network_actnorm"]
    assert [list(each["ratios"]) for each in results["measurements"]] == 4 * [["normflows"]]
    assert results["against"]["differences"]
    assert set(results["memory"]) == {"ours", "normflows"}


def test_under_mixed_precision_normflows_takes_part_with_autocast_too(normflows, tmp_path):
    options = [*OPTIONS, "--model.split_prior", "standard", "--output", str(tmp_path), "--against", "normflows"]
    results = read_results(benchmark.main([*options, "--train.mixed_precision", "bf16"]))
    assert list(results["measurements"][0]["ratios"]) == ["normflows", "normflows, autocast"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "repeats: 0 is not allowed; give 1 or more"),
        (["--seconds", "-1"], "seconds: -1.0 is not allowed; give 0 or more"),
        (["--against", "stored"], "against: 'stored' is not allowed; choose another mode"),
        (
            ["--parallel.mode", "fsdp"],
            "parallel.mode: 'fsdp' is not allowed; leave it out: benchmark measures one process",
        ),
        (["--vectors.name", "moons"], "vectors.name: 'moons' is not allowed; leave it out: benchmark measures a Glow"),
        (
            ["--data.path", "nowhere"],
            r"image_shape is not set; give it, as in '\[3, 64, 64\]', or the data\.path .* .nowhere",
        ),
        ([*OPTIONS, "--readme", "LICENSE"], "readme: LICENSE has no lines <!-- performance --> and <!-- -->"),
        (
            [*OPTIONS, "--against", "normflows", "--model.coupling", "mixture"],
            "model.coupling: 'mixture', but against normflows only affine, additive can be compared",
        ),
    ],
)
def test_mistakes_are_errors_of_one_line(arguments, message, tmp_path):
    if "normflows" in arguments:
        pytest.importorskip("normflows")
    with pytest.raises(ValueError, match=message) as error:
        benchmark.main(["--output", str(tmp_path), *arguments])
    assert "\n" not in str(error.value)


def test_without_normflows_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "normflows", None)
    with pytest.raises(ValueError, match=r"normflows is not installed: pip install 'glow-flows\[bench\]'"):
        benchmark.main([*OPTIONS, "--output", str(tmp_path), "--against", "normflows"])


def test_several_processes_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="benchmark runs as one process"):
        benchmark.main([*OPTIONS, "--output", str(tmp_path)])

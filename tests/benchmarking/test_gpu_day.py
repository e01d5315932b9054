"""The GPU day: parts keep what they have, and another call goes on."""

import importlib.util
import json
import sys

import pytest

PRINT = [sys.executable, "-c", "print('tests/gpu/test_gpu.py::test_one[a b] PASSED [ 50%]')"]
SLEEP = [sys.executable, "-c", "import time; print('slept', flush=True); time.sleep(60)"]


@pytest.fixture
def gpu_day(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("gpu_day", "benchmarks/gpu_day.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_day", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "GRACE_S", 1)
    options = ["--device", "cpu", "--smoke", "--output", str(tmp_path), "--minutes", "0.1"]
    monkeypatch.setattr(sys, "argv", ["gpu_day.py", *options])
    return module


def test_another_call_goes_on_and_keeps_the_results(gpu_day, monkeypatch, tmp_path, capsys):
    started = [
        gpu_day.Part("tests", PRINT, 4, gpu_day.test_results),
        gpu_day.Part("slow", SLEEP, 0.5, str.strip),
        gpu_day.Part("broken", [sys.executable, "-c", "raise SystemExit(3)"], 4, gpu_day.last_line),
        gpu_day.Part("long", PRINT, 100, str.strip),
    ]
    monkeypatch.setattr(gpu_day, "all_parts", lambda *_: started[:3])
    gpu_day.main()
    parts = json.loads((tmp_path / "report.json").read_text())["parts"]
    assert parts["tests"]["result"] == {"test_one[a b]": "PASSED"}
    assert parts["slow"]["ending"].startswith("stopped after")
    assert parts["slow"]["result"] in ("slept", "")  # "" where Python had no time to start
    assert parts["broken"]["ending"].startswith("failed with status 3; no result")
    monkeypatch.setattr(gpu_day, "all_parts", lambda *_: started)
    capsys.readouterr()
    gpu_day.main()
    again = json.loads((tmp_path / "report.json").read_text())["parts"]
    assert {name: again[name] for name in parts} == parts  # nothing ran twice
    assert again["long"]["ending"] == "finished"
    assert "1 passed" in (tmp_path / "report.md").read_text()

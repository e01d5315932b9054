"""What a training shows: the mean loss and the speed of the steps since the last line, and a line for a validation."""

from accelerate import Accelerator
from training_runs import comparable, options

from glow.training.progress import Progress
from pipelines import train as train_stage


def test_loss_and_speed_are_those_of_the_steps_since_the_last_line():
    progress = Progress(Accelerator(cpu=True), batch_size=10)
    progress.add(9.0, waited_s=9.0, busy_s=9.0)
    progress.mean_loss(), progress.speed()
    progress.add(1.0, waited_s=0.0, busy_s=1.0)
    progress.add(2.0, waited_s=1.0, busy_s=3.0)
    assert progress.mean_loss() == 1.5
    speed = progress.speed()
    assert speed.pop("train/peak_memory_bytes") > 1e6
    assert speed == {
        "train/images_per_s": 5.0,
        "train/images_per_process_per_s": 5.0,
        "train/step_s": 2.0,
        "train/data_wait_s": 0.5,
        "train/data_wait_s_per_s": 0.25,
    }


def test_a_validation_is_one_line_of_output(dataset, tmp_path, capsys):
    train_stage.main(options(dataset, tmp_path, "--train.log_every", "2", "--train.validate_every", "3"))
    lines = {line["step"]: line for line in comparable(tmp_path)}
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")] == [
        f"step 3/8: validation {lines[3]['validation/bits_per_dim']:.4f} bits/dim",
        *(
            f"step {step}/8: train {lines[step]['train/bits_per_dim']:.4f}, "
            f"validation {lines[step]['validation/bits_per_dim']:.4f} bits/dim"
            for step in (6, 8)
        ),
    ]

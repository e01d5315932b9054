"""The page: what its sliders answer, and the page itself in Chromium."""

import json
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from conftest import perturb, tiny_glow
from PIL import Image
from saved_runs import save_run

import glow
from glow.editing.attributes import load_directions
from glow.editing.choosing import Data
from glow.editing.pictures import enlarged, sheet
from glow.editing.repair import inpaint
from glow.evaluation.anomaly import shortest_code
from glow.explore.answers import Answers, open_upload
from glow.explore.repairs import Repairs
from glow.explore.runs import reports, training_curve
from glow.training.checkpoints.manager import find_checkpoint
from pipelines import edit, explore


@pytest.fixture(scope="module")
def run(tmp_path_factory, dataset):
    model = tiny_glow(torch.float32)
    perturb(model, 0.02, seed=3)
    path = save_run(tmp_path_factory.mktemp("runs") / "tiny", dataset, model)
    edit.main(["--checkpoint", str(path), "--what", "attributes"])
    return path


@pytest.fixture(scope="module")
def answers(run, dataset):
    directions = load_directions(run / "edit" / "step-00000007-attributes", 192)
    with Repairs(find_checkpoint(run), "ema", "float32") as repairs:
        yield Answers.of(str(run), run, Data(glow.load(run), str(dataset)), directions, repairs)


def test_samples_are_those_of_the_command(answers):
    images = answers.model.sample(16, temperature=[0.2, 0.9], seed=3)
    expected = sheet([list(images[:8]), list(images[8:])])
    assert np.array_equal(answers.sample(3.0, [0.2, 0.9], None), expected)
    command = answers.sample_command(3.0, [0.2, 0.9], None)
    assert command == f"glow sample --checkpoint {answers.name} --temperatures '[[0.2, 0.9]]' --seed 3"


def test_measured_image_is_the_one_that_was_picked(answers):
    bits = answers.model.bits_per_dim(answers.test[2:3])
    _, chart, rows, text = answers.describe(answers.picture(2))
    assert text.startswith(f"{float(bits[0]):.3f} bits/dim")
    assert "0 numbers come back different" in text
    assert np.unique(np.asarray(chart)).size > 10
    assert rows[0] == ["bits per dim", f"{float(bits[0]):.3f}", share_below(float(bits[0]), answers.bits)]
    code = shortest_code(answers.test[2].numpy(), 8).bits_per_dim
    assert rows[2][:2] == ["complexity corrected", f"{float(bits[0]) - code:.3f}"]


def share_below(value, others):
    return f"{sum(other < value for other in others) / len(others):.0%} of {len(others)}"


def test_click_sends_the_sample_under_it(answers):
    images = answers.samples(3.0, [0.2, 0.9], None)
    shown = answers.sample(3.0, [0.2, 0.9], None)
    for number in (0, 7, 8, 15):
        x, y = 6 + 70 * (number % 8) + 60, 6 + 70 * (number // 8) + 60
        assert np.array_equal(np.asarray(shown.crop((x - 60, y - 60, x + 4, y + 4))), enlarged(images[number]))
        assert np.array_equal(answers.clicked(x, y, images), enlarged(images[number], 192))
    assert answers.clicked(shown.width - 1, 3, images) is None
    assert answers.clicked(3, shown.height + 40, images) is None


def test_repair_is_that_of_the_kit_and_keeps_what_is_known(answers):
    image = answers.test[1]
    painted = np.zeros((192, 192), dtype=np.uint8)
    painted[50:140, 20:100] = 255
    mask = answers.missing("what I paint", painted)
    assert mask[0].nonzero().tolist() == [[y, x] for y in (2, 3, 4, 5) for x in (1, 2, 3)]
    expected = inpaint(answers.model, image, mask, None, 5, 20)
    shown, drawn, text = answers.repair(answers.picture(1), "what I paint", painted, 20, 5)
    row = [image, image.masked_fill(mask, 127), expected.likeliest, expected.mean, *expected.samples]
    heads = ["image", "given", "MAP", "mean", "draw 1", "draw 2", "draw 3", "draw 4"]
    assert np.array_equal(shown, sheet([row], (), heads))
    assert torch.equal(expected.likeliest[~mask], image[~mask])
    assert np.asarray(drawn)[60, 30].tolist() == [255, 255, 255]
    assert f"R-hat {expected.r_hat:.2f}." in text
    for nothing in (None, np.zeros((192, 192), dtype=np.uint8)):
        with pytest.raises(ValueError, match="Paint over the pixels"):
            answers.missing("what I paint", nothing)
    assert answers.missing("left", None)[0].sum() == 32


def test_lines_of_python_make_the_mixed_picture(answers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(answers.test[3].permute(1, 2, 0).numpy()).save("my.png")
    names = {}
    exec(answers.mix_code(["0", "my.png"], 0.3, "spherical", ["2"]), names)
    picture, _ = answers.mix(answers.picture(0), answers.picture(3), 0.3, "spherical", ["2"])
    assert np.array_equal(picture, enlarged(names["image"][0], 192))


def test_curves_and_reports_of_a_run(run, tmp_path):
    assert (training_curve(tmp_path), reports(tmp_path)) == (None, [])
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/bits_per_dim": 5.0}\n{"step": 2}\n')
    assert training_curve(tmp_path).size == (640, 300)
    facts = {"bits_per_dim": 3.25, "standard_error": None, "num_images": 9, "bound": "<b>elbo</b>"}
    for name, text in (("good", json.dumps(facts)), ("bad", "{"), ("odd", "[]"), ("poor", "{}")):
        (tmp_path / "report" / name).mkdir(parents=True)
        (tmp_path / "report" / name / "bpd.json").write_text(text)
    found = reports(tmp_path)
    assert [row[:2] for row in found] == [
        ["bad", "cannot be read"], ["good", "3.2500"], ["odd", "cannot be read"], ["poor", "cannot be read"]
    ]  # fmt: skip
    assert found[1][2:] == ["None", "9", "<b>elbo</b>"]


def test_ends_of_a_mix_are_its_images(answers):
    a, b = answers.picture(0), answers.picture(1)
    for weight, image in ((0, 0), (1, 1)):
        picture, _ = answers.mix(a, b, weight, "spherical", [])
        assert np.array_equal(picture, enlarged(answers.test[image], 192))
    picture, _ = answers.mix(a, b, 0, "linear", ["1", "2"])
    assert np.array_equal(picture, enlarged(answers.test[1], 192))


def test_strength_0_leaves_an_image_as_it_is(answers):
    picture, _ = answers.attribute(answers.picture(4), "class1", "mean", 0)
    assert np.array_equal(picture, enlarged(answers.test[4], 192))
    moved, _ = answers.attribute(answers.picture(4), "class1", "logistic", 2)
    assert not np.array_equal(moved, picture)
    with pytest.raises(ValueError, match="Choose an image first"):
        answers.attribute(None, "class1", "mean", 0)


def test_uploads_that_cannot_be_used_get_a_sentence(answers, tmp_path):
    shape = (3, 8, 8)
    (tmp_path / "text.png").write_text("<script>")
    with pytest.raises(ValueError, match="This file is not an image that can be read"):
        open_upload(str(tmp_path / "text.png"), shape, False)
    Image.new("1", (5000, 5000)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match="5000 x 5000 pixels; 16 million are the limit"):
        open_upload(str(tmp_path / "large.png"), shape, False)


def test_upload_of_another_shape_is_cropped_or_squeezed(answers, tmp_path):
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, :10], pixels[:, 30:] = (250, 0, 0), (0, 0, 250)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    cropped, whole = (
        answers.read(open_upload(str(tmp_path / "wide.png"), (3, 8, 8), is_whole)) for is_whole in (False, True)
    )
    assert cropped.shape == whole.shape == (1, 3, 8, 8)
    assert cropped.max() < 30
    assert (whole[0, :, 4, 0].int() - torch.tensor([250, 0, 0])).abs().max() < 9
    assert (whole[0, :, 4, 7].int() - torch.tensor([0, 0, 250])).abs().max() < 9


def test_wrong_ports_are_refused():
    with pytest.raises(ValueError, match="port: 70000 is not allowed; give 0 to 65535"):
        explore.main(["--checkpoint", "x", "--port", "70000"])


@pytest.fixture
def address(run):
    """The address of the page, which another process serves until Ctrl-C."""
    command = [sys.executable, "-m", "pipelines.explore", "--checkpoint", str(run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().strip()
        finally:
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=30)


@pytest.mark.skipif(find_spec("gradio") is None, reason="the page needs the extra explore")
@pytest.mark.skipif(find_spec("playwright") is None, reason="Playwright is not installed")
@pytest.mark.skipif(shutil.which("chromium") is None, reason="Debian's chromium is not installed")
def test_a_visitor_uses_every_tab_and_no_other_host_is_asked(address, tmp_path):
    from playwright.sync_api import sync_playwright

    assert address.startswith("http://127.0.0.1:")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        asked = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(address)
        visit(tab, tmp_path)
        tab.set_viewport_size({"width": 390, "height": 844})
        tab.screenshot(path=tmp_path / "phone.png")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        browser.close()
    assert asked
    assert {url for url in asked if not url.startswith((address, "data:", "blob:"))} == set()


def visit(tab, folder):
    """Use each tab as a visitor would, and keep a picture of it."""
    tab.set_default_timeout(60_000)
    tab.locator("textarea").first.wait_for()
    tab.wait_for_function("document.querySelector('textarea').value.includes('--seed 0')")
    tab.screenshot(path=folder / "sample.png")
    tab.locator("[role=tabpanel]:visible img").first.click(position={"x": 300, "y": 30})
    tab.get_by_text("This sample is now the image of the other tabs").wait_for()
    tab.get_by_role("tab", name="Your image").click()
    (folder / "bad.png").write_text("no")
    tab.locator("[role=tabpanel]:visible input[type=file]").first.set_input_files(folder / "bad.png")
    tab.get_by_text("This file is not an image that can be read").wait_for()
    tab.get_by_role("button", name="Measure").click()
    wait_for_text(tab, "an upper bound")
    wait_for_text(tab, "--images sample.png")
    tab.screenshot(path=folder / "image.png")
    for name in ("Mix", "Attributes"):
        tab.get_by_role("tab", name=name).click()
        tab.get_by_role("radio", name="linear" if name == "Mix" else "logistic").check()
        wait_for_text(tab, " bits/dim")
        tab.screenshot(path=folder / f"{name}.png", full_page=True)
    tab.get_by_role("tab", name="Repair").click()
    tab.get_by_role("radio", name="what I paint").check()
    canvas = tab.locator("canvas:visible").first
    canvas.scroll_into_view_if_needed()
    place = canvas.bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    tab.mouse.move(x - 40, y)
    tab.mouse.down()
    tab.mouse.move(x + 40, y, steps=10)
    tab.mouse.up()
    tab.get_by_role("spinbutton").nth(1).fill("20")
    tab.get_by_role("button", name="Repair").click()
    wait_for_text(tab, "R-hat")
    tab.screenshot(path=folder / "repair.png", full_page=True)
    tab.get_by_role("tab", name="Training").click()
    tab.get_by_text("There is no evaluation yet").wait_for()
    tab.screenshot(path=folder / "training.png")


def wait_for_text(tab, text):
    """Wait until a box of the tab that is shown has a text."""
    tab.wait_for_function(
        "text => [...document.querySelectorAll('[role=tabpanel]')].some(panel => panel.offsetParent && "
        "[...panel.querySelectorAll('textarea, input')].some(box => box.value.includes(text)))",
        arg=text,
    )

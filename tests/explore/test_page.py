"""The page: what its sliders answer, and the page itself in Chromium."""

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
from glow.explore.answers import Answers, open_upload
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
    return Answers.of(str(run), Data(glow.load(run), str(dataset)), directions)


def test_samples_are_those_of_the_command(answers):
    images = answers.model.sample(16, temperature=[0.2, 0.9], seed=3)
    expected = sheet([list(images[:8]), list(images[8:])])
    assert np.array_equal(answers.sample(3.0, [0.2, 0.9], None), expected)
    command = answers.sample_command(3.0, [0.2, 0.9], None)
    assert command == f"glow sample --checkpoint {answers.run} --temperatures '[[0.2, 0.9]]' --seed 3"


def test_measured_image_is_the_one_that_was_picked(answers):
    bits = answers.model.bits_per_dim(answers.test[2:3])
    _, text = answers.describe(answers.picture(2))
    assert text.startswith(f"{float(bits[0]):.3f} bits/dim")
    assert "0 numbers come back different" in text


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
    (tmp_path / "text.png").write_text("<script>")
    with pytest.raises(ValueError, match="This file is not an image that can be read"):
        open_upload(str(tmp_path / "text.png"))
    Image.new("1", (5000, 5000)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match="5000 x 5000 pixels; 16 million are the limit"):
        open_upload(str(tmp_path / "large.png"))
    Image.new("RGBA", (30, 20), (250, 0, 0, 255)).save(tmp_path / "other.png")
    read = answers.read(open_upload(str(tmp_path / "other.png")))
    assert read.shape == (1, 3, 8, 8)
    assert read[0, :, 4, 4].tolist() == [250, 0, 0]


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
        answered = []
        tab.on("response", lambda response: answered.append(response.url))
        tab.goto(address)
        visit(tab, tmp_path)
        tab.set_viewport_size({"width": 390, "height": 844})
        tab.screenshot(path=tmp_path / "phone.png")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        browser.close()
    assert answered
    assert {url for url in answered if not url.startswith((address, "data:", "blob:"))} == set()


def visit(tab, folder):
    """Use each tab as a visitor would, and keep a picture of it."""
    tab.set_default_timeout(15_000)
    tab.locator("textarea").first.wait_for()
    tab.wait_for_function("document.querySelector('textarea').value.includes('--seed 0')")
    tab.screenshot(path=folder / "sample.png")
    tab.get_by_role("tab", name="Your image").click()
    (folder / "bad.png").write_text("no")
    tab.locator("input[type=file]:visible, [role=tabpanel]:visible input[type=file]").first.set_input_files(
        folder / "bad.png"
    )
    tab.get_by_text("This file is not an image that can be read").wait_for()
    tab.get_by_role("button", name="Measure").click()
    tab.wait_for_function("[...document.querySelectorAll('textarea')].some(a => a.value.includes('an upper bound'))")
    tab.screenshot(path=folder / "image.png")
    for name in ("Mix", "Attributes"):
        tab.get_by_role("tab", name=name).click()
        tab.get_by_role("radio", name="linear" if name == "Mix" else "logistic").check()
        tab.wait_for_function(
            "[...document.querySelectorAll('[role=tabpanel]')].some(p => p.offsetParent && [...p.querySelectorAll("
            "'textarea, input')].some(a => a.value.endsWith(' bits/dim')))"
        )
        tab.screenshot(path=folder / f"{name}.png", full_page=True)

"""The README, the pages of docs/ and the heads of configurations: length, pictures, what they say."""

import re
from pathlib import Path

import pytest

PAGES = [Path("README.md"), *sorted(Path("docs").rglob("*.md"))]
MAX_LINES_OF_README = 150
MAX_BYTES_OF_A_PICTURE = 200_000


def test_the_readme_is_short():
    assert len(Path("README.md").read_text().splitlines()) <= MAX_LINES_OF_README


def test_pictures_are_small_and_shown():
    text = "".join(page.read_text() for page in PAGES)
    for picture in Path("docs/images").iterdir():
        assert picture.stat().st_size < MAX_BYTES_OF_A_PICTURE, picture
        assert f"images/{picture.name})" in text, f"{picture} is on no page"


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.yaml")), ids=str)
def test_configurations_open_with_purpose_result_cost_and_command(path):
    head = path.read_text().split("\noutput:")[0].splitlines()
    assert all(line.startswith("# ") for line in head)
    labels = [match[1] for line in head if (match := re.match(r"# (\w+):", line))]
    assert labels == ["Purpose", "Result", "Cost", "Command"]

"""The hand-written pages say what is true of the code and of the files."""

import ast
import re
from pathlib import Path

import pytest

LINK = re.compile(r"\]\(([^)\s]+)\)")
LINKING = ["README.md", "CONTRIBUTING.md", "slurm/README.md"]


def literal_texts():
    """Yield the plain parts of every string of the code."""
    for path in [*Path("glow").rglob("*.py"), *Path("pipelines").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def messages():
    """The messages in the first column of the tables of the page."""
    cells = re.findall(r"^\| (`.+?`) \| ", Path("docs/reference/messages.md").read_text(), re.MULTILINE)
    return [message for cell in cells for message in re.findall("`(.+?)`", cell)]


def test_messages_of_the_page_are_in_the_code():
    code = "\n".join(literal_texts())
    assert len(messages()) > 40
    parts = [part.strip(" ;,") for message in messages() for part in message.split("...")]
    assert [part for part in parts if part not in code] == []


@pytest.mark.parametrize("page", LINKING)
def test_local_links_point_at_files(page):
    links = [link for link in LINK.findall(Path(page).read_text()) if "://" not in link and not link.startswith("#")]
    for link in links:
        assert (Path(page).parent / link.partition("#")[0]).exists(), link


def test_recipes_name_files_and_names_that_exist():
    words = re.findall(r"`([\w./]+)`", Path("CONTRIBUTING.md").read_text())
    words = [word for word in words if "NAME" not in word]
    code = "".join(path.read_text() for room in ("glow", "pipelines", "tests") for path in Path(room).rglob("*.py"))
    paths = [word for word in words if "/" in word or re.search(r"\.(py|md|yml)$", word)]
    assert len(paths) > 20
    assert [path for path in paths if not Path(path).exists()] == []
    names = {name for word in words if word not in paths for name in word.split(".")}
    assert [name for name in names if not re.search(rf"\b{name}\b", code)] == []

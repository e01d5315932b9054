"""``prepare --dry_run true`` says what would be read, and writes nothing."""

import pytest
from foreign import photo, write_as_img2dataset
from pictures import make_folder

from pipelines import prepare


@pytest.mark.filterwarnings("ignore:.*these files are not read")
def test_shards_are_described(tmp_path, capsys):
    source = write_as_img2dataset(tmp_path / "shards")
    output = tmp_path / "data"
    options = ["--source", str(source), "--label", "json:class.name", "--output", str(output), "--validation", "4"]
    prepare.main([*options, "--dry_run", "true"])
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        f"{source}: 24 images, 2 classes (cat 12, dog 12)",
        "  tried 24 of them: 24 to 40 x 32 to 32 (height x width), 24 colour",
        "  sizes differ: --size brings all images to one size, --short_side keeps what they show",
        "splits: train 20, validation 4",
        "nothing was written: leave out --dry_run to prepare the data set",
    ]
    assert not output.exists()


def test_damaged_images_are_counted(tmp_path, capsys, pet_pictures):
    source = make_folder(tmp_path / "source", pet_pictures)
    (tmp_path / "source/dog/broken.png").write_bytes(photo(0, kind="PNG")[:60])
    prepare.main(["--source", source, "--output", str(tmp_path / "data"), "--dry_run", "true"])
    printed = capsys.readouterr().out
    assert "21 images, 2 classes (cat 13, dog 8)" in printed
    assert "1 cannot be used (--on_error skip leaves them out); the first: " in printed
    assert "broken.png" in printed

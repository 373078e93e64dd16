"""Files and folders that are replaced whole."""

import os
from pathlib import Path

import pytest

from shared import report


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_replaced_whole(tmp_path):
    for turn in ("first", "second"):
        with report.replaced(tmp_path / "made") as part:
            (part / turn).write_text(turn)
            assert names(tmp_path / "made") == ["first"] if turn == "second" else not (tmp_path / "made").exists()
    assert names(tmp_path) == ["made"] and names(tmp_path / "made") == ["second"]


@pytest.mark.parametrize("fails", ["in the block", "between the renames"])
def test_what_goes_wrong_leaves_the_old_folder(tmp_path, monkeypatch, fails):
    with report.replaced(tmp_path / "made") as part:
        (part / "old").write_text("kept")
    rename = Path.rename

    def stopped(self, target):
        if str(target).endswith("made") and str(self).endswith("part"):
            raise KeyboardInterrupt
        return rename(self, target)

    if fails == "between the renames":
        monkeypatch.setattr(Path, "rename", stopped)

    def replace():
        with report.replaced(tmp_path / "made") as part:
            (part / "new").write_text("never seen")
            if fails == "in the block":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace()
    assert names(tmp_path) == ["made"] and names(tmp_path / "made") == ["old"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    report.write_atomically(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        report.write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == ["a"]

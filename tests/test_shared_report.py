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


@pytest.mark.parametrize("whole", [True, False])
def test_what_a_killed_process_left_is_put_back_or_removed(tmp_path, whole):
    """`whole`: it was killed while the folder stood in its place, else between the two renames."""
    for name in (".made.part", ".made.old", *(["made"] if whole else [])):
        (tmp_path / name).mkdir()
        (tmp_path / name / name.rpartition(".")[2]).touch()
    with report.replaced(tmp_path / "made") as part:
        assert names(part) == [] and names(tmp_path / "made") == ["made" if whole else "old"]
        (part / "new").touch()
    assert names(tmp_path) == ["made"] and names(tmp_path / "made") == ["new"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    report.write_atomically(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        report.write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == ["a"]

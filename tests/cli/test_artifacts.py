"""Where a search keeps its files, from the command line."""

import sys

import pytest

from ray_tl.cli import main


def complaint(capsys, monkeypatch, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["ray-tl", "search", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


def test_a_password_in_the_address_is_refused_and_not_shown(capsys, monkeypatch, tmp_path):
    stated = "space.yaml", "--source", "a", "--target", "b", "--home", str(tmp_path)
    code, said = complaint(capsys, monkeypatch, *stated, "--artifacts", "s3://key:swordfish@bucket/x")
    assert code == 2
    assert "the password in the address would be kept with the study" in said
    assert "swordfish" not in said


def test_an_address_that_can_not_be_written_ends_a_search_before_it_begins(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    stated = "space.yaml", "--source", "a", "--target", "b", "--home", str(tmp_path / "home")
    code, said = complaint(capsys, monkeypatch, *stated, "--artifacts", f"file://{tmp_path}/file/below")
    assert code == 1
    assert "can't be written" in said
    assert not (tmp_path / "home").exists()

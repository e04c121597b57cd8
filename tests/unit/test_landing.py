"""Where fetched files come to be: nothing of it stays, whoever is killed."""

from sparkles.engine.landing import PREFIX, Landing


def test_nothing_is_made_for_no_files(tmp_path):
    with Landing(tmp_path / "dest"):
        pass
    assert not (tmp_path / "dest").exists()


def test_files_are_renamed_out_of_it_and_the_rest_goes_with_it(tmp_path):
    with Landing(tmp_path / "dest") as landing:
        kept, left = landing.place(), landing.place()
        kept.write_text("kept")
        left.write_text("left")
        kept.replace(tmp_path / "dest" / "file")
    assert [path.name for path in (tmp_path / "dest").iterdir()] == ["file"]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_uses_is_not(tmp_path):
    killed = tmp_path / f"{PREFIX}killed"
    killed.mkdir()
    (killed / "1").write_text("half of a fi")
    with Landing(tmp_path) as living:
        file = living.place()
        file.write_text("a file")
        assert not killed.exists()
        with Landing(tmp_path) as other:
            assert other.place().parent != file.parent
            assert file.read_text() == "a file"
    assert list(tmp_path.iterdir()) == []

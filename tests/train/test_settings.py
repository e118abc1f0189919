"""What decides a run, as it is given and as it is kept."""

import pytest

from vertebra.errors import UsageError

pytest.importorskip("torch")

from vertebra.train._settings import Settings


@pytest.mark.parametrize("given", [["extra", 'a "b"'], ("extra", 'a "b"')])
def test_names_to_ignore_are_kept(tmp_path, given):
    settings = Settings.from_mapping({"data": "x", "ignore": given, "allow_unseen": True}, "here")
    assert settings.ignore == ("extra", 'a "b"')
    (tmp_path / "settings.toml").write_text(settings.to_toml())
    assert Settings.from_toml(tmp_path / "settings.toml") == settings
    assert settings.shown()["ignore"] == 'extra, a "b"'
    assert "ignore" not in Settings("x").to_toml()
    assert "ignore" not in Settings("x").shown()


@pytest.mark.parametrize("given", ["extra", 3, ["a", 3], {"a": 1}.keys()])
def test_names_to_ignore_are_a_list(given):
    with pytest.raises(UsageError, match=r'ignore is .*; it must be a list of texts, such as \["extra"\]\.'):
        Settings.from_mapping({"data": "x", "ignore": given}, "here")


@pytest.mark.parametrize("value", [True, 1, "true", "yes", {"a": 1}])
def test_a_setting_that_is_gone_says_what_there_is_instead(value):
    with pytest.raises(UsageError, match=r"^RUN/settings\.toml has fsdp = .*gone.*torchrun.*--set fsdp=false"):
        Settings.from_mapping({"data": "x", "fsdp": value}, "RUN/settings.toml")


def test_settings_of_earlier_versions_are_read(tmp_path):
    expected = Settings.from_mapping({"data": "x", "method": "scratch"}, "here")
    (tmp_path / "settings.toml").write_text(expected.to_toml() + "fsdp = false\n")
    found = Settings.from_toml(tmp_path / "settings.toml")
    assert found == expected
    assert "fsdp" not in found.to_toml()

"""Debug knobs: environment, flags on top, errors with the legal values, and the table."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from forgec import debug
from forgec.errors import OptionError


def test_defaults_and_reading():
    assert debug.read({}) == debug.Knobs(0, None, 1, (), None)
    assert debug.read({"FORGEC_DEBUG": "", "HOME": "/"}) == debug.Knobs()
    environ = {
        "FORGEC_DEBUG": "4",
        "FORGEC_DUMP": "reports/dump",
        "FORGEC_VERIFY": "2",
        "FORGEC_PASSES": "-cse, -layout",
        "FORGEC_REWRITE_LIMIT": "17",
    }
    assert debug.read(environ) == debug.Knobs(4, Path("reports/dump"), 2, ("-cse", "-layout"), 17)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FORGEC_DEBUG", "5", "FORGEC_DEBUG is '5', and must be 0 to 4"),
        ("FORGEC_DEBUG", "yes", "0 to 4"),
        ("FORGEC_VERIFY", "-1", "0 to 2"),
        ("FORGEC_DUMP", __file__, "a directory"),
        ("FORGEC_PASSES", "cse", "-name,..."),
        ("FORGEC_REWRITE_LIMIT", "1.5", "a whole number from 0"),
    ],
)
def test_illegal_values(name, value, message):
    with pytest.raises(OptionError, match=message):
        debug.read({name: value})


def test_override_goes_on_top_and_comes_off_again():
    before = debug.knobs()
    with debug.override({"debug": "2", "dump": None}) as outer:
        assert debug.knobs() is outer
        assert outer == dataclasses.replace(before, debug=2)
        with debug.override({"verify": "0"}):
            assert debug.knobs() == dataclasses.replace(before, debug=2, verify=0)
        assert debug.knobs() is outer
    assert debug.knobs() == before


def test_override_comes_off_after_an_error():
    before = debug.knobs()
    with pytest.raises(KeyError), debug.override({"debug": "1"}):
        raise KeyError
    assert debug.knobs() == before
    with (
        pytest.raises(OptionError, match="--verify is '9', and must be 0 to 2"),
        debug.override({"verify": "9"}),
    ):
        pass


def test_the_table_covers_every_knob():
    assert [knob.field for knob in debug.TABLE] == [f.name for f in dataclasses.fields(debug.Knobs)]
    assert all(knob.name == f"FORGEC_{knob.field.upper()}" for knob in debug.TABLE)
    assert debug.TABLE[4].flag == "--rewrite-limit"


def test_log(capsys):
    def never():
        raise AssertionError

    with debug.override({"debug": "1"}):
        debug.log(1, "phase")
        debug.log(1, lambda: "made when wanted")
        debug.log(2, never)
    assert capsys.readouterr().err == "forgec: phase\nforgec: made when wanted\n"


def test_the_environment_is_read_once():
    code = (
        "import os; from forgec import debug; os.environ['FORGEC_DEBUG'] = '3'; a = debug.knobs();"
        "os.environ['FORGEC_DEBUG'] = '1'; assert debug.knobs() is a and a.debug == 3"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)

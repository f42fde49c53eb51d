"""Options: defaults, ranges, the nearest name, and values from command-line text."""

import dataclasses

import pytest

from forgec.errors import OptionError
from forgec.options import Options


def test_defaults():
    assert dataclasses.asdict(Options()) == {
        "fusion": 1.0,
        "rounds": 2,
        "passes": (),
        "capture": "auto",
        "check": True,
        "strict": False,
        "weights": "auto",
        "timeout": 600.0,
        "memory": 0,
        "jobs": 2,
        "fold": "auto",
        "predict": True,
        "costs": "server",
        "cache": "auto",
    }


def test_of_takes_options_a_mapping_or_keywords():
    assert Options.of() == Options.of(None) == Options()
    assert Options.of({"rounds": 3}) == Options(rounds=3)
    assert Options.of(Options(rounds=3), fusion=0) == Options(rounds=3, fusion=0.0)
    assert Options.of({"rounds": 3}, rounds=4).rounds == 4


def test_values_have_one_type():
    options = Options(fusion=1, passes=["-cse"])  # type: ignore[arg-type]
    assert isinstance(options.fusion, float)
    assert options.passes == ("-cse",)
    assert hash(options) == hash(Options(passes=("-cse",)))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fusion", 1.01, "fusion is 1.01, and must be a number from 0 to 1"),
        ("fusion", -0.1, "from 0 to 1"),
        ("fusion", float("nan"), "from 0 to 1"),
        ("fusion", True, "from 0 to 1"),
        ("fusion", "0.5", "from 0 to 1"),
        ("rounds", 0, "rounds is 0, and must be a whole number from 1 to 8"),
        ("rounds", 9, "from 1 to 8"),
        ("rounds", 2.0, "from 1 to 8"),
        ("passes", "-cse", "names of passes"),
        ("passes", ("cse",), "each with a minus"),
        ("passes", ("-",), "each with a minus"),
        ("passes", (1,), "each with a minus"),
        ("passes", None, "each with a minus"),
        ("capture", "block", "one of auto, blocks, full"),
        ("check", 1, "true or false"),
        ("strict", "yes", "true or false"),
        ("weights", "int9", "no weight format 'int9'"),
        ("weights", ["int8"], "weights is .* and must be"),
    ],
)
def test_illegal_values(name, value, message):
    for make in (lambda: Options(**{name: value}), lambda: Options.of({name: value})):
        with pytest.raises(OptionError, match=message):
            make()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("fussion", "did you mean 'fusion'"),
        ("round", "did you mean 'rounds'"),
        ("zzz", "the options are fusion"),
    ],
)
def test_an_unknown_option_names_the_nearest(name, hint):
    for make in (lambda: Options.of({name: 1}), lambda: Options.parse([f"{name}=1"])):
        with pytest.raises(OptionError, match=rf"no option '{name}'\n  try: {hint}"):
            make()


def test_parse():
    texts = ["fusion=0.5", "rounds = 3", "passes=-cse, -layout", "capture=full", "check=no", "strict=TRUE"]
    assert Options.of(Options.parse(texts)) == Options(0.5, 3, ("-cse", "-layout"), "full", False, True)
    assert Options.of(Options.parse(["weights=int4:64,lm_head=int8"])).weights == "int4:64,lm_head=int8"
    assert Options.parse([]) == {}


@pytest.mark.parametrize("text", ["fusion=high", "rounds=2.5", "check=maybe"])
def test_parse_illegal(text):
    with pytest.raises(OptionError, match="and must be"):
        Options.parse([text])


def test_parse_wants_an_equals_sign():
    with pytest.raises(OptionError, match="write name=value"):
        Options.parse(["fusion"])


def test_to_dict_and_table():
    assert Options(passes=("-cse",)).to_dict()["passes"] == ["-cse"]
    table = Options.table()
    assert [row[0] for row in table] == [f.name for f in dataclasses.fields(Options)]
    assert table[1][2] == "a whole number from 1 to 8 (default 2)"

"""The report as JSON: round trip, the published schema, and that reading is as strict as the schema."""

import copy
import json
import math
import random

import jsonschema
import pytest
from report_samples import sample

from forgec.errors import ArtifactError, OptionError
from forgec.report import publish
from forgec.report.report import Report

SCHEMA = json.loads(publish.SCHEMA_FILE.read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_round_trip():
    report = sample()
    assert Report.from_json(report.to_json()) == report
    assert Report.from_json(report.to_json().encode()) == report
    assert sample(fidelity=None) == Report.from_json(sample(fidelity=None).to_json())


def test_schema_is_valid_and_is_what_the_dataclasses_say():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert publish.SCHEMA_FILE.read_text() == publish.schema_text(), (
        "the dataclasses changed: run python -m forgec.report.publish; a new version if it is not additive"
    )


def test_schema_is_strict_everywhere():
    objects = [SCHEMA, *SCHEMA["$defs"].values()]
    assert len(objects) == 17
    for definition in objects:
        assert definition["additionalProperties"] is False
        assert definition["required"] == list(definition["properties"])


def test_a_report_follows_the_schema():
    VALIDATOR.validate(sample().to_dict())
    assert sample().to_json().startswith('{\n  "schema"')


def test_numbers_that_are_not_finite_survive():
    report = sample()
    assert report.fidelity is not None
    report.fidelity.sqnr_db, report.fidelity.kl, report.fidelity.cosine = math.inf, -math.inf, math.nan
    VALIDATOR.validate(report.to_dict())
    back = Report.from_json(report.to_json()).fidelity
    assert back is not None
    assert (back.sqnr_db, back.kl) == (math.inf, -math.inf)
    assert math.isnan(back.cosine)


@pytest.mark.parametrize("seed", range(300))
def test_reading_rejects_exactly_what_the_schema_rejects(seed):
    rng = random.Random(seed)
    document = copy.deepcopy(sample().to_dict())
    for _ in range(rng.randint(1, 2)):
        _mutate(document, rng)
    valid = VALIDATOR.is_valid(document)
    try:
        Report.from_json(json.dumps(document))
    except ArtifactError as error:
        assert not valid, f"seed {seed}: the schema accepts what from_json does not: {error}"
        assert "$" in str(error)
    else:
        assert valid, f"seed {seed}: from_json accepts what the schema rejects"


def _mutate(document, rng):
    """Change, remove or add one value anywhere."""
    spots = []

    def walk(node):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            spots.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(document)
    node, key = rng.choice(spots)
    values = [
        None,
        True,
        0,
        -1,
        3.0,
        2.5,
        "x",
        "NaN",
        "Infinity",
        "measured",
        "capture",
        [],
        {},
        "forgec.report/2",
    ]
    action = rng.choice(("replace", "replace", "remove", "add"))
    if action == "replace":
        node[key] = rng.choice(values)
    elif action == "remove":
        del node[key]
    elif isinstance(node, dict):
        node["extra"] = rng.choice(values)
    else:
        node.append(rng.choice(values))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"schema": NaN}', "NaN is not a JSON value"),
        ("[]", r"\$ must be an object"),
        ('{"schema": "forgec.report/1", "colour": 1}', r"\$\.colour is not part"),
        ('{"schema": "forgec.report/1"}', r"\$\.model is missing"),
        (b"\xff\xfe\xfa", "not JSON"),
    ],
)
def test_bad_json(text, message):
    with pytest.raises(ArtifactError, match=message):
        Report.from_json(text)


def test_the_path_of_a_mistake():
    document = sample().to_dict()
    document["passes"][1]["rewrites"] = -1
    with pytest.raises(ArtifactError, match=r"\$\.passes\[1\]\.rewrites must be a whole number from 0"):
        Report.from_json(json.dumps(document))


def test_save(tmp_path):
    report = sample()
    report.save(tmp_path / "r.json")
    assert Report.from_json((tmp_path / "r.json").read_text()) == report
    report.save(tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    with pytest.raises(OptionError, match=r"r\.pdf"):
        report.save(tmp_path / "r.pdf")
    with pytest.raises(ArtifactError, match="cannot write the report: No such file"):
        report.save(tmp_path / "none" / "r.json")

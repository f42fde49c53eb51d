"""Files and fakes that the tests of the verbs share."""

import sys
import types
from pathlib import Path

import pytest
from cli_toy import example, toy
from typer.testing import CliRunner

sys.path.append(str(Path(__file__).parents[1] / "report"))  # for report_samples


@pytest.fixture
def forge(tmp_path):
    """The toy program as a file."""
    path = tmp_path / "toy.forge"
    toy().save(path)
    return path


@pytest.fixture
def forgec(monkeypatch):
    """Run the command in this process: ``forgec("run", path)`` gives exit code, stdout and stderr."""
    monkeypatch.setenv("TERM", "dumb")
    from forgec.cli.main import app

    def run(*arguments, **more):
        return CliRunner().invoke(app, [str(a) for a in arguments], prog_name="forgec", **more)

    return run


class FakeModel:
    """What ``forgec.models.load`` gives."""

    name = "toy"
    module = object()
    weights = "random"

    def __init__(self):
        self.asked = []

    def example_inputs(self, tokens=None, batch=1, seed=0):
        self.asked.append((tokens, batch, seed))
        return tuple(example()), {}


@pytest.fixture
def fake_compile(monkeypatch):
    """Stand-ins for loading a model and compiling it, which take seconds; ``calls`` keeps what was asked.

    ``report`` is what the executable reports, ``error`` is raised by the compile if it is set.
    """
    from report_samples import sample

    import forgec

    fake = types.SimpleNamespace(calls=[], model=FakeModel(), report=sample(), error=None, loads=[])

    def load(spec, **settings):
        fake.loads.append((spec, settings))
        return fake.model

    def compile(model, args=(), kwargs=None, **settings):
        fake.calls.append(settings)
        for number, phase in enumerate(("capture", "passes")):
            if settings["progress"]:
                settings["progress"](phase, number, 2)
        if fake.error is not None:
            raise fake.error
        return toy(report=fake.report)

    module = types.ModuleType("forgec.compile")
    module.compile = compile
    monkeypatch.setitem(sys.modules, "forgec.compile", module)
    # Not setattr, which would look for the real one and import PyTorch.
    monkeypatch.setitem(forgec.models.__dict__, "load", load)
    return fake

"""The package's face: what importing it loads, and that every name is there."""

import subprocess
import sys

import pytest

import forgec


def run(code):
    # -P: forgec as it is installed, not as a folder where the tests happen to run.
    return subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)


def test_importing_forgec_imports_little():
    code = (
        "import sys, forgec; forgec.__version__; forgec.Options; forgec.ForgecError; dir(forgec);"
        "heavy = {'torch', 'numpy', 'typer', 'rich', 'jinja2', 'transformers'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_the_command_starts_with_little():
    code = (
        "import sys, forgec.cli.main; heavy = {'torch', 'numpy', 'scipy', 'jinja2'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_every_public_name_exists():
    for name in forgec.__all__:
        assert getattr(forgec, name) is not None
    assert set(forgec.__all__) <= set(dir(forgec))


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'forgec' has no attribute 'nope'"):
        forgec.nope  # noqa: B018

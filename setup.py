"""Packaging: the top-level folders passes/, backends/, models/ and bench/ install below forgec."""

from __future__ import annotations

import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
MAPPED = ("passes", "backends", "models", "bench")

NATIVE = runpy.run_path(str(ROOT / "backends" / "cpu" / "native" / "build.py"))

VERSION = {}
exec((ROOT / "forgec" / "version.py").read_text(), VERSION)

packages = find_packages(include=["forgec", "forgec.*"])
package_dir = {}
for folder in MAPPED:
    package_dir[f"forgec.{folder}"] = folder
    packages += [f"forgec.{folder}", *(f"forgec.{folder}.{name}" for name in find_packages(folder))]

COMPILE = ["torch>=2.13", "transformers>=5.20", "tokenizers>=0.22", "safetensors>=0.6", "onnx>=1.23"]
BENCH = ["openvino>=2026.4", "onnx>=1.23", "onnxscript>=0.7", "onnxruntime>=1.31", "matplotlib>=3.10"]
PEERS = [
    "openvino-genai>=2026.4",
    "onnxruntime-genai>=0.18",
    "gguf>=0.17",
    "llama-cpp-python>=0.3.30",
]
QNN = ["onnx>=1.23", "onnxruntime>=1.31", "onnxruntime-qnn>=2.7"]
TEST = [
    "gguf>=0.17",
    "pytest>=9",
    "pytest-xdist>=3.8",
    "hypothesis>=6.150",
    "ruff>=0.17",
    "mypy>=2.4",
    "jsonschema>=4.26",
    "pybind11>=3.1",
]

setup(
    name="forgec",
    version=VERSION["__version__"],
    description="An ahead-of-time transformer graph compiler for NPUs, with a native CPU path",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=packages,
    package_dir=package_dir,
    package_data={
        "forgec": ["py.typed"],
        "forgec.plan": ["calibration/*.json", "calibration/npu/*.json"],
        "forgec.report": ["schema/*.json", "templates/*"],
        "forgec.backends.openvino": ["driver.c", "heap.h", "*.json"],
        "forgec.backends.qnn": ["known.json"],
    },
    install_requires=[
        "numpy>=2.2",
        "scipy>=1.15",
        "ml_dtypes>=0.5",
        "xxhash>=3.5",
        "rich>=14",
        "typer>=0.20",
        "jinja2>=3.1",
        "psutil>=6",
    ],
    extras_require={
        "openvino": ["openvino>=2026.4"],
        "qnn": QNN,
        "compile": COMPILE,
        "bench": [*COMPILE, *BENCH, "nncf>=3.4", *PEERS],
        "test": COMPILE + BENCH + QNN + TEST,
    },
    ext_modules=NATIVE["extensions"](ROOT),
    cmdclass={"build_ext": NATIVE["BuildExtension"]},
    entry_points={"console_scripts": ["forgec = forgec.cli.main:main"]},
)

"""How models are spread over processes of Intel's compiler, here a stand-in that obeys what they say."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from forgec.backends.base import Settings
from forgec.backends.openvino.compiler import Built, Model, Rejected, build
from forgec.backends.openvino.toolchain import Toolchain
from forgec.backends.vendor.cache import Cache

from forgec.errors import BackendError

DRIVER = """
import os, pathlib, sys
folders = pathlib.Path(sys.argv[1]).read_text().split()
with open(os.environ["STARTED"], "a") as started:
    print(len(folders), file=started)
for index, folder in enumerate(folders):
    try:
        pathlib.Path(folder, "taken").mkdir()
    except FileExistsError:
        continue
    print(f"@begin {index}", flush=True)
    what = pathlib.Path(folder, "model.xml").read_text().split()[0]
    with open(os.environ["STARTED"] + ".models", "a") as begun:
        print(what, file=begun)
    print(f"about {what}", flush=True)
    if what == "deadly":
        os.abort()
    if what == "wrong":
        print(f"@failed {index} compile\\nwrong it is\\n@end", flush=True)
        continue
    pathlib.Path(folder, "model.blob").write_text(f"blob of {what}")
    pathlib.Path(folder, "compileTimeScheduleTrace.json").write_text(f"trace of {what}")
    print(f"@done {index} 0.5", flush=True)
"""


class StandIn(Toolchain):
    def command(self, device: str, jobs: Path | str, properties: Mapping[str, str]) -> list[str]:
        return [sys.executable, str(self.folder / "driver.py"), str(jobs)]


@pytest.fixture
def tools(tmp_path: Path) -> StandIn:
    (tmp_path / "driver.py").write_text(DRIVER)
    return StandIn(tmp_path, "stand-in", environment={"STARTED": str(tmp_path / "started")})


def model(what: str, length: int = 10) -> Model:
    return Model(what, what.encode() + b" " * length, b"")


def run(tools: StandIn, *models: Model, jobs: int = 2) -> list[Built | Rejected]:
    return build(models, "4000", tools, Settings(jobs=jobs), Cache(tools.folder / "cache"))


def started(tools: StandIn) -> list[int]:
    return sorted(map(int, (tools.folder / "started").read_text().split()))


def test_processes_share_models_large_and_small(tools: StandIn) -> None:
    results = run(tools, model("a"), model("large", 1000), model("wrong"), model("b"))
    assert started(tools) == [4, 4]
    a, large, wrong, b = results
    assert isinstance(wrong, Rejected) and "wrong it is" in wrong.reason and "about b" not in wrong.log
    for found, what in ((a, "a"), (large, "large"), (b, "b")):
        assert isinstance(found, Built) and found.seconds == 0.5
        assert (found.blob, found.schedule) == (f"blob of {what}".encode(), f"trace of {what}".encode())
        assert found.log.split()[:2] == ["about", what]
    assert run(tools, model("large", 1000)) == [large] and started(tools) == [4, 4]  # it is in the cache


@pytest.mark.parametrize("jobs", [1, 2, 3, 9])
def test_there_are_as_many_processes_as_wanted_and_of_use(tools: StandIn, jobs: int) -> None:
    run(tools, *(model(what, 100) for what in "abcd"), jobs=jobs)
    assert started(tools) == [4] * min(jobs, 4)
    assert sorted((tools.folder / "started.models").read_text().split()) == list("abcd")


def test_a_model_that_kills_the_compiler_is_tried_alone_and_named(tools: StandIn) -> None:
    with pytest.raises(BackendError) as error:
        run(tools, model("large", 1000), model("deadly"), model("b"), jobs=1)
    assert error.value.where == "deadly" and "SIGABRT" in error.value.what
    assert started(tools) == [1, 1, 3]
    before = len(started(tools))
    run(tools, model("large", 1000), model("b"))
    assert len(started(tools)) == before  # what the others gave was kept


def test_a_compiler_that_does_nothing_is_an_error(tools: StandIn) -> None:
    (tools.folder / "driver.py").write_text("import sys; sys.exit('no licence')")
    with pytest.raises(BackendError, match="no licence"):
        run(tools, model("a"), model("b", 1000))

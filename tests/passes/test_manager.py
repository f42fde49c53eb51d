"""The pass manager: switches, rounds, aggressiveness, bisection, dumps, checks, records."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from forgec.passes import PASSES, optimise
from forgec.passes.base import GraphPass, NodePass, replace
from pass_checks import Subject, counts, seeded, values
from torch import nn
from torch.nn import functional as F

import forgec
from forgec import debug
from forgec.errors import InternalError, OptionError
from forgec.graph import call_block, new_call, node_type
from forgec.ir.types import DType, TensorType
from forgec.options import Options

aten = torch.ops.aten
MUL = (aten.mul.Tensor,)


class Gates(nn.Module):
    """Eight gated units that do not touch each other, and little else."""

    def forward(self, x):
        parts = x.unbind(0)
        return [F.silu(part) * (part + index) for index, part in enumerate(parts)]


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x, scale):
        return x + self.down(F.gelu(self.up(self.norm(x)))) * scale


class Stack(nn.Module):
    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(depth))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x, torch.arange(8) * 0.5)
        return x


@pytest.fixture(scope="module")
def gates() -> Subject:
    return Subject(Gates(), values(8, 4))


@pytest.fixture(scope="module")
def stack() -> Subject:
    return Subject(seeded(Stack()), values(3, 8), mode="blocks")


# Switches


def test_every_pass_has_a_name_of_its_own_and_a_test_file():
    names = [p.name for p in PASSES]
    assert len(set(names)) == len(names)
    files = {path.stem for path in Path(__file__).parent.glob("test_*.py")}
    assert not [name for name in names if not {f"test_{name}", f"test_{name}_pass"} & files]


def test_every_pass_tells_before_after_and_when_not():
    for current in PASSES:
        text = __import__(type(current).__module__, fromlist=["x"]).__doc__
        assert all(word in text for word in ("*Before*", "*After*", "*Does not fire when*")), current.name


@pytest.mark.parametrize("name", [p.name for p in PASSES])
def test_option_and_variable_switch_a_pass_off(name, stack):
    records = optimise(stack.graph.copy(), Options(passes=(f"-{name}",)))
    assert name not in {record.name for record in records}
    with debug.override({"passes": f"-{name}"}):
        records = optimise(stack.graph.copy(), Options())
    assert name not in {record.name for record in records}
    assert name in {record.name for record in optimise(stack.graph.copy(), Options())}


def test_unknown_switch_names_the_nearest_pass(stack):
    with pytest.raises(OptionError, match=r"no pass 'atention_fusion'[\s\S]*did you mean 'attention_fusion'"):
        stack.optimised(passes=("-atention_fusion",))
    with debug.override({"passes": "-qqqq"}), pytest.raises(OptionError, match="the passes are dead_code"):
        stack.optimised()


def test_all_passes_off_leaves_the_graph_alone(stack):
    graph = stack.graph.copy()
    assert optimise(graph, Options(passes=tuple(f"-{p.name}" for p in PASSES))) == []
    assert counts(graph) == counts(stack.graph)
    stack.check(graph)


# Rounds


class Count(GraphPass):
    """Says that it rewrote something, so many times."""

    name = "count"

    def __init__(self, times: int) -> None:
        self.times = times

    def run(self, captured):
        self.times -= 1
        return int(self.times >= 0)


@pytest.mark.parametrize(("times", "rounds", "made"), [(0, 4, 1), (1, 4, 2), (2, 4, 3), (9, 4, 4), (9, 1, 1)])
def test_rounds_stop_at_a_fixpoint_or_at_the_limit(gates, times, rounds, made):
    records = optimise(gates.graph.copy(), Options(rounds=rounds), passes=[Count(times)])
    assert [record.round for record in records] == list(range(1, made + 1))


# Aggressiveness


@pytest.mark.parametrize("fusion", [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1])
def test_share_of_the_fusions_is_made(gates, fusion):
    graph = gates.optimised(fusion=fusion)
    assert counts(graph)["gated"] == int(8 * fusion)
    gates.check(graph)
    gates.check_run(graph)


def test_half_is_evenly_spread(gates):
    graph = gates.optimised(fusion=0.5)
    results = graph.graph.output_node().args[0]
    assert [node.target.__name__ == "gated" for node in results] == [False, True] * 4


def test_a_match_left_out_stays_out(gates):
    assert counts(gates.optimised(fusion=0.5, rounds=8))["gated"] == 4


def test_the_share_is_of_the_matches_in_all_graphs_together():
    """One match in each of several places: half of them are made, not none."""

    class Mixed(Stack):
        def forward(self, x):
            return super().forward(F.silu(x) * (x + 1))

    mixed = Subject(seeded(Mixed()), values(3, 8), mode="blocks")
    seen = [record.rewrites for record in _fusions(mixed.graph.copy(), 1.0)]
    made = [record.rewrites for record in _fusions(mixed.graph.copy(), 0.5)]
    assert (sum(seen), sum(made)) == (2, 1)


def _fusions(graph, share):
    names = {p.name for p in PASSES if p.fusion}
    return [r for r in optimise(graph, Options(fusion=share, rounds=1)) if r.name in names]


@pytest.mark.parametrize("fusion", [0, 0.3, 0.5, 0.8])
def test_results_are_right_at_every_share(stack, fusion):
    graph = stack.optimised(fusion=fusion)
    stack.check(graph)
    stack.check_run(graph)
    if not fusion:
        assert not any(record.rewrites for record in _fusions(stack.graph.copy(), 0.0))


# Bisection


def test_rewrite_limit_stops_after_so_many(gates):
    fused = []
    for limit in range(12):
        with debug.override({"rewrite_limit": str(limit)}):
            graph = gates.graph.copy()
            records = optimise(graph, Options(), passes=[p for p in PASSES if p.name == "gated_unit_fusion"])
        assert sum(record.rewrites for record in records) == min(limit, 8)
        fused.append(counts(graph)["gated"])
        gates.check(graph)
    assert fused == [min(limit, 8) for limit in range(12)]


class Wrong(NodePass):
    """Turns the fourth product into a sum: the guilty rewrite of a bisection."""

    name = "wrong"
    roots = MUL
    seen = 0

    def match(self, node, context):
        return True

    def rewrite(self, graph, node, match, context):
        self.seen += 1
        target = aten.add.Tensor if self.seen == 4 else aten.mul.Tensor
        with graph.inserting_before(node):
            replace(node, new_call(graph, target, node.args, like=node))


def test_bisection_finds_the_guilty_rewrite(gates):
    def right(limit: int) -> bool:
        graph = gates.graph.copy()
        with debug.override({"rewrite_limit": str(limit)}):
            optimise(graph, Options(rounds=1), passes=[Wrong()])
        try:
            gates.check(graph)
        except AssertionError:
            return False
        return True

    assert [right(limit) for limit in range(6)] == [True, True, True, True, False, False]


# Dumps


def test_dump_writes_numbered_texts_and_diffs(stack, tmp_path):
    with debug.override({"dump": str(tmp_path / "graphs")}):
        graph = stack.graph.copy()
        records = optimise(graph, Options())
    changed = [f"{r.round}-{r.name}" for r in records if r.rewrites]
    texts = sorted(path.stem for path in (tmp_path / "graphs").glob("*.txt"))
    assert texts == [f"{i:02d}-{name}" for i, name in enumerate(["captured", *changed])]
    diffs = sorted(path.stem for path in (tmp_path / "graphs").glob("*.diff"))
    assert diffs == texts[1:]
    first = (tmp_path / "graphs" / f"{texts[0]}.txt").read_text()
    assert first.startswith("graph main (x1)\n") and "graph block0 (x4)\n" in first
    assert "# f32[3,8]" in first and "TensorType" not in first
    gelu = next(path for path in (tmp_path / "graphs").glob("*operator_fusion.diff"))
    lines = gelu.read_text().splitlines()
    assert lines[:2] == ["--- before", "+++ after"]
    assert any(line.startswith("-") and "aten.gelu" in line for line in lines)
    assert any(line.startswith("+") and "fused.linear" in line for line in lines)


# Checks


class Breaks(GraphPass):
    """Does one illegal thing to the graphs."""

    name = "breaks"

    def __init__(self, how) -> None:
        self.how = how

    def run(self, captured):
        self.how(captured)
        return 1


def first(captured, target=None):
    graph = captured.graph
    return next(n for n in graph.nodes if n.op == "call_function" and target in (None, n.target))


def retype(captured):
    result = captured.graph.output_node().args[0][0]
    result.meta["type"] = TensorType(DType.F16, node_type(result).shape)


def forget_type(captured):
    del first(captured).meta["type"]


def pass_too_little(captured):
    call = first(captured, call_block)
    call.args = call.args[:-1]


def pass_another_type(captured):
    call = first(captured, call_block)
    with captured.graph.inserting_before(call):
        kind = TensorType(DType.F32, (5, 5))
        other = new_call(captured.graph, aten.zeros.default, ([5, 5],), like=call, type=kind)
    call.args = (*call.args[:-1], other)


def change_results_of_a_block(captured):
    (block,) = captured.blocks.values()
    output = block.graph.output_node()
    output.args = ((*output.args[0], *output.args[0]),)


def out_of_order(captured):
    call = first(captured, call_block)
    captured.graph.output_node().prepend(call)


BROKEN = {
    "result type": (retype, "the results are"),
    "no type": (forget_type, "has no type"),
    "missing argument": (pass_too_little, "block block0 takes"),
    "argument of another type": (pass_another_type, "block block0 takes"),
    "results of a block": (change_results_of_a_block, "block block0 gives"),
    "order": (out_of_order, "not well formed"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_verification_catches_a_broken_pass(stack, what):
    how, message = BROKEN[what]
    with (
        debug.override({"verify": "2"}),
        pytest.raises(InternalError, match=f"after pass breaks: .*{message}"),
    ):
        optimise(stack.graph.copy(), Options(), passes=[Breaks(how)])
    with (
        debug.override({"verify": "1"}),
        pytest.raises(InternalError, match=f"after the passes: .*{message}"),
    ):
        optimise(stack.graph.copy(), Options(rounds=1), passes=[Breaks(how)])


def test_verification_passes_what_the_passes_do(stack):
    with debug.override({"verify": "2"}):
        stack.optimised()


class Fails(NodePass):
    name = "fails"
    roots = MUL

    def match(self, node, context):
        raise KeyError("shape")

    def rewrite(self, graph, node, match, context):
        raise AssertionError


def test_exception_in_a_pass_is_an_internal_error_that_names_it(gates):
    with pytest.raises(
        InternalError, match=r"pass fails failed: KeyError[\s\S]*FORGEC_PASSES=-fails"
    ) as caught:
        optimise(gates.graph.copy(), Options(), passes=[Fails()])
    assert isinstance(caught.value.__cause__, KeyError)


# Records


@pytest.mark.parametrize("fusion", [0, 1])
def test_records_chain_up(stack, fusion):
    graph = stack.graph.copy()
    nodes, nbytes = graph.extent()
    records = optimise(graph, Options(fusion=fusion))
    for record in records:
        assert (record.nodes_before, record.bytes_before) == (nodes, nbytes)
        nodes, nbytes = record.nodes_after, record.bytes_after
        assert record.rewrites or nodes == record.nodes_before
        assert record.ms >= 0
    assert (nodes, nbytes) == graph.extent()


def test_before_fusion_is_called_once_on_clean_graphs(stack):
    seen = []
    optimise(stack.graph.copy(), Options(), before_fusion=lambda graph: seen.append(counts(graph)))
    (before,) = seen
    assert before["gelu"] == 4 and before["linear"] == 0 and before["arange"] == 0
    seen.clear()
    optimise(stack.graph.copy(), Options(fusion=0), before_fusion=lambda graph: seen.append(counts(graph)))
    assert len(seen) == 1


def test_records_reach_the_report():
    module = seeded(Stack())
    x = values(3, 8)
    with debug.override({"passes": "-layout"}):
        exe = forgec.compile(module, (x,), passes=("-operator_fusion",))
    names = {record.name for record in exe.report.passes}
    assert {"layout", "operator_fusion"}.isdisjoint(names) and "projection_fusion" in names
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(exe(x)), module(x), rtol=1e-5, atol=1e-5)

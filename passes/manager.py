"""The ordered list of passes, and the manager that runs, checks, times and records them.

A pass finds and rewrites; everything else is done here: dead nodes are erased after every pass, rounds repeat
until nothing changes (at most ``Options.rounds``), ``Options.fusion`` chooses how many of the fusions are
made.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import fx

from ..debug import Knobs, knobs, log
from ..errors import ForgecError, InternalError, OptionError
from ..graph import CapturedGraph, call_block, node_type
from ..ir.types import TensorType
from ..options import Options
from ..report.report import PassReport
from .activation_fusion import ActivationFusion
from .attention_fusion import AttentionFusion
from .base import Context, GraphPass, NodePass, Pass
from .block_specialisation import BlockSpecialisation
from .cached_attention import CachedAttention
from .common_subexpression import CommonSubexpression
from .constant_folding import ConstantFolding
from .dead_code import DeadCode, erase_dead
from .expert_fusion import ExpertFusion
from .gated_unit_fusion import GatedUnitFusion
from .invariant_motion import InvariantMotion
from .joined_cache import JoinedCache
from .layer_norm_fusion import LayerNormFusion
from .layout import Layout
from .leading_axes import LeadingAxes
from .linear_form import LinearForm
from .no_op import NoOp
from .norm_residual_fusion import NormResidualFusion
from .operator_fusion import OperatorFusion
from .projection_fusion import ProjectionFusion
from .rms_norm_fusion import RmsNormFusion
from .rotary_fusion import RotaryFusion
from .slice_motion import SliceMotion

__all__ = ["PASSES", "Optimiser", "optimise"]

PASSES: tuple[Pass, ...] = (
    DeadCode(),  # first, so that nothing is matched in vain
    NoOp(),  # before all matching: casts and dropouts stand between the pieces of every pattern
    CommonSubexpression(),  # before folding: each constant is evaluated once
    ConstantFolding(),  # before the blocks are specialised: masks and rotary tables are constants then
    BlockSpecialisation(),  # before attention fusion, which wants to see the mask
    InvariantMotion(),  # after the blocks are specialised: what is constant in a block stays there
    LeadingAxes(),  # before attention fusion, which looks for keys turned in batches of heads
    LinearForm(),  # before the fusions that look for linears
    ExpertFusion(),
    AttentionFusion(),
    JoinedCache(),  # after attention fusion too
    CachedAttention(),  # after attention fusion, which takes keys from before they were repeated
    RmsNormFusion(),
    LayerNormFusion(),  # after RMS normalisation, which is what follows when the mean is off
    RotaryFusion(),
    SliceMotion(),  # after the fusions that look for parts of one value
    ActivationFusion(),  # before gated units and operator fusion, which look for activations
    GatedUnitFusion(),  # before operator fusion, which would give the gate's activation to its linear
    ProjectionFusion(),  # after gated units: gate and up are then linears with one user
    OperatorFusion(),
    NormResidualFusion(),  # after operator fusion, which takes the sums that follow a linear
    Layout(),  # after attention fusion, whose result it turns
)


def optimise(
    captured: CapturedGraph,
    options: Options,
    *,
    before_fusion: Callable[[CapturedGraph], None] | None = None,
    passes: Sequence[Pass] = PASSES,
) -> list[PassReport]:
    """Run the passes on the graphs in place and give a record of each run.

    ``before_fusion`` is called once, when the graphs are clean and nothing is fused yet. Raises
    ``OptionError`` for a switch that names no pass.
    """
    return Optimiser(options, knobs(), passes).run(captured, before_fusion)


@dataclass
class Optimiser:
    """One run of the pass list."""

    options: Options
    knobs: Knobs
    passes: Sequence[Pass] = PASSES
    rewrites: int = 0
    fusions_seen: int = 0
    dumped: int = 0
    last_text: str = ""

    def run(
        self, captured: CapturedGraph, before_fusion: Callable[[CapturedGraph], None] | None = None
    ) -> list[PassReport]:
        active = self._active()
        types = _result_types(captured)
        records: list[PassReport] = []
        nodes, nbytes = captured.extent()
        self._dump(captured, "captured")
        for number in range(1, self.options.rounds + 1):
            changed = 0
            for current in active:
                if current.fusion and before_fusion is not None:
                    before_fusion(captured)
                    before_fusion = None
                start = time.perf_counter()
                count = self._apply(current, captured)
                elapsed = (time.perf_counter() - start) * 1e3
                before = (nodes, nbytes)
                if count:
                    nodes, nbytes = captured.extent()
                    self._check(captured, current, types)
                    self._dump(captured, f"{number}-{current.name}")
                log(2, f"round {number} {current.name}: {count} rewrites, {before[0]} -> {nodes} nodes")
                records.append(
                    PassReport(current.name, number, elapsed, count, before[0], nodes, before[1], nbytes)
                )
                changed += count
            if not changed:
                break
        if before_fusion is not None:
            before_fusion(captured)
        if self.knobs.verify:
            check_graphs(captured, types, "after the passes")
        return records

    def _active(self) -> list[Pass]:
        """The passes that are switched on."""
        off = {name.removeprefix("-") for name in (*self.options.passes, *self.knobs.passes)}
        names = [p.name for p in self.passes]
        for name in sorted(off - set(names)):
            near = difflib.get_close_matches(name, names, 1)
            raise OptionError(
                f"there is no pass {name!r} to switch off",
                hint=f"did you mean {near[0]!r}?" if near else f"the passes are {', '.join(names)}",
            )
        return [p for p in self.passes if p.name not in off and not (p.fusion and self.options.fusion == 0)]

    def _apply(self, current: Pass, captured: CapturedGraph) -> int:
        try:
            if isinstance(current, GraphPass):
                count = 0 if self._spent() else current.run(captured)
                self.rewrites += count
            else:
                assert isinstance(current, NodePass)
                count = sum(
                    self._apply_to_nodes(current, graph, captured) for _, graph, _ in captured.graphs()
                )
            if count:
                for _, graph, _ in captured.graphs():
                    erase_dead(graph)
            return count
        except ForgecError:
            raise
        except Exception as error:
            raise InternalError(
                f"pass {current.name} failed: {type(error).__name__}: {error}",
                hint=f"compile with FORGEC_PASSES=-{current.name} and report the model",
            ) from error

    def _apply_to_nodes(self, current: NodePass, graph: fx.Graph, captured: CapturedGraph) -> int:
        context = Context(captured)
        roots = [
            n
            for target in dict.fromkeys(current.roots)
            for n in graph.find_nodes(op="call_function", target=target)
        ]
        count = 0
        for node in sorted(roots):
            if node._erased or self._spent():
                continue
            match = current.match(node, context)
            if match is None:
                continue
            if current.fusion and not self._chosen(current, node):
                continue
            log(3, f"{current.name} at {node.format_node()}")
            current.rewrite(graph, node, match, context)
            count += 1
            self.rewrites += 1
        return count

    def _chosen(self, current: Pass, node: fx.Node) -> bool:
        """Whether the aggressiveness lets this match through: of all matches of all fusions the share
        ``fusion``, evenly spread. A match left out stays out in later rounds."""
        left_out: frozenset[str] = node.meta.get("left_out", frozenset())
        if current.name in left_out:
            return False
        self.fusions_seen += 1
        share = self.options.fusion
        if int(self.fusions_seen * share) > int((self.fusions_seen - 1) * share):
            return True
        node.meta["left_out"] = left_out | {current.name}
        return False

    def _spent(self) -> bool:
        limit = self.knobs.rewrite_limit
        return limit is not None and self.rewrites >= limit

    def _check(self, captured: CapturedGraph, current: Pass, types: dict[str, list[TensorType]]) -> None:
        if self.knobs.verify >= 2:
            check_graphs(captured, types, f"after pass {current.name}")

    def _dump(self, captured: CapturedGraph, name: str) -> None:
        if self.knobs.dump is None:
            return
        text = graph_text(captured)
        folder = Path(self.knobs.dump)
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self.dumped:02d}-{name}"
        (folder / f"{stem}.txt").write_text(text)
        if self.last_text:
            diff = difflib.unified_diff(
                self.last_text.splitlines(), text.splitlines(), "before", "after", lineterm=""
            )
            (folder / f"{stem}.diff").write_text("\n".join(diff) + "\n")
        self.last_text = text
        self.dumped += 1


def graph_text(captured: CapturedGraph) -> str:
    """All graphs as text, one node a line."""
    parts = []
    for name, graph, times in captured.graphs():
        lines = [f"  {node.format_node()}{_type_comment(node)}" for node in graph.nodes]
        parts.append("\n".join([f"graph {name} (x{times})", *lines]))
    return "\n".join(parts) + "\n"


def _type_comment(node: fx.Node) -> str:
    kind = node.meta.get("type")
    if kind is None:
        return ""
    return f"  # {', '.join(map(str, kind)) if isinstance(kind, tuple) else kind}"


def _result_types(captured: CapturedGraph) -> dict[str, list[TensorType]]:
    """Types of the main graph's results."""
    output = next(iter(reversed(captured.graph.nodes)))
    return {"main": [node_type(value) for value in output.args[0]]}


def check_graphs(captured: CapturedGraph, types: dict[str, list[TensorType]], when: str) -> None:
    """The invariants of :mod:`forgec.graph`; ``InternalError`` if a pass broke one.

    Nodes are in order and have types, calls fit their blocks, the program's results keep their types.
    """
    try:
        for _, graph, _ in captured.graphs():
            graph.lint()
    except RuntimeError as error:
        raise InternalError(f"{when}: the graph is not well formed: {error}") from error
    for name, graph, _ in captured.graphs():
        for node in graph.nodes:
            if node.op != "output" and "type" not in node.meta:
                raise InternalError(f"{when}: {node.format_node()} in {name} has no type")
    if _result_types(captured) != types:
        raise InternalError(
            f"{when}: the results are {_result_types(captured)['main']}, were {types['main']}"
        )
    for node in captured.graph.find_nodes(op="call_function", target=call_block):
        _check_call(captured, node, when)


def _check_call(captured: CapturedGraph, call: fx.Node, when: str) -> None:
    block = captured.blocks[str(call.args[0])]
    inputs = [node_type(n) for n in block.graph.nodes if n.op == "placeholder"]
    given = [node_type(n) for n in call.args[2:]]
    if inputs != given:
        raise InternalError(f"{when}: block {block.name} takes {inputs}, is given {given}")
    output = next(iter(reversed(block.graph.nodes)))
    results = tuple(node_type(n) for n in output.args[0])
    if results != call.meta["type"]:
        raise InternalError(
            f"{when}: block {block.name} gives {results}, its call {call.name} {call.meta['type']}"
        )

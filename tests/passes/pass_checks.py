"""What every test of a pass checks, on small modules.

:func:`fires` and :func:`stays` take a module, run one pass on the graphs that the passes before it leave, and
check the counts of operators. Both then check that nothing else broke: results equal to eager on inputs
other than the example's, the same signature, stored types equal to those of the values, nothing left to
rewrite, and the same numbers through the whole pipeline and the reference interpreter. :func:`fires` also
checks that its own count would not hold with the pass switched off.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from forgec.passes import PASSES, optimise
from forgec.passes.fused import FUSED
from torch import fx, nn
from torch.utils import _pytree as pytree

from forgec.capture import Capture, capture
from forgec.capture.evaluate import apply, evaluate
from forgec.graph import CapturedGraph, call_block, operators, read_state, tensor_type, write_state
from forgec.ir.interpreter import Interpreter
from forgec.ir.lowering import lower
from forgec.ir.verifier import verify
from forgec.options import Options
from forgec.tensors import as_numpy

_FUSED = {op.__name__ for op in FUSED}

Draw = Callable[[torch.Generator], Sequence[torch.Tensor]]
"""Makes other inputs than the example's."""


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in evaluation mode with weights from a seed, large enough for differences to show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            parameter.copy_(values / max(parameter.shape[-1:] or (1,)) ** 0.5 + (parameter.ndim == 1))
    return module.eval()


def values(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def redraw(example: Sequence[torch.Tensor], generator: torch.Generator) -> list[torch.Tensor]:
    """Other inputs of the same types: normal floats, integers up to the example's largest, random
    booleans."""
    drawn = []
    for x in example:
        if x.is_floating_point():
            drawn.append(torch.randn(x.shape, generator=generator).to(x.dtype))
        elif x.dtype is torch.bool:
            drawn.append(torch.rand(x.shape, generator=generator) < 0.6)
        else:
            high = int(x.max()) + 1 if x.numel() else 1
            drawn.append(torch.randint(high, x.shape, generator=generator, dtype=x.dtype))
    return drawn


class Subject:
    """A captured module, copies of whose graphs passes are run on."""

    def __init__(
        self,
        module: nn.Module,
        *args: torch.Tensor,
        mode: str = "full",
        draw: Draw | None = None,
        **kwargs: Any,
    ) -> None:
        self.module = module.eval()
        self.capture: Capture = capture(module, args, kwargs, mode=mode)
        self.graph: CapturedGraph = self.capture.graph
        self.draw = draw or (lambda generator: redraw(self.capture.inputs, generator))
        self.spec = pytree.tree_structure((args, kwargs))

    def prepared(self, name: str) -> CapturedGraph:
        """A copy as a pass finds it in the first round: after the passes before it."""
        graph = self.graph.copy()
        optimise(graph, Options(rounds=1), passes=PASSES[: [p.name for p in PASSES].index(name)])
        return graph

    def optimised(self, **options: Any) -> CapturedGraph:
        """A copy after all passes."""
        graph = self.graph.copy()
        optimise(graph, Options(**options))
        return graph

    def inputs(self, seed: int) -> list[torch.Tensor]:
        return list(self.draw(torch.Generator().manual_seed(seed)))

    def eager(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        args, kwargs = pytree.tree_unflatten([x.clone() for x in inputs], self.spec)
        with torch.no_grad():
            return [
                x for x in pytree.tree_leaves(self.module(*args, **kwargs)) if isinstance(x, torch.Tensor)
            ]

    def check(self, graph: CapturedGraph, *, exact_types: bool = True) -> None:
        """Results as in eager on two sets of inputs, signature as captured, types as stored."""
        assert graph.signature == self.graph.signature
        for seed in (1, 2):
            inputs = self.inputs(seed)
            if exact_types:
                check_types(graph, inputs)
            same(evaluate(graph, inputs), self.eager(inputs))

    def check_run(self, graph: CapturedGraph) -> None:
        """The lowered program keeps the verifier's rules, and the reference interpreter gives eager's
        results."""
        lowered = lower(graph)
        verify(lowered.program)

        def tensor(name: str) -> np.ndarray:
            found = lowered.tensors[name]
            return as_numpy(found) if isinstance(found, torch.Tensor) else found

        inputs = self.inputs(3)
        initial = {f"s{i}": as_numpy(state) for i, state in enumerate(graph.states.values())}
        results = Interpreter(lowered.program, tensor, initial).run([as_numpy(x) for x in inputs])
        for found, wanted in zip(results, self.eager(inputs), strict=True):
            assert found.dtype == as_numpy(wanted).dtype
            close(found, as_numpy(wanted))


def same(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> None:
    assert [tensor_type(x) for x in found] == [tensor_type(x) for x in wanted]
    for a, b in zip(found, wanted, strict=True):
        close(as_numpy(a), as_numpy(b))


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal up to rounding: of f32, or of one step of a 16-bit float."""
    tolerance = {"float16": 4e-3, "bfloat16": 3e-2}.get(wanted.dtype.name, 2e-5)
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, np.abs(b).max(initial=0.0)))


def name_of(node: fx.Node) -> str:
    """``mul`` for every overload of aten.mul, the bare name for a fused op; ``aten_linear`` beside fused
    ``linear``."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return target.__name__
    name = target.overloadpacket.__name__
    return f"aten_{name}" if name in _FUSED else name


def counts(graph: CapturedGraph) -> Counter[str]:
    """How often one run executes which operator, calls expanded."""
    found: Counter[str] = Counter()
    for _, body, times in graph.graphs():
        for node in operators(body):
            found[name_of(node)] += times
    return found


def fused(graph: CapturedGraph, name: str) -> list[fx.Node]:
    """The nodes of an operator, main graph first."""
    return [node for _, body, _ in graph.graphs() for node in operators(body) if name_of(node) == name]


def check_types(graph: CapturedGraph, inputs: Sequence[torch.Tensor]) -> None:
    """Evaluate every node, inside blocks too, and compare its value's type with the stored one."""
    with torch.no_grad():
        _propagate(graph, graph.graph, inputs, {})


def _propagate(graph: CapturedGraph, body: fx.Graph, inputs: Sequence[Any], binding: dict[str, str]) -> tuple:
    env: dict[fx.Node, Any] = {}
    given = iter(inputs)
    for node in body.nodes:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), env.__getitem__)
        if node.op == "placeholder":
            env[node] = next(given)
        elif node.op == "get_attr":
            env[node] = graph.constants[binding.get(node.target, node.target)]
        elif node.op == "output":
            return tuple(args[0])
        elif node.target is call_block:
            block = graph.blocks[args[0]]
            env[node] = _propagate(graph, block.graph, args[2:], block.instances[args[1]])
        elif node.target is read_state:
            env[node] = graph.states[args[0]]
        elif node.target is write_state:
            env[node] = ()
        elif node.target is operator.getitem:
            env[node] = args[0][args[1]]
        else:
            env[node] = apply(node.target, args, kwargs)
        value = env[node]
        found = tuple(map(tensor_type, value)) if isinstance(value, tuple | list) else tensor_type(value)
        assert node.meta["type"] == found, (
            f"{node.format_node()} stores {node.meta['type']} and gives {found}"
        )
    raise AssertionError("a graph ends with its output")


def run_pass(graph: CapturedGraph, name: str) -> int:
    """Rewrites of one run of one pass."""
    only = [p for p in PASSES if p.name == name]
    return optimise(graph, Options(rounds=1), passes=only)[0].rewrites


def settle(graph: CapturedGraph, name: str, limit: int = 8) -> int:
    """Run a pass until it rewrites nothing; all its rewrites. A pass that never ends fails."""
    total = 0
    for _ in range(limit):
        count = run_pass(graph, name)
        if not count:
            return total
        total += count
    raise AssertionError(f"{name} still rewrites after {limit} runs")


def matches(found: Counter[str], wanted: dict[str, int]) -> bool:
    return all(found[name] == count for name, count in wanted.items())


def fires(name: str, subject: Subject, *, once: bool = True, **after: int) -> CapturedGraph:
    """The pass rewrites, and then the counts are ``after``; gives the graphs. With ``once``, one run does
    all."""
    graph = subject.prepared(name)
    before = counts(graph)
    assert not matches(before, after), f"the counts hold before the pass: {before}"
    assert settle(graph, name) > 0, f"{name} rewrote nothing: {before}"
    if once:
        again = subject.prepared(name)
        run_pass(again, name)
        assert run_pass(again, name) == 0, f"a second run of {name} still rewrites"
    assert matches(counts(graph), after), f"{counts(graph)} is not {after}"
    subject.check(graph)
    off = subject.optimised(passes=(f"-{name}",))
    assert counts(off) != counts(subject.optimised()), f"switching {name} off changes nothing"
    subject.check(off)
    survives(subject)
    return graph


def stays(name: str, subject: Subject, **kept: int) -> None:
    """The pass rewrites nothing, the counts are ``kept``, and all passes together still give eager's
    results."""
    graph = subject.prepared(name)
    assert matches(counts(graph), kept), f"{counts(graph)} is not {kept}"
    assert run_pass(graph, name) == 0, f"{name} fired: {counts(graph)}"
    survives(subject)


def survives(subject: Subject) -> CapturedGraph:
    """All passes and the lowered program give eager's results, and a third round finds nothing new."""
    graph = subject.optimised(rounds=8)
    assert all(count == 0 for count in _rewrites(graph)), "the passes reach no fixpoint"
    subject.check(graph)
    subject.check_run(graph)
    return graph


def _rewrites(graph: CapturedGraph) -> list[int]:
    return [record.rewrites for record in optimise(graph, Options(rounds=1))]

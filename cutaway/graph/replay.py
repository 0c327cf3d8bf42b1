"""Replay of a program as one CUDA graph: every kernel is launched at once, none waits for Python."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.errors import ArgumentError

if TYPE_CHECKING:
    from cutaway.graph.program import Program

WARM_UP = 3  # runs before the recording: libraries choose their kernels and allocate their workspaces


class Replay:
    """A program recorded as a CUDA graph for inputs of one shape; call it as the program, without seeds that change.

    Parameters are read where they lie, so training in place is followed; when one was replaced by another tensor, or a
    prepared weight was computed anew, the recording is made again.
    """

    def __init__(self, program: "Program", inputs: Sequence[Tensor], seed: Any = None) -> None:
        for place, given in enumerate(inputs):
            if not isinstance(given, Tensor) or given.device.type != "cuda":
                where = given.device if isinstance(given, Tensor) else type(given).__name__
                raise ArgumentError(
                    f"a CUDA graph is replayed on tensors of a CUDA device, but input {place} is on {where}; "
                    "move model and inputs there, or call the program itself"
                )
        self.program, self.seed = program, seed
        self.inputs = [given.clone() for given in inputs]
        self.leaves = self._addresses()
        self.graph, self.results = self._record()

    def __call__(self, *inputs: Tensor) -> Any:
        """Compute the adjoints for inputs of the recorded shapes: one tensor if `wrt` was one name, else a tuple."""
        adjoints = tuple(self.evaluate(*inputs)[1].values())
        return adjoints[0] if self.program.single else adjoints

    def evaluate(self, *inputs: Tensor) -> tuple[dict, dict]:
        """Compute values and adjoints: two dicts, keyed by the names as they were asked for."""
        if [each.shape for each in inputs] != [each.shape for each in self.inputs]:
            shapes, recorded = ([tuple(each.shape) for each in many] for many in (inputs, self.inputs))
            raise ArgumentError(f"the program was recorded for inputs of shapes {recorded}, but got {shapes}")
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given)
        addresses = self._addresses()
        if addresses != self.leaves:
            self.leaves = addresses
            self.graph, self.results = self._record()
        self.graph.replay()
        values, adjoints = self.results
        return {k: v.clone() for k, v in values.items()}, {k: v.clone() for k, v in adjoints.items()}

    def _addresses(self) -> list[int]:
        """Where the tensors lie that the recording reads."""
        leaves = self.program.graph.leaf_values(tuple(self.inputs), {}, self.program.built.parameters)
        return [leaf.data_ptr() for leaf in leaves.values() if isinstance(leaf, Tensor)]

    def _record(self) -> tuple[Any, tuple[dict, dict]]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = self._run()
        return graph, results

    def _run(self) -> tuple[dict, dict]:
        return self.program.evaluate(*self.inputs, seed=self.seed)

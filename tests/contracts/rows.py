"""The contract of the table of backward rules: example calls for every row, {operation: calls}."""

from tests.contracts.calls import Call
from tests.contracts.rows_elementwise import ACTIVATIONS, ELEMENTWISE
from tests.contracts.rows_linear import LINEAR
from tests.contracts.rows_network import ATTENTION, LOSSES, NORMALISATION, POOLING, RECURRENT, RESAMPLING, SECOND
from tests.contracts.rows_structure import LOOKUP, REDUCTIONS, SHAPES

ROWS: dict[str, list[Call]] = {
    **ELEMENTWISE,
    **ACTIVATIONS,
    **LINEAR,
    **REDUCTIONS,
    **SHAPES,
    **LOOKUP,
    **POOLING,
    **RESAMPLING,
    **NORMALISATION,
    **ATTENTION,
    **LOSSES,
    **RECURRENT,
    **SECOND,
}

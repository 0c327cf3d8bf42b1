"""The tables of backward rules, by family; importing them fills `rows.TABLE`."""

from cutaway.graph import (  # noqa: F401
    table_activation,
    table_convolution,
    table_elementwise,
    table_index,
    table_linear,
    table_network,
    table_reduction,
    table_shape,
)

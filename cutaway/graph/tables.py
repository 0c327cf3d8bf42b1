"""The tables of backward rules, by family; importing them fills `rows.TABLE`."""

from cutaway.graph import (  # noqa: F401
    table_activation,
    table_attention,
    table_convolution,
    table_elementwise,
    table_index,
    table_linear,
    table_loss,
    table_normalization,
    table_pooling,
    table_recurrent,
    table_reduction,
    table_second,
    table_shape,
)

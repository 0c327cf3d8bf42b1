"""Operations on lists of tensors, one call for all; torch has them without declaring them."""

from typing import Any

import torch

_torch: Any = torch
add, add_, mul_ = _torch._foreach_add, _torch._foreach_add_, _torch._foreach_mul_
lerp_, norm, sign = _torch._foreach_lerp_, _torch._foreach_norm, _torch._foreach_sign
sgd_, adam_, adamw_ = _torch._fused_sgd_, _torch._fused_adam_, _torch._fused_adamw_

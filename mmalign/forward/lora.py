"""LoRA layers that add the adapter's part to the layer's own in place.

peft makes three more tensors as large as the layer's output on the way: the adapter's part, that part scaled, and the
sum.
"""

from __future__ import annotations

from typing import Any

from peft.tuners.lora import layer as peft_lora
from torch import Tensor, nn


class InPlaceLora(peft_lora.Linear):
    """A `peft` layer, by another order of the same arithmetic: W x + B (s A x)."""

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Shape: (..., in) -> (..., out)."""
        name = next(iter(self.lora_A), None)
        plain = not (arguments or options or self.disable_adapters or self.merged or self.lora_variant)
        if not plain or self.active_adapters != list(self.lora_A) or len(self.lora_A) != 1:
            return super().forward(x, *arguments, **options)
        first, second = self.lora_A[name], self.lora_B[name]
        flat = x.flatten(0, -2)  # in-place work on a view would be copied in the backward pass
        whole = self.base_layer(flat)
        part = first(self.lora_dropout[name](flat.to(first.weight.dtype))) * self.scaling[name]
        if part.dtype == whole.dtype and second.bias is None:
            whole.addmm_(part, second.weight.to(part.dtype).T)
        else:
            whole = (whole + second(part)).to(whole.dtype)
        return whole.unflatten(0, x.shape[:-1])


def add_in_place(model: nn.Module) -> None:
    """From now on, plain LoRA layers of ``model`` are `InPlaceLora`; names and weights stay.

    Not for weights that ZeRO-3 spreads: it gathers those of a module that is called.
    """
    from transformers.integrations import is_deepspeed_zero3_enabled

    if is_deepspeed_zero3_enabled():
        return
    for module in model.modules():
        if type(module) is peft_lora.Linear and type(module.base_layer) is nn.Linear:
            module.__class__ = InPlaceLora

"""The precision in which a device multiplies while it trains."""

import torch


def low_precision(device: torch.device) -> torch.dtype | None:
    """The low precision the device is fast in; None where only full precision is fast."""
    if device.type != "cuda":
        native = torch.cpu.get_capabilities().get("avx512_bf16", False)
        return torch.bfloat16 if native else None
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16

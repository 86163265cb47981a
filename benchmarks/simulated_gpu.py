"""Memory use and synchronizations in the journal's recipes, measured on a simulated GPU that does not compute anything.

    python -m benchmarks.simulated_gpu                    the three recipes of `benchmarks.gpu`
    python -m benchmarks.simulated_gpu --base gpt2-nano   the small model in all three

The simulated device tracks the shapes, dtypes and lifetimes of tensors, but not their values. The project's trainer
takes two steps on it in bf16 with the longest batch. On a real GPU, the CPU has to wait each time it reads a value.
Reads with `tolist` are counted; any other read is an error.

Reported for each recipe:
    memory_gb     peak memory used by tensors on the device, without allocator overhead
    estimate_gb   the launch form's memory estimate without the process itself; includes answering the test set
    reads         number of times a step waits for the device
    operations    device operations per step, a lower bound on the number of kernel launches
"""

import argparse
import json
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.library import Library, fallthrough_kernel
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.gpu import CHANGES, EXAMPLES, RECIPES, write_random_examples
from core.config import RunConfig
from core.nn import lora
from core.nn.architecture import FAMILY
from core.nn.gpt2 import GPT2
from core.planning import estimate
from core.planning.measurement import NullRun
from core.presets import preset
from core.training import hardware, trainer

NAME, GB = "simulated", 2**30
ALLOCATION_UNIT = 512
"""Allocation granularity on a GPU, in bytes: the allocator rounds sizes up to a multiple of this."""
aten = torch.ops.aten


def build_device() -> list[Library]:
    """Register the device with torch. It exists for as long as the returned libraries are kept."""

    class Module(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16]

    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    library, fallback_library = Library("aten", "IMPL"), Library("_", "IMPL")

    def on_device(operator: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def make(*args: Any, **options: Any) -> Tensor:
            with mode:
                return operator(*args, **options)

        return make

    library.impl("empty.memory_format", on_device(aten.empty.memory_format), "PrivateUse1")
    library.impl("empty_strided", on_device(aten.empty_strided.default), "PrivateUse1")
    library.impl("scaled_dot_product_attention", attention, "AutogradPrivateUse1")
    # Autocast as on a CUDA device: matrix products in bf16, norms in fp32, everything else unchanged.
    fallback_library.fallback(fallthrough_kernel, "AutocastPrivateUse1")
    for name in ("mm", "addmm", "linear", "matmul", "bmm"):
        narrowed = cast(getattr(aten, name).default, torch.bfloat16)
        library.impl(name, narrowed, "AutocastPrivateUse1")
    library.impl("layer_norm", cast(aten.layer_norm.default, torch.float32), "AutocastPrivateUse1")
    narrowed = cast(attention, torch.bfloat16)
    library.impl("scaled_dot_product_attention", narrowed, "AutocastPrivateUse1")
    return [library, fallback_library]


def cast(operator: Callable[..., Tensor], dtype: torch.dtype) -> Callable[..., Tensor]:
    """Wrap an operator to convert its floating-point tensors to a dtype first."""
    autocast = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def run(*args: Any, **options: Any) -> Tensor:
        with torch._C._ExcludeDispatchKeyGuard(autocast):
            return operator(
                *(
                    a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a
                    for a in args
                ),
                **options,
            )

    return run


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """Flash attention, which CUDA uses for bf16 without a mask. It does not store the attention weights."""
    assert attn_mask is None
    return aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal)[0]


class Memory(TorchDispatchMode):
    """Counts the bytes held by tensors on the device, their peak, and the operations that allocated tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.now = self.peak = self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves(result) if isinstance(t, FakeTensor)]
        self.operations += bool(tensors) and not func.is_view
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in self.held:
                size = -(-storage.nbytes() // ALLOCATION_UNIT) * ALLOCATION_UNIT
                self.held[storage._cdata] = size
                self.now += size
                weakref.finalize(storage, self.release, storage._cdata)
        self.peak = max(self.peak, self.now)
        return result

    def release(self, address: int) -> None:
        self.now -= self.held.pop(address)


class Trainer(trainer.Trainer):
    """The project's trainer, with weights that have shapes but no values."""

    def _build_model(self) -> GPT2:
        config, arch = self.config, FAMILY[self.config.base_model]
        with torch.device("meta"):
            model = GPT2(arch, config.dropout)
            if config.method == "lora":
                names = arch.lora_targets(config.lora_targets, config.lora_last_layers)
                lora.add_adapters(model, names, config.lora_rank, config.lora_alpha)
        model.to_empty(device=NAME)
        model.to = lambda device: model  # type: ignore[method-assign, assignment, misc]
        return model


def measure(config: RunConfig) -> dict[str, float]:
    """Take two steps with the longest batch and report on the second."""
    reads = 0

    def read(tensor: Tensor) -> list[float]:
        nonlocal reads
        reads += 1
        return [1.0] * len(tensor)

    device = torch.device(NAME)
    with (
        Memory() as memory,
        mock.patch.multiple(
            hardware,
            resolve_device=lambda name: device,
            resolve_precision=lambda name, device: torch.bfloat16,
        ),
        mock.patch.object(trainer.pretrained, "fingerprint", str),
        mock.patch.object(FakeTensor, "tolist", read),
        mock.patch.object(FakeTensor, "data_ptr", lambda t: t.untyped_storage()._cdata),
    ):
        run = Trainer(config, NullRun())
        lengths = run.schedule.lengths
        longest = sorted(range(len(lengths)), key=lambda i: -lengths[i])[: config.batch_size]
        run.step(2, [longest])  # step 1 measures the relative update, which needs values
        reads = memory.operations = 0
        run.step(3, [longest])
        extent = estimate.Extent(len(lengths), max(lengths), 0, 0)
        estimate_mb = estimate.memory_mb(config, run.model.arch, extent, half=True, gpu=True)
        return {
            "memory_gb": round(memory.peak / GB, 2),
            "estimate_gb": round((estimate_mb - estimate.RUNTIME_MB) / 1024, 2),
            "reads": reads,
            "operations": memory.operations,
            "longest": max(lengths),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", help="data set to use instead of random examples")
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--base", choices=FAMILY, help="base model to use in every recipe")
    parser.add_argument(
        "--recipe", choices=RECIPES, action="append", help="run only this recipe; can be repeated"
    )
    args = parser.parse_args()
    libraries = build_device()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or write_random_examples(Path(folder) / "examples.json", args.examples)
        for name in args.recipe or RECIPES:
            changes = {"dataset": data, "max_examples": args.examples, **CHANGES.get(name, {})}
            if args.base:
                changes["base_model"] = args.base
            results[name] = {**measure(preset(name).changed(**changes)), **RECIPES[name]}
    print(json.dumps(results, indent=2))
    del libraries


if __name__ == "__main__":
    main()

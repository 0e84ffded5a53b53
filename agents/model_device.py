"""Where and in which number format a model runs.

bf16 halves the memory everywhere, but multiplies faster only where the hardware has units for it: CPUs with AMX and
GPUs do; on CPUs with the AVX-512 instructions alone, fp32 products can be twice as fast, and fp32 tokens do not
depend on the batch. So "auto" measures once on a CPU and remembers.
"""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

import torch

from agents.errors import ConfigError
from agents.home import jade_home

DTYPES = {
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp32": torch.float32,
    "float32": torch.float32,
    "fp16": torch.float16,
    "float16": torch.float16,
}
_MARGIN = 1.1
"""bf16 may be this much slower in products and still be chosen, for its smaller memory."""


def choose_device(device: str) -> torch.device:
    """Return the device named, or CUDA where there is one for "auto".

    Raises:
        ConfigError: Torch does not know the device, or it is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {device!r} cannot be used here ({error}); allowed: auto, cpu, cuda, cuda:N"
        ) from error
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the number format named; for "auto" bf16 where the device multiplies it well, else fp32.

    Raises:
        ConfigError: An unknown name.
    """
    if dtype == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast or (device.type == "cpu" and _cpu_prefers_bf16()) else torch.float32
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is unknown; allowed: auto, bf16, fp16, fp32")
    return DTYPES[dtype]


def _cpu_prefers_bf16() -> bool:
    name, flags = _cpu()
    if not flags & {"avx512_bf16", "amx_bf16", "bf16"}:
        return False
    memo = jade_home() / "models" / "cpu.json"
    key = f"{name}|{' '.join(sorted(flags))}|torch {torch.__version__}"
    try:
        known = json.loads(memo.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if not isinstance(known.get(key), bool):
        known = {**known, key: _product_seconds(torch.bfloat16) <= _MARGIN * _product_seconds(torch.float32)}
        memo.parent.mkdir(parents=True, exist_ok=True)
        temporary = memo.with_name(f".cpu.{os.getpid()}.json")
        temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
        os.replace(temporary, memo)
    return bool(known[key])


def _cpu() -> tuple[str, set[str]]:
    """Return the processor's name and which of the instruction sets that matter here it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor(), set()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    words = {word for line in lines if line.startswith(("flags", "Features")) for word in line.split()}
    model = [line.partition(":")[2].strip() for line in lines if line.startswith("model\t")]
    return " ".join([*names[:1], *model[:1]]), words & {"avx512f", "avx512_bf16", "amx_bf16", "bf16"}


def _product_seconds(dtype: torch.dtype) -> float:
    """Return the best of ten timings of one product of a prefill's shape, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            rows, weight = torch.ones(256, 576, dtype=dtype), torch.ones(1536, 576, dtype=dtype)
            best = float("inf")
            for _ in range(10):
                start = time.perf_counter()
                torch.nn.functional.linear(rows, weight)
                best = min(best, time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return best

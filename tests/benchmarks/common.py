"""What several benchmarks need: the line about the machine, and how spread is given."""

import statistics

import torch


def machine_line(device: str) -> str:
    """Versions, threads, and on CUDA the name of the device and the state of TF32."""
    line = f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads"
    if not device.startswith("cuda"):
        return line
    return (
        f"{line}\n{torch.cuda.get_device_name()}; TF32 in matmul "
        f"{torch.backends.cuda.matmul.allow_tf32}, in cuDNN {torch.backends.cudnn.allow_tf32}"
    )


def spread(values: list[float], unit: str = "", digits: int = 1) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:,.{digits}f}{unit} ({low:,.{digits}f}-{high:,.{digits}f})"


def synchronize(device: str) -> None:
    """Wait until the device is idle; nothing to do on the CPU."""
    getattr(torch, device.split(":")[0]).synchronize()

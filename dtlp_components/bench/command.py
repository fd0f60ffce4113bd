# SPDX-License-Identifier: Apache-2.0
"""How fast a bundle trains and segments on this machine, stream by stream (docs/reference/performance.md)."""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import torch

from ..errors import InputError
from ..files import write_json
from ..inferers.windows import window_slices
from ..tables import align
from .inference import InferenceVariant, read_inference_config
from .memory import peak_bytes
from .reference import PlainIteration, convolutions, count_flop
from .training import RECYCLING, Iteration, TrainingVariant, network_settings, read_config

__all__ = ["main", "run_bench"]

INFERENCE_SIZE = (160, 160, 128)
# what a child process can do for the measurement of its memory
JOBS = ("iteration", "plain", "inferer", "windows")
JSON_WORDS = {"true": True, "false": False, "null": None}


def run_bench(
    config_file: str = "bundles/hippocampus_5/configs/train.json",
    *,
    patch_size: list[int] | None = None,
    features: int | None = None,
    num_classes: int | None = None,
    method: str = "",
    overrides: dict[str, Any] | None = None,
    compare: dict[str, Any] | None = None,
    inference_size: list[int] | None = None,
    repeats: int = 5,
    warmup: int = 1,
    threads: int | None = None,
    memory: bool = True,
    output: str = "",
) -> dict[str, Any]:
    """
    Measure a training iteration and its streams, data loading, inference and memory; print tables.

    Needs no data set: volumes are drawn with fixed seeds. Every time is a median over repetitions, in which the
    variants, the plain iteration and the bare convolutions take turns, so that a machine that slows down slows all of
    them. On a CUDA device, readings wait for the device.

    Args:
        config_file: the bundle's train.json.
        patch_size: sides in voxels; the bundle's if not given.
        features: channels at full resolution; the bundle's if not given.
        num_classes: with the background; the bundle's if not given.
        method: measure that method's training instead of DTLP's, such as mean_teacher; in --compare it is a key.
        overrides: keys of the bundle and their values, such as '{"amp": true, "weights::kd": 0.0}'.
        compare: further ones of a second variant B, which takes turns with the first.
        inference_size: sides in voxels of the volume to segment, "[160,160,128]" if not given; "[]" for no inference.
        repeats: repetitions; of inference half as many, rounded up.
        warmup: repetitions before these, which do not count.
        threads: of torch; its own choice if not given.
        memory: measure peak memory, each number in a process of its own.
        output: JSON file for all results, including single repetitions; by default, none.

    Returns:
        What the JSON file holds.

    Raises:
        InputError: if a key does not exist, a size does not fit or a number is not positive.
    """
    for name, number, least in (("repeats", repeats, 1), ("warmup", warmup, 0), ("threads", threads, 1)):
        if number is not None and number < least:
            raise InputError(f"--{name}: expected an integer of at least {least}, got {number}.")
    flags = {"patch_size": patch_size, "features": features, "num_classes": num_classes}
    first = {key: value for key, value in flags.items() if value is not None} | _values("overrides", overrides)
    first |= {"method": method} if method else {}
    settings = {"A": first}
    if compare is not None:
        settings["B"] = first | _values("compare", compare)
    size = list(INFERENCE_SIZE if inference_size is None else inference_size)
    for values in settings.values():
        read_config(config_file, values)
        if size:
            read_inference_config(config_file, values, size)
    if threads is not None:
        torch.set_num_threads(threads)

    # first, since a value that a component refuses is told with its reason there
    peaks = _peaks(config_file, settings, size) if memory else {}
    _tell("training")
    variants = {name: TrainingVariant(config_file, values) for name, values in settings.items()}
    report: dict[str, Any] = {
        "config_file": config_file,
        "machine": _machine(),
        "repeats": repeats,
        "warmup": warmup,
        **_measure_training(variants, repeats, warmup),
    }
    report["unit"]["peak_bytes"] = peaks.get("plain")
    for name, variant in variants.items():
        result = report["variants"][name]
        result["overrides"] = settings[name]
        result.update({key: variant.settings[key] for key in ("patch_size", "features", "num_classes")})
        result["batch_size"] = variant.batch_size
        result["peak_bytes"] = peaks.get(f"iteration {name}")
        _tell(f"data loading of {name}")
        result["loading"] = variant.loading(repeats, warmup) | {"num_workers": variant.num_workers}
        if size:
            student = {key: value.detach().cpu() for key, value in variant.student.state_dict().items()}
            _tell(f"inference of {name}")
            inference = InferenceVariant(config_file, settings[name], student, size)
            result["inference"] = _measure_inference(inference, (repeats + 1) // 2) | {
                "peak_bytes": peaks.get(f"inferer {name}"),
                "windows_peak_bytes": peaks.get(f"windows {name}"),
            }
    print(_table(report))
    if output:
        write_json(Path(output), report)
    return report


def _tell(step: str) -> None:
    # a large volume takes minutes; stdout is for the tables
    print(f"Measuring {step} ...", file=sys.stderr, flush=True)


def _values(flag: str, given: Any) -> dict[str, Any]:
    """Keys and values of a flag; Fire reads Python, in which the ``true`` of JSON is a text."""
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise InputError(f"""--{flag}: expected keys and values, such as '{{"ddim_steps": 10}}', got {given!r}.""")

    def read(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: read(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [read(inner) for inner in value]
        return JSON_WORDS.get(value, value) if isinstance(value, str) else value

    return {key: read(value) for key, value in given.items()}


def _machine() -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        processor = names[0] if names else processor
    except OSError:
        pass  # not Linux
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": device,
        "torch": torch.__version__,
        "monai": monai.__version__,
    }


def _measure_training(variants: Mapping[str, TrainingVariant], repeats: int, warmup: int) -> dict[str, Any]:
    """Variants, plain iteration and convolutions in turn; medians, and operations counted in passes of their own."""
    unit = PlainIteration(**variants["A"].settings)
    layers = {
        name: convolutions(variant.settings, variant.batch_size, variant.autocast_kwargs)
        for name, variant in variants.items()
    }
    flops = {name: variant.count() for name, variant in variants.items()}
    unit_flop = count_flop(unit.iterate)
    iterations: dict[str, list[Iteration]] = {name: [] for name in variants}
    unit_seconds: list[float] = []
    layer_seconds: dict[str, list[list[float]]] = {name: [[] for _ in layers[name]] for name in variants}
    for i in range(warmup + repeats):
        for name, variant in variants.items():
            iterations[name].append(variant.iterate(seed=i))
            for layer, seconds in zip(layers[name], layer_seconds[name], strict=True):
                seconds.append(layer.run())
        unit_seconds.append(unit.iterate())

    one_unit = statistics.median(unit_seconds[warmup:])
    report: dict[str, Any] = {"variants": {}}
    for name, variant in variants.items():
        layer_results: list[dict[str, Any]] = [
            {
                "channels": layer.channels,
                "grid": layer.grid,
                "channels_last": layer.channels_last,
                "flop_per_second": layer.flop / min(seconds[warmup:]),
            }
            for layer, seconds in zip(layers[name], layer_seconds[name], strict=True)
        ]
        best: float = max(layer["flop_per_second"] for layer in layer_results)
        kept, flop = iterations[name][warmup:], flops[name]
        rows = functools.partial(_rows, unit=one_unit, attainable=best)
        report["variants"][name] = {
            "dtype": str(variant.autocast_kwargs["dtype"] if variant.autocast_kwargs["enabled"] else torch.float32),
            "recycling": variant.recycling,
            "iteration": _row([i.total for i in kept], flop.total, one_unit, best),
            "streams": rows([i.streams for i in kept], flop.streams),
            "of_which": rows([i.parts for i in kept], flop.parts),
            "losses": [iteration.loss for iteration in iterations[name]],
            "convolutions": layer_results,
            "attainable_flop_per_second": best,
        }
    report["unit"] = _row(unit_seconds[warmup:], unit_flop, one_unit, None)
    if "B" in variants:
        # by rounds, in which both saw the same state of the machine
        pairs = [(a, b) for a, b in zip(iterations["A"][warmup:], iterations["B"][warmup:], strict=True)]
        both = [key for key in pairs[0][0].streams if key in pairs[0][1].streams]
        report["ratios"] = {
            "iteration": statistics.median(b.total / a.total for a, b in pairs),
            "streams": {key: statistics.median(b.streams[key] / a.streams[key] for a, b in pairs) for key in both},
        }
    return report


def _rows(
    seconds: list[dict[str, float]], flop: Mapping[str, float], unit: float, attainable: float
) -> dict[str, dict[str, Any]]:
    return {key: _row([one[key] for one in seconds], flop.get(key, 0.0), unit, attainable) for key in seconds[0]}


def _row(seconds: list[float], flop: float, unit: float, attainable: float | None) -> dict[str, Any]:
    median = statistics.median(seconds)
    return {
        "seconds": median,
        "units": median / unit,
        "flop": flop,
        "flop_per_second": flop / median,
        "attained": None if attainable is None else flop / median / attainable,
        "all_seconds": seconds,
    }


def _measure_inference(inference: InferenceVariant, repeats: int) -> dict[str, Any]:
    rounds = [inference.round() for _ in range(repeats)]
    inferer, windows, equal = zip(*rounds, strict=True)
    size = list(inference.image.shape[2:])
    return {
        "size": size,
        "num_windows": len(window_slices(size, inference.patch_size, inference.overlap)),
        "seconds": statistics.median(inferer),
        "windows_seconds": statistics.median(windows),
        "ratio": statistics.median(a / b for a, b in zip(inferer, windows, strict=True)),
        "equal_labels": min(equal),
        "all_seconds": list(inferer),
        "windows_all_seconds": list(windows),
    }


def _peaks(config_file: str, settings: Mapping[str, dict[str, Any]], size: list[int]) -> dict[str, int]:
    """Bytes by job and variant."""
    _tell("peak memory")
    peaks = {"plain": _measure_peak("plain", config_file, settings["A"], size)}
    for name, overrides in settings.items():
        for job in JOBS:
            if job == "iteration" or (job != "plain" and size):
                peaks[f"{job} {name}"] = _measure_peak(job, config_file, overrides, size)
    return peaks


def _measure_peak(job: str, config_file: str, overrides: dict[str, Any], size: list[int]) -> int:
    """
    Bytes that a process of its own takes at most: its largest resident set, or what torch had allocated on a GPU.

    Raises:
        InputError: if the process fails, as it does first where a key has a value that its component refuses.
    """
    text = json.dumps([job, config_file, overrides, size, torch.get_num_threads()])
    command = [sys.executable, "-m", "dtlp_components.bench.command", "--job", text]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        # the first of the errors that led to each other names the cause
        errors = re.findall(r"^[\w.]*Error: .+", result.stderr, flags=re.MULTILINE)
        reason = errors[0] if errors else result.stderr.strip()[-500:] or f"exit code {result.returncode}"
        raise InputError(
            f"{config_file} with {overrides} cannot be measured: {reason}\nFor the full output, run: "
            f"{shlex.join(command)}"
        )
    return int(result.stdout.split()[-1])


def _run_job(job: str, config_file: str, overrides: dict[str, Any], size: list[int], threads: int) -> int:
    """What the child process of :py:func:`_measure_peak` does."""
    torch.set_num_threads(threads)
    parser = read_config(config_file, overrides)
    device = network_settings(parser)["device"]
    if job in ("inferer", "windows"):
        student = parser.get_parsed_content("network_def").state_dict()
        inference = InferenceVariant(config_file, overrides, student, size)
        logits = inference.by_inferer() if job == "inferer" else inference.by_windows()
        logits.argmax(dim=1)
    elif job == "plain":
        unit = PlainIteration(**network_settings(parser))
        for _ in range(2):  # the second has the optimizer's momentum beside its activations
            unit.iterate()
    else:
        variant = TrainingVariant(config_file, overrides)
        for _ in range(2):
            variant.iterate(seed=0)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_bytes()


def _table(report: Mapping[str, Any]) -> str:
    machine, unit = report["machine"], report["unit"]
    names = [f"{machine['cores']} cores", f"{machine['threads']} threads", *filter(None, [machine["cuda"]])]
    lines = [
        f"Machine: {', '.join([machine['processor'], *names])}; torch {machine['torch']}, MONAI {machine['monai']}.",
        f"Medians of {report['repeats']} after a warm-up of {report['warmup']}.",
        f"One unit: a plain iteration of the student, {unit['seconds']:.3f} s{_megabytes(unit['peak_bytes'])}.",
    ]
    for name, variant in report["variants"].items():
        lines += ["", *_variant_lines(name, variant)]
    if "ratios" in report:
        ratios = report["ratios"]
        rows = {**ratios["streams"], "iteration": ratios["iteration"]}
        table = [["B / A", "ratio"], *([key, f"{ratio:.3f}"] for key, ratio in rows.items())]
        lines += ["", align(table, right=True)]
    return "\n".join(lines)


def _variant_lines(name: str, variant: Mapping[str, Any]) -> list[str]:
    overrides = ", ".join(f"{key} {value}" for key, value in variant["overrides"].items()) or "the bundle as it is"
    best = max(variant["convolutions"], key=lambda layer: layer["flop_per_second"])
    memory_format = "channels last" if best["channels_last"] else "contiguous"
    loading = variant["loading"]
    lines = [
        f"{name}: {overrides}",
        f"patch {variant['patch_size']}, {variant['features']} features, {variant['num_classes']} classes, batch size "
        + f"{variant['batch_size']}{_megabytes(variant['peak_bytes'])}",
    ]
    table = [["", "seconds", "units", "GFLOP", "GFLOP/s", "attained"]]
    for key, values in variant["streams"].items():
        table.append(_cells(f"{key} (x {variant['recycling']:g})" if key == RECYCLING else key, values))
    table.append(_cells("iteration", variant["iteration"]))
    table += [_cells(f"  of which {key}", values) for key, values in variant["of_which"].items()]
    lines += [
        align(table, right=True),
        f"Attainable: {best['flop_per_second'] / 1e9:.1f} GFLOP/s {variant['dtype'].removeprefix('torch.')}, by one "
        + f"convolution of {best['channels']} channels on {best['grid']}, {memory_format}.",
        f"Data loading: {loading['seconds']:.4f} s for the batches of an iteration, {loading['num_workers']} workers; "
        + f"the network waits {loading['wait']:.4f} s, {loading['share']:.1%} of an iteration.",
    ]
    if "inference" in variant:
        inference = variant["inference"]
        lines += [
            f"Inference of {inference['size']}, {inference['num_windows']} windows:",
            f"  the bundle's way       {inference['seconds']:9.3f} s{_megabytes(inference['peak_bytes'])}",
            f"  one window at a time   {inference['windows_seconds']:9.3f} s"
            + _megabytes(inference["windows_peak_bytes"]),
            f"  ratio {inference['ratio']:.3f}, equal labels {inference['equal_labels']:.4%}",
        ]
    return lines


def _cells(title: str, values: Mapping[str, Any]) -> list[str]:
    cells = [title, f"{values['seconds']:.4f}", f"{values['units']:.3f}", f"{values['flop'] / 1e9:.2f}"]
    if values["flop"]:
        cells += [f"{values['flop_per_second'] / 1e9:.1f}", f"{values['attained']:.1%}"]
    return cells


def _megabytes(size: int | None) -> str:
    return "" if size is None else f", peak memory {size / 1e6:.0f} MB"


def main(args: Sequence[str] | None = None) -> None:
    """What the command starts to measure memory; ``python -m dtlp_components bench`` is the command."""
    parser = argparse.ArgumentParser(prog="python -m dtlp_components.bench.command", description=main.__doc__)
    parser.add_argument("--job", required=True, help=argparse.SUPPRESS)
    print(_run_job(*json.loads(parser.parse_args(args).job)))


if __name__ == "__main__":
    main()

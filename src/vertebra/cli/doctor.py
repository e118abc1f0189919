"""`vertebra doctor`: versions, devices, threads, the weight cache and missing extras."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib import metadata
from typing import Annotated, Any

import typer

from vertebra import __version__
from vertebra.cli._output import print_json, print_task
from vertebra.errors import EXTRAS
from vertebra.machine import affinity_cores, processor_name, quota_cores
from vertebra.units import counted, size

app = typer.Typer(add_completion=False, rich_markup_mode=None)

# Packages whose versions help to explain a problem.
PACKAGES = ("torch", "torchvision", "onnxruntime", "onnx", "MNN", "vertebra-kernels", "numpy", "pillow", "safetensors")
# Environment variables that affect results or speed.
VARIABLES = (
    "TORCH_HOME",
    "XDG_CACHE_HOME",
    "VERTEBRA_OFFLINE",
    "VERTEBRA_WEIGHTS_MIRROR",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)


@app.command()
def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="First repeat the measurements that times are predicted from.")
    ] = False,
) -> None:
    """Show versions, devices, threads, the weight cache, and the commands that install missing extras."""
    if calibrate:
        _calibrate()
    report = collect_report()
    if json:
        print_json(report)
        return
    for title, lines in _sections(report):
        typer.secho(title, bold=True)
        width = max(len(name) for name, _ in lines)
        for name, value in lines:
            typer.echo(f"  {name:<{width}}  {value}")


def _calibrate() -> None:
    """Repeat the measurements of this machine that times are predicted from."""
    from vertebra.anatomy import recalibrate
    from vertebra.cli.inspect import Executor

    for executor in Executor:
        found = recalibrate(executor.value, print_task)
        state = "kept provisionally, as the machine is busy" if found.is_provisional else "kept"
        typer.echo(
            f"{executor.value}: {state} (other programs took {found.others:.0%} of the processor, repeated runs "
            f"differed by {found.noise:.0%})",
            err=True,
        )


def collect_report() -> dict[str, Any]:
    """The report as JSON values: sizes in bytes, null where unknown."""
    return {
        "vertebra": __version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "system": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": {
            "model": processor_name(),
            "cores": os.cpu_count(),
            "usable_cores": affinity_cores(),
            "quota_cores": quota_cores(),
        },
        "torch": _torch_info(),
        "cache": _cache_info(),
        "environment": {name: _without_password(os.environ[name]) for name in VARIABLES if name in os.environ},
        "extras": {extra: _extra_info(extra) for extra in EXTRAS},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch_info() -> dict[str, Any] | None:
    """Threads and accelerators that torch reports; None if it is not installed."""
    try:
        import torch
    except ModuleNotFoundError:
        return None
    except (ImportError, OSError) as error:  # installed, but its libraries do not load
        return {"error": str(error)}
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("Apple GPU (mps)")
    return {
        "version": torch.__version__,  # with its build, such as +cpu
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda,
        "devices": devices,
    }


def _cache_info() -> dict[str, Any]:
    """The folder of the weight cache, and the number and bytes of its files."""
    from vertebra import weight_files

    folder = weight_files.hub_dir()
    sizes = [path.stat().st_size for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    return {"folder": str(folder), "files": len(sizes), "bytes": sum(sizes)}


def _without_password(value: str) -> str:
    """Hide the user and password of a URL, since reports are posted in public."""
    return re.sub(r"//[^/@]*@", "//***@", value)


def _extra_info(extra: str) -> dict[str, Any]:
    """The missing packages of an extra, and the command that installs them (null if none is missing)."""
    missing = [package for package in _packages_of(extra) if _version(package) is None]
    return {"missing": missing, "command": f"pip install 'vertebra[{extra}]'" if missing else None}


def _packages_of(extra: str) -> list[str]:
    """The packages of an extra by the installed metadata, where nested extras are resolved."""
    pattern = rf"([\w.-]+).*;.*\bextra == ['\"]{extra}['\"]"
    found = (re.match(pattern, requirement) for requirement in metadata.requires("vertebra") or ())
    return [match[1] for match in found if match]


def _sections(report: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The report as titled lists of names and values."""
    python, cpu, torch, cache = report["python"], report["cpu"], report["torch"], report["cache"]
    quota = cpu["quota_cores"]
    machine = [
        ("system", report["system"]),
        ("CPU", cpu["model"] or "unknown"),
        ("cores", f"{cpu['usable_cores']} usable of {cpu['cores']}" + (f", quota {quota:g}" if quota else "")),
    ]
    if torch is None:
        machine.append(("torch", "not installed"))
    elif "error" in torch:
        machine.append(("torch", f"does not load: {torch['error']}"))
    else:
        machine.append(("threads", f"{torch['threads']} ({torch['cpu_capability']})"))
        machine.append(("accelerator", ", ".join(torch["devices"]) or "none"))
    files = counted(cache["files"], "file")
    machine.append(("weights", f"{files}, {size(cache['bytes'])} in {cache['folder']}"))
    versions = [("vertebra", report["vertebra"]), ("python", f"{python['version']}  {python['executable']}")]
    packages = report["packages"] | ({"torch": torch["version"]} if torch and "version" in torch else {})
    versions += [(name, version or "not installed") for name, version in packages.items()]
    extras = [
        (name, f"missing {', '.join(state['missing'])}: {state['command']}" if state["missing"] else "complete")
        for name, state in report["extras"].items()
    ]
    sections = [("Versions", versions), ("Machine", machine), ("Extras", extras)]
    if report["environment"]:
        sections.append(("Environment", list(report["environment"].items())))
    return sections

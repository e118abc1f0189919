"""Resolve a MODEL argument, for every command and the Python function of its name. Without torch.

If a text has several meanings, the first of these applies, and a warning names the other: a network's name, a function
in an existing Python file, an existing file or folder, a function in an importable module. So `--model resnet50` is the
same network in any folder; `./resnet50` is the file or folder.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vertebra.card import CardError, locate_card, open_model_file, read_card
from vertebra.errors import UsageError, printable, suggest, suggest_path, warn
from vertebra.files import WEIGHT_SUFFIXES
from vertebra.run_files import RUN_METRICS, RUN_MODEL, RUN_SETTINGS, RUN_WEIGHTS, run_model, run_weights

if TYPE_CHECKING:
    from vertebra.timm_names import TimmName


class ModelKind(StrEnum):
    """The kinds of MODEL, as `--help` and messages call them."""

    NETWORK = "a network's name"
    EXPORTED = "an exported file"
    RUN = "the folder of a run"
    WEIGHTS = "a weight file"
    FUNCTION = "a function (FILE.py:NAME or package.module:NAME)"


_EXPORTED_FROM = frozenset(ModelKind) - {ModelKind.WEIGHTS}
_BUILT_FROM = frozenset(ModelKind) - {ModelKind.EXPORTED}
# The kinds that each command, and the Python function of its name, accepts.
ACCEPTED: dict[str, frozenset[ModelKind]] = {
    **dict.fromkeys(("predict", "serve", "card", "evaluate", "bench"), _EXPORTED_FROM),
    "inspect": frozenset(ModelKind),
    **dict.fromkeys(("compare", "explore", "export", "lab"), _BUILT_FROM),
    "train": frozenset([ModelKind.NETWORK]),
}


@dataclass(frozen=True)
class ModelArgument:
    """A resolved MODEL argument."""

    given: str
    kind: ModelKind
    function: str = ""
    source: str = ""  # of the function: FILE.py or package.module

    @property
    def name(self) -> str:
        """A short name: the network's, the file's without its suffix, the folder's, the function's."""
        if self.kind is ModelKind.NETWORK:
            return self.given.lower()
        if self.kind is ModelKind.FUNCTION:
            return self.function
        return self.path.stem if self.kind is not ModelKind.RUN else self.path.absolute().name

    @property
    def network(self) -> str:
        """The name here of the given network; timm's name if that implies another width."""
        found = _read_network_name(self.given)
        return found.timm if found.alias.options else found.alias.name

    def weights(self, given: Any = "DEFAULT") -> Any:
        """The weights of a named network: the given ones, or those of timm's tag in the name.

        Raises:
            UsageError: there is no such network, or no weights of that tag or width.
        """
        found = _read_network_name(self.given)
        if found.alias.differs:
            warn(f"{found.timm} is built as {found.alias.name}: {found.alias.differs}.")
        return given if given != "DEFAULT" else found.weights("DEFAULT")

    @property
    def path(self) -> Path:
        """The path of the file or of the run's folder."""
        return Path(self.given)

    @property
    def exported_file(self) -> Path:
        """The exported file, for a run the one in its folder; a `UsageError` if the run has none."""
        return self.path if self.kind is ModelKind.EXPORTED else run_model(self.path)

    @property
    def weight_file(self) -> Path:
        """The weight file, for a run the one in its folder; a `UsageError` if the run has none."""
        return self.path if self.kind is ModelKind.WEIGHTS else run_weights(self.path)

    def call(self) -> Any:
        """The `torch.nn.Module` that the function returns; see `vertebra.model_function.call`."""
        from vertebra.model_function import call

        return call(self.source, self.function)


def resolve_model(model: object, command: str) -> ModelArgument:
    """Resolve a MODEL argument: a string as on the command line, or the `Path` of a file or folder.

    Of an address such as `s3://bucket/model.onnx` it is a local copy in the cache.

    Raises:
        StorageError: a remote file cannot be read.
        UsageError: it does not exist, or its kind is not `ACCEPTED` by the command.
    """
    if not isinstance(model, str | os.PathLike):
        hint = " Call it, and give what it returns." if callable(model) else ""
        module = ", or a torch.nn.Module" if ACCEPTED[command] >= _BUILT_FROM else ""
        raise UsageError(f"the model is a {type(model).__name__}; give {takes(command)}{module}.{hint}")
    text = os.fsdecode(model)
    if not text.strip():
        raise UsageError("the MODEL is empty, as an unset variable would be. " + _list_accepted(command))
    if "://" in text:
        text = _fetch(text, command)
    interpretations = _interpretations(text, command, is_path=not isinstance(model, str))
    if not interpretations:
        raise UsageError(_explain_not_found(text, command))
    found, *others = interpretations
    if others and len(ACCEPTED[command]) > 1:  # a command that accepts only names has no ambiguity
        _warn_ambiguous(found)
    if found.kind is ModelKind.WEIGHTS:
        _check_weights(found.path, command)
    if found.kind not in ACCEPTED[command]:
        raise UsageError(_explain_not_accepted(found, command))
    return found


def _fetch(address: str, command: str) -> str:
    """Return the path of a local copy of a remote model file; another text as it is."""
    from vertebra.storage import Location, local_copy
    from vertebra.storage.file_systems import REMOTE_SCHEMES

    if address.partition("://")[0] not in REMOTE_SCHEMES or os.path.lexists(address):
        return address
    if not ACCEPTED[command] & {ModelKind.EXPORTED, ModelKind.WEIGHTS}:
        raise UsageError(f"{Location(address)} is the address of a file; vertebra {command} takes {takes(command)}.")
    return os.fspath(local_copy(Location(address)))


def takes(command: str) -> str:
    """The kinds that a command accepts: "a network's name, an exported file or the folder of a run"."""
    *most, last = (kind.value for kind in ModelKind if kind in ACCEPTED[command])
    return f"{', '.join(most)} or {last}" if most else last


def _interpretations(text: str, command: str, *, is_path: bool) -> list[ModelArgument]:
    """All meanings of the text, the one that applies first."""
    found = []
    exists = os.path.lexists(text)
    if not is_path and re.fullmatch(r"[\w.-]+", text) and not _is_file_name(text) and (not exists or _is_known(text)):
        found.append(ModelArgument(text, ModelKind.NETWORK))  # the registry's error for an unknown one says more
    source, colon, function = text.rpartition(":")
    named = not is_path and bool(colon) and _is_dotted(function)
    in_file = named and _is_code(source)
    if in_file and os.path.isfile(source):  # noqa: PTH113 - that of `Path` may raise
        found.append(ModelArgument(text, ModelKind.FUNCTION, function, source))
    if exists:
        # The kind of file matters only if the text has no other meaning.
        found.append(ModelArgument(text, ModelKind.RUN) if found else _classify_path(text, command))
    if named and not in_file and not found and _is_dotted(source):
        found.append(ModelArgument(text, ModelKind.FUNCTION, function, source))
    return found


def _is_known(name: str) -> bool:
    from vertebra.model_table import networks
    from vertebra.timm_names import read_name

    return read_name(name, networks()) is not None


def _read_network_name(name: str) -> TimmName:
    from vertebra.model_table import read_network_name  # loads the table of networks, which files do not need

    return read_network_name(name)


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _is_code(text: str) -> bool:
    return text.lower().endswith(".py")


def _is_file_name(text: str) -> bool:
    suffixes = (".onnx", ".py", *WEIGHT_SUFFIXES)
    if text.lower().endswith(suffixes) or text.startswith("."):
        return True
    # A mistyped suffix, such as .onx; timm's tags, which follow a point too, are not near to any.
    suffix = text.rpartition(".")[2] if "." in text else ""
    return bool(suggest(suffix, suffixes))


def _classify_path(text: str, command: str) -> ModelArgument:
    """Classify an existing file or folder; a `UsageError` if it is not a model."""
    path = Path(text)
    if os.path.isdir(text):  # noqa: PTH112
        if any((path / name).is_file() for name in (RUN_MODEL, RUN_METRICS, RUN_SETTINGS, RUN_WEIGHTS)):
            return ModelArgument(text, ModelKind.RUN)
        raise UsageError(_explain_folder(path, command))
    suffix = path.suffix.lower()
    if suffix == ".py":
        from vertebra.model_function import functions_in

        names = functions_in(path)
        offered = f" It has {', '.join(names[:5])}{', …' if len(names) > 5 else ''}." if names else ""
        raise UsageError(
            f"{text} is Python code. Name the function in it that makes the network: {text}:NAME.{offered}"
        )
    kinds = {".onnx": ModelKind.EXPORTED} | dict.fromkeys(WEIGHT_SUFFIXES, ModelKind.WEIGHTS)
    return ModelArgument(text, kinds.get(suffix) or _kind_by_content(path))


def _kind_by_content(path: Path) -> ModelKind:
    """Classify a file by its first bytes; a `UsageError` if it is not a model."""
    if path.is_file():
        try:
            with path.open("rb") as file:
                start = file.read(9)
            # torch's two formats, and safetensors, which begins with a length and JSON.
            if start.startswith((b"PK\x03\x04", b"\x80\x02")) or start[8:9] == b"{":
                return ModelKind.WEIGHTS
            with open_model_file(path) as file:
                locate_card(file)
            return ModelKind.EXPORTED
        except (OSError, CardError):
            pass
    raise UsageError(
        f"{path} is no model: neither a file that `vertebra export` wrote (.onnx) nor weights (.pth, .safetensors). "
        "`vertebra models` lists the networks that have a name."
    )


def _explain_folder(path: Path, command: str) -> str:
    """Explain why a folder is not a model, and list the models in it."""
    try:
        inside = sorted(path.iterdir())
    except OSError as error:
        return f"{path} cannot be read ({error.strerror or error})."
    text = f"{path} is no run: it has no {RUN_MODEL} and no {RUN_SETTINGS}."
    runs = [entry for entry in inside if (entry / RUN_SETTINGS).is_file() or (entry / RUN_MODEL).is_file()]
    files = [entry for entry in inside if entry.suffix.lower() in (".onnx", *WEIGHT_SUFFIXES)]
    for what, found in (("run", runs), ("file", files)):
        if found:
            most = ", ".join(shlex.quote(str(entry)) for entry in found[:3]) + (", …" if len(found) > 3 else "")
            return f"{text} Name the {what} in it: {most}"
    return f"{text} {_list_accepted(command)}"


def _explain_not_found(text: str, command: str) -> str:
    """Explain why a text names nothing that exists."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        return f"{text} is a web address, and no model is taken from there. Download the file, then give its path."
    last = re.split(r"[/\\:]", text)[-1]  # of hf-hub:timm/resnet50, too
    if last != text and _is_known(last):
        return f"{text}: no such file or folder. The network of that name is written {last}"
    source, colon, function = text.rpartition(":")
    if colon and _is_code(source.rstrip(":")) and source.endswith(":"):  # as pytest has it
        return f"{text} is no model. A function in a file is written with one colon: {source.rstrip(':')}:{function}"
    if colon and _is_code(source):
        if not os.path.isfile(source):  # noqa: PTH113
            return f"{source}: no such file. {suggest_path(source)}".rstrip()
        fault = f"{function!r} is no name of a function" if function else f"{text} names no function"
        return f"{fault}. Write {source}:NAME, the function that makes the network."
    if text.lower().endswith(".onnx") and ModelKind.EXPORTED in ACCEPTED[command]:
        advice = f"Make one with: vertebra export NAME --out {shlex.quote(text)}"
        return f"{text}: no such file. {suggest_path(text) or advice}"
    if _is_file_name(text) or os.sep in text or (os.altsep or os.sep) in text:
        return f"{text}: no such file or folder. {suggest_path(text) or _list_accepted(command)}".replace("  ", " ")
    return f"{text!r} is no model. {_list_accepted(command)}"


def _list_accepted(command: str) -> str:
    return f"vertebra {command} takes {takes(command)}."


def _warn_ambiguous(found: ModelArgument) -> None:
    function = f"function {found.function} of {found.source}"
    taken = f"network {found.name}" if found.kind is ModelKind.NETWORK else function
    what = "folder" if found.path.is_dir() else "file"
    warn(f"{found.given!r} is taken for the {taken}. The {what} of that name is written ./{found.given}")


def _explain_not_accepted(found: ModelArgument, command: str) -> str:
    """Explain why a command does not accept this kind of model, and what to do instead."""
    path, given = found.path, shlex.quote(found.given)
    if command != "train" and found.kind in (ModelKind.WEIGHTS, ModelKind.EXPORTED):
        fact = "holds weights alone" if found.kind is ModelKind.WEIGHTS else "is exported already"
        run = path.parent
        if path.name in (RUN_MODEL, RUN_WEIGHTS) and (run / RUN_MODEL).is_file() and (run / RUN_WEIGHTS).is_file():
            return f"{path} {fact}. Give the run that it is of: {shlex.quote(str(run))}"
        if found.kind is ModelKind.WEIGHTS:
            out = shlex.quote(path.with_suffix(".onnx").name)
            return f"{path} {fact}. Run: vertebra export {given} --model NAME --out {out}"
        if command == "export":
            return f"{path} {fact}. Give {takes(command)}; vertebra card {given} says what it is of."
        return f"{path} {fact}, and vertebra {command} reads networks of torch. {_suggest_network(path, command)}"
    if command == "train" and found.kind in (ModelKind.RUN, ModelKind.WEIGHTS):
        weights = shlex.quote(str(found.path / RUN_WEIGHTS if found.kind is ModelKind.RUN else found.path))
        return f"{found.given} is {found.kind.value}. To train on from it: --model NAME --weights {weights}"
    what = "a function that makes a network" if found.kind is ModelKind.FUNCTION else found.kind.value
    return f"{found.given} is {what}; vertebra {command} takes {takes(command)}."


def _check_weights(path: Path, command: str) -> None:
    """Reject a file with a whole network: opening it would run code from the file."""
    from vertebra.torch_archives import describe_whole_network

    if what := describe_whole_network(path):
        function = ModelKind.FUNCTION in ACCEPTED[command]
        advice = "Give a function that makes its network: FILE.py:NAME" if function else "Save its state_dict() alone"
        raise UsageError(f"{path} is {printable(what)}, not weights, and is not opened. {advice}.")


def _suggest_network(path: Path, command: str) -> str:
    """Suggest the command with the network that a file's card names, else the kinds that the command accepts."""
    try:
        name = read_card(path).architecture
    except CardError:
        name = ""
    where = "--model" if command in ("explore", "lab") else f"vertebra {command}"
    return f"Its network is: {where} {name}" if _is_known(name) else f"Give {takes(command)}."

"""The JSON document that the page shows: networks, and what each of them makes of a photo."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vertebra.graph.cost import Kind
from vertebra.progress import Progress, silent

from .activation_histograms import activation_histograms
from .channel_gates import channel_gates
from .class_evidence import class_evidence
from .concatenated_branches import concatenated_branches
from .dense_block_sources import dense_block_sources
from .effective_fields import effective_fields
from .feature_maps import WantedMaps, fit_maps, wanted_maps
from .fields import fields
from .layer_formula import layer_formulas
from .notes import Note
from .observation import Observation, Structure
from .options import Options
from .page import fixed_bytes, packed_bytes
from .parts import sum_of_times
from .patches import CHANNELS, ROOM, find_patches
from .residual_additions import residual_additions
from .strongest import strongest_channels
from .subject import has_statistics_of_photo
from .vectors import vectors
from .worked_values import worked_values

SCHEMA = 1
TOP = 10  # classes that are listed
MOST_BYTES = 7_900_000  # of the page

# Each section gives, for the parts that it has something to say of, a JSON value by the part's id.
Section = Callable[[Observation, Options], Mapping[str, Any]]
SECTIONS: dict[str, Section] = {
    "vector": vectors,
    "formula": layer_formulas,
    "gates": channel_gates,
    "additions": residual_additions,
    "branches": concatenated_branches,
    "dense": dense_block_sources,
    "activations": activation_histograms,
    "field": fields,
    "worked": worked_values,
    "effective": effective_fields,
}


def build_document(
    observations: Iterable[Observation], options: Options, progress: Progress = silent, notes: Sequence[Note] = ()
) -> dict[str, Any]:
    """All that the page shows of one or two observations; the maps get the room that all else leaves.

    Of an iterator one observation at a time is in memory: each takes about that of a training step.
    """
    patched: dict[Structure, dict[int, tuple[str, dict[int, None]]]] = {}  # of which channels patches are shown
    views: list[dict[str, Any]] = []
    wanted: list[WantedMaps] = []
    of_photos: list[Note] = []
    for observation in observations:
        chosen = patched.setdefault(observation.structure, {})
        views.append({"network": list(patched).index(observation.structure), **_view(observation, options, progress)})
        of_photos += [*observation.ending.notes, *observation_notes(observation)]
        progress("explore: feature maps")
        wanted.append(wanted_maps(observation, options.channels))
        if options.photos:
            _choose_channels(observation, options, chosen)
        del observation
    structures = list(patched)
    notes = [*notes, *(note for s in structures for note in (*s.subject.notes, *structure_notes(s))), *of_photos]
    networks = [network(structure) for structure in structures]
    for structure, found in zip(structures, networks, strict=True) if options.photos else ():
        channels = {part: list(each) for part, each in patched[structure].values()}
        room = ROOM // len(structures)
        patches = find_patches(structure, channels, options.photos, options.folder, progress, room)
        found["patches"] = patches.to_dict()
        notes += patches.notes
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "language": options.language,
        "networks": networks,
        "views": views,
        "notes": [],
    }
    size = fixed_bytes() + packed_bytes(document)
    room = max(0, MOST_BYTES - size)
    for maps_of_view, view in zip(wanted, views, strict=True):
        fitted = fit_maps(maps_of_view, room // len(views))
        for part, maps in fitted.maps.items():
            view["parts"].setdefault(part, {})["maps"] = maps
        notes += fitted.notes
        size += fitted.size
    if size > MOST_BYTES:
        notes.append(Note("note.page.large", {"megabytes": round(size / 1e6, 1)}))
    document["notes"] = [note.to_dict() for index, note in enumerate(notes) if note not in notes[:index]]
    return document


def _view(observation: Observation, options: Options, progress: Progress) -> dict[str, Any]:
    """What is shown of an observation, without the maps."""
    seen: dict[str, dict[str, Any]] = {}
    for done, (name, section) in enumerate(SECTIONS.items()):
        progress("explore: what is shown of each part", done, len(SECTIONS))
        for part, value in section(observation, options).items():
            seen.setdefault(part, {})[name] = value
    return {
        "photo": observation.photo.to_dict(),
        "predictions": predictions(observation),
        "target": observation.target,
        "evidence": class_evidence(observation),
        "parts": seen,
    }


def _choose_channels(
    observation: Observation, options: Options, chosen: dict[int, tuple[str, dict[int, None]]]
) -> None:
    """Add the strongest channels of each stage, and those that are asked for, to the part and channels of its row.

    By row, since a stage and its last block have one output.
    """
    asked = options.channels.by_row(observation.structure)
    for part in observation.structure.parts.values():
        if len(part.shape) == 3 and (part.level == "stage" or part.row in asked):
            _, channels = chosen.setdefault(part.row, (part.id, {}))
            numbers = asked.get(part.row) or strongest_channels(observation.scores(part.row)[0], CHANNELS)
            channels |= dict.fromkeys(numbers)


def network(structure: Structure) -> dict[str, Any]:
    """The network without a photo."""
    subject, anatomy = structure.subject, structure.anatomy
    return {
        "name": subject.name,
        "type": type(subject.network).__name__,
        "untrained": subject.is_untrained,
        "weights": subject.weights,
        "input": list(anatomy.input_shapes[0][1:]),
        "classes": structure.graph.outputs[0].shape[-1],
        "parameters": anatomy.parameters,
        "macs": anatomy.macs,
        "bytes": anatomy.bytes,
        "ms": sum_of_times(part for part in structure.parts.values() if part.parent is None),
        "parts": [part.to_dict() for part in structure.parts.values()],
    }


def structure_notes(structure: Structure) -> list[Note]:
    """What has to be known of a network's figure."""
    name, unused = structure.subject.name, [row for row in structure.rows if row.kind is Kind.UNUSED]
    notes = []
    if structure.graph.stages is None:
        notes.append(Note("note.generic", {"name": name}))
    if has_statistics_of_photo(structure.subject):
        notes.append(Note("note.statistics"))
    if unused:
        parameters = f"{sum(row.parameters for row in unused):,}"
        modules = [row.name for row in unused]
        notes.append(Note("note.unused", {"name": name, "parameters": parameters, "modules": modules}))
    return notes


def observation_notes(observation: Observation) -> list[Note]:
    """What has to be known of a network's values on a photo."""
    layers = [part for part in observation.structure.parts.values() if part.level == "layer"]
    broken = [part.name for part in layers if not observation.output(part).isfinite().all()]
    if not broken:
        return []
    return [Note("note.not_finite", {"photo": Path(observation.photo.name).name, "layers": broken})]


def predictions(observation: Observation) -> list[dict[str, Any]]:
    """The best classes with their logits and probabilities, the best first."""
    subject, logits = observation.structure.subject, observation.logits
    probabilities = observation.ending.probabilities(subject.temperature)
    return [
        {
            "index": index,
            "name": subject.classes[index] if index < len(subject.classes) else str(index),
            "logit": float(logits[index]),
            "probability": float(probabilities[index]),
        }
        for index in logits.argsort(descending=True, stable=True)[:TOP].tolist()
    ]

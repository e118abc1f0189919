"""The JSON document that the page shows: networks, and what each of them makes of a photo."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
from .feature_maps import Channels, fit_maps, strongest_channels
from .fields import fields
from .layer_formula import layer_formulas
from .notes import Note
from .observation import Observation, Structure
from .page import fixed_bytes, packed_bytes
from .parts import sum_of_times
from .patches import CHANNELS, ROOM, Patches, find_patches
from .residual_additions import residual_additions
from .vectors import vectors
from .worked_values import worked

SCHEMA = 1
TOP = 10  # classes that are listed
MOST_BYTES = 7_900_000  # of the page


@dataclass(frozen=True)
class Options:
    """What is asked for besides what every page has."""

    language: str = "en"
    values: tuple[str, ...] = ()  # LAYER,C,Y,X, to be worked out
    channels: Channels = field(default_factory=Channels)
    photos: tuple[Path, ...] = ()  # whose patches are shown
    folder: Path = Path()  # of these photos


# Each section gives, for the parts that it has something to say of, a JSON value by the part's id.
Section = Callable[[Observation, Options], Mapping[str, Any]]


def worked_values(observation: Observation, options: Options) -> dict[str, Any]:
    """One value of each layer with weights, worked out, and those that are asked for."""
    return worked(observation, options.values)


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
    observations: Sequence[Observation], options: Options, progress: Progress = silent
) -> dict[str, Any]:
    """All that the page shows of one or two observations; the maps get the room that all else leaves."""
    structures = list(dict.fromkeys(observation.structure for observation in observations))
    notes = [note for s in structures for note in (*s.subject.notes, *structure_notes(s))]
    networks = [network(structure) for structure in structures]
    for structure, found in zip(structures, networks, strict=True) if options.photos else ():
        patches = _patches(structure, observations, options, ROOM // len(structures), progress)
        found["patches"] = patches.to_dict()
        notes += patches.notes
    views: list[dict[str, Any]] = []
    steps = len(observations) * (len(SECTIONS) + 1)
    for observation in observations:
        seen: dict[str, dict[str, Any]] = {}
        for name, section in SECTIONS.items():
            progress("explore: what is shown of each part", len(views) * (len(SECTIONS) + 1), steps)
            for part, value in section(observation, options).items():
                seen.setdefault(part, {})[name] = value
        views.append(
            {
                "network": structures.index(observation.structure),
                "photo": observation.photo.to_dict(),
                "predictions": predictions(observation),
                "target": observation.target,
                "evidence": class_evidence(observation),
                "parts": seen,
            }
        )
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "language": options.language,
        "networks": networks,
        "views": views,
        "quantisation": {"error": 0.0, "share": 0.0},
        "notes": [],
    }
    room = MOST_BYTES - fixed_bytes() - packed_bytes(document)
    if room < 0:
        notes.append(Note("note.page.large", {"megabytes": round((MOST_BYTES - room) / 1e6, 1)}))
    for observation, view in zip(observations, views, strict=True):
        progress("explore: feature maps", views.index(view), len(views))
        fitted = fit_maps(observation, options.channels, max(0, room) // len(views))
        for part, maps in fitted.maps.items():
            view["parts"].setdefault(part, {})["maps"] = maps
            worst = document["quantisation"]
            worst["error"] = max(worst["error"], maps["error"])
            worst["share"] = max(worst["share"], maps["error_share"])
        notes += fitted.notes
    document["notes"] = _distinct(note.to_dict() for note in notes)
    return document


def _distinct(notes: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for note in notes:
        if note not in found:
            found.append(note)
    return found


def _patches(
    structure: Structure, observations: Sequence[Observation], options: Options, room: int, progress: Progress
) -> Patches:
    """Of the strongest channels of each stage, on any of the photos, and of those that are asked for."""
    channels: dict[str, dict[int, None]] = {}
    for observation in observations:
        for part in structure.parts.values() if observation.structure is structure else ():
            asked = options.channels.asked(part)
            if len(part.shape) != 3 or not (part.level == "stage" or asked):
                continue
            strongest = strongest_channels(observation.output(part), observation.contributions[part.row], CHANNELS)
            chosen = channels.setdefault(part.id, dict.fromkeys(asked))
            chosen.update(dict.fromkeys(asked or strongest))
    wanted = {part: list(numbers) for part, numbers in channels.items()}
    return find_patches(structure, wanted, options.photos, options.folder, progress, room)


def network(structure: Structure) -> dict[str, Any]:
    """The network without a photo."""
    subject, anatomy = structure.subject, structure.anatomy
    return {
        "name": subject.name,
        "type": type(subject.network).__name__,
        "untrained": subject.is_untrained,
        "weights": subject.weights,
        "input": list(anatomy.input_shapes[0][1:]),
        "classes": anatomy.output_shape[-1],
        "parameters": anatomy.parameters,
        "macs": anatomy.macs,
        "bytes": anatomy.bytes,
        "ms": sum_of_times(part for part in structure.parts.values() if part.parent is None),
        "parts": [part.to_dict() for part in structure.parts.values()],
        "unused": [
            {"name": row.name, "type": row.module_type, "parameters": row.parameters}
            for row in anatomy.rows
            if row.kind is Kind.UNUSED
        ],
    }


def structure_notes(structure: Structure) -> list[Note]:
    """What has to be known of a network's figure."""
    is_generic = structure.graph.stages is None
    return [Note("note.generic", {"name": structure.subject.name})] if is_generic else []


def predictions(observation: Observation) -> list[dict[str, Any]]:
    """The best classes with their logits and probabilities, the best first."""
    subject, logits = observation.structure.subject, observation.logits
    probabilities = (logits.double() / subject.temperature).softmax(0)
    return [
        {
            "index": index,
            "name": subject.classes[index] if index < len(subject.classes) else str(index),
            "logit": float(logits[index]),
            "probability": float(probabilities[index]),
        }
        for index in logits.argsort(descending=True, stable=True)[:TOP].tolist()
    ]

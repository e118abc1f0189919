"""The JSON document that the page shows: networks, and what each of them makes of a photo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vertebra.graph.cost import Kind
from vertebra.progress import Progress, silent

from .activation_histograms import activation_histograms
from .channel_gates import channel_gates
from .class_evidence import class_evidence
from .concatenated_branches import concatenated_branches
from .dense_block_sources import dense_block_sources
from .effective_fields import effective_fields
from .feature_maps import encode_maps, strongest_channels
from .fields import fields
from .layer_formula import layer_formulas
from .notes import Note
from .observation import Observation, Structure
from .parts import sum_of_times
from .residual_additions import residual_additions
from .vectors import vectors
from .worked_values import worked

SCHEMA = 1
TOP = 10  # classes that are listed


@dataclass(frozen=True)
class Options:
    """What is asked for besides what every page has."""

    language: str = "en"
    values: tuple[str, ...] = ()  # LAYER,C,Y,X, to be worked out


# Each section gives, for the parts that it has something to say of, a JSON value by the part's id.
Section = Callable[[Observation, Options], Mapping[str, Any]]


def maps(observation: Observation, options: Options) -> dict[str, Any]:
    """The maps of each stage and block."""
    found = {}
    for part in observation.structure.parts.values():
        values = observation.output(part)
        if part.level in ("stage", "block") and values.ndim == 4:
            contributions = observation.contributions[part.row]
            found[part.id] = encode_maps(values, contributions, strongest_channels(values, contributions))
    return found


def worked_values(observation: Observation, options: Options) -> dict[str, Any]:
    """One value of each layer with weights, worked out, and those that are asked for."""
    return worked(observation, options.values)


SECTIONS: dict[str, Section] = {
    "maps": maps,
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
    """All that the page shows of one or two observations."""
    structures = list(dict.fromkeys(observation.structure for observation in observations))
    views = []
    for observation in observations:
        seen: dict[str, dict[str, Any]] = {}
        for name, section in SECTIONS.items():
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
    return {
        "schema": SCHEMA,
        "language": options.language,
        "networks": [network(structure) for structure in structures],
        "views": views,
        "notes": [note.to_dict() for structure in structures for note in structure_notes(structure)],
    }


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

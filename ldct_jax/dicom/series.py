"""Headers → CT series, ordered by geometry: the one rule for what belongs together.

A series is what one patient's study, SeriesInstanceUID, matrix and kernel hold in common, with one
orientation and pixel size (within rounding), and one pass over the body. File names and
InstanceNumber never decide an order: the projection of ImagePositionPatient on the normal does.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ldct_jax.dicom.header import PASSES, Header, made_uid
from ldct_jax.dicom.pixels import same_pixels
from ldct_jax.dicom.spacing import Steps, step_of, steps_of

SAME_PLACE_MM = 0.01
"""Slices closer than this lie at one position."""
SAME_ORIENTATION = 2e-3
"""By which direction cosines of one series may differ (0.1 degrees)."""
SAME_PIXEL = 5e-4
"""Share by which pixel sizes of one series may differ."""
SAME_THICKNESS_MM = 0.05


@dataclasses.dataclass(frozen=True)
class Series:
    """The slices of one series, ascending along its normal; duplicates are out.

    ``part`` tells which of the series under one SeriesInstanceUID this is, where there are
    several. ``patient_key`` identifies the patient in memory; never write it anywhere.
    ``warnings`` tell what may be wrong (missing slices, duplicates, UIDs), ``remarks`` what is not.
    """

    headers: tuple[Header, ...] = dataclasses.field(repr=False)
    part: str = dataclasses.field(default="", repr=False)
    patient_key: str = dataclasses.field(default="", repr=False)
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> Header:
        return self.headers[0]

    @property
    def folder(self) -> Path:
        return self.first.path.parent

    @property
    def number(self) -> int | None:
        """The SeriesNumber."""
        return self.first.series_number

    @property
    def description(self) -> str:
        return self.first.description

    @property
    def is_ours(self) -> bool:
        """Whether this package made one of the slices."""
        return any(h.is_ours for h in self.headers)

    @property
    def is_derived(self) -> bool:
        """Whether one of the slices was computed from others, by whomever."""
        return any(h.is_derived for h in self.headers)

    @functools.cached_property
    def positions_mm(self) -> np.ndarray:
        """(N,) positions along the series' normal."""
        return _along(self.headers)

    @property
    def thickness_mm(self) -> float:
        """SliceThickness; the step where the file doesn't say; NaN for a lone slice without."""
        thickness = self.first.thickness_mm
        return thickness if thickness > 0 else self.step_mm

    @property
    def step_mm(self) -> float:
        """The usual distance of neighbours (median), NaN for a single slice."""
        return step_of(self.positions_mm)

    @property
    def is_axial(self) -> bool:
        """Whether the slices lie across the body; a gantry tilt of up to 30° is allowed."""
        return abs(self.first.normal[2]) > math.cos(math.radians(30.5))

    @property
    def identity(self) -> tuple[str, ...]:
        """All that the grouper keys on, for derived UIDs; the same for one slice and for all."""
        first = self.first
        return (
            *_key(first),
            " ".join(f"{v + 0.0:.2f}" for v in first.orientation),
            " ".join(f"{v:.2f}" for v in first.pixel_mm),
            self.part,
        )

    @property
    def content_identity(self) -> str:
        """A hash of :attr:`identity` and of the slices' UIDs and paths, for stores."""
        digest = hashlib.sha256(repr(self.identity).encode())
        for header in self.headers:
            name = os.fsencode(header.path) + f"\0{header.frame}\0{header.source_uid}\0".encode()
            digest.update(name)
        return digest.hexdigest()

    @functools.cached_property
    def steps(self) -> Steps:
        """The distances of the slices, one a position."""
        at = [0]
        for k in range(1, len(self.headers)):
            if self.positions_mm[k] - self.positions_mm[at[-1]] > SAME_PLACE_MM:
                at.append(k)
        return steps_of(self.positions_mm[at], [self.headers[k] for k in at])

    @property
    def crowded(self) -> int:
        """How many slices lie at a position that another one has."""
        return int(np.count_nonzero(np.diff(self.positions_mm) <= SAME_PLACE_MM))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What may be wrong with the series, in words free of names, UIDs and paths."""
        found = list(dict.fromkeys(itertools.chain(self.notes, *(h.notes for h in self.headers))))
        if more := self.crowded:
            found.append(f"{more} more image{'s' * (more > 1)} at a position that has one")
        return (*found, *filter(None, [self.steps.warning]))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is worth a word and not wrong."""
        return tuple(filter(None, [self.steps.remark]))


def group(headers: Iterable[Header], *, by_folder: bool = False) -> list[Series]:
    """Headers → series in order of first appearance.

    ``by_folder`` keeps equal SeriesInstanceUIDs of different folders apart, as collections need
    whose UIDs were blanked or shared. Every slice but true duplicates (one UID, position and
    pixels) is in one of the series; slices that share a SOPInstanceUID get UIDs of their own.
    """
    bins: dict[tuple, list[Header]] = {}
    for header in headers:
        folder = header.path.parent if by_folder else None
        bins.setdefault((folder, *_key(header)), []).append(header)
    parts = []
    for members in bins.values():
        found = [p for same in _by_geometry(members) for p in _by_pass(same)]
        found = [(_ordered(p), label if len(found) > 1 else "") for p, label in found]
        parts += [(*_without_duplicates(p), label) for p, label in found]
    counts = collections.Counter(h.instance_uid for kept, _, _ in parts for h in kept)
    series = []
    for kept, notes, label in parts:
        if shared := sum(counts[h.instance_uid] > 1 for h in kept):
            notes.append(f"{shared} slices share their SOP instance UID and get their own")
            kept = [_own_uid(h) if counts[h.instance_uid] > 1 else h for h in kept]
        series.append(Series(tuple(kept), label, notes=tuple(notes)))
    return _with_patients(series)


def _key(header: Header) -> tuple[str, ...]:
    return (
        header.series_uid,
        header.patient_id or header.patient_name,
        header.study_uid,
        f"{header.rows} x {header.columns}",
        header.kernel,
    )


def _along(headers: Iterable[Header]) -> np.ndarray:
    """(N,) positions along the mean normal: normals that jitter must not shake the distances."""
    normals = np.array([h.normal for h in headers])
    normal = normals[0] if (normals == normals[0]).all() else normals.mean(axis=0)
    return np.array([h.position for h in headers]) @ (normal / np.linalg.norm(normal))


def _ordered(headers: list[Header]) -> list[Header]:
    places = {id(h): p for h, p in zip(headers, _along(headers), strict=True)}
    return sorted(
        headers,
        key=lambda h: (places[id(h)], h.instance_number, h.instance_uid, str(h.path), h.frame or 0),
    )


def _by_geometry(headers: list[Header]) -> list[list[Header]]:
    """Groups of one orientation and pixel size, within rounding, whatever the files' order."""
    groups: list[list[Header]] = []
    for header in sorted(headers, key=lambda h: (h.orientation, h.pixel_mm)):
        for members in groups:
            if _same_geometry(members[0], header):
                members.append(header)
                break
        else:
            groups.append([header])
    place = {id(h): i for i, h in enumerate(headers)}
    groups = [sorted(g, key=lambda h: place[id(h)]) for g in groups]
    return sorted(groups, key=lambda g: place[id(g[0])])


def _same_geometry(a: Header, b: Header) -> bool:
    if a.orientation == b.orientation and a.pixel_mm == b.pixel_mm:
        return True
    turned = max(abs(p - q) for p, q in zip(a.orientation, b.orientation, strict=True))
    scaled = max(abs(p / q - 1) for p, q in zip(a.pixel_mm, b.pixel_mm, strict=True))
    return turned <= SAME_ORIENTATION and scaled <= SAME_PIXEL


# ---- passes: what overlaps along the body and differs in what the file says of it ---------------


def _by_pass(headers: list[Header]) -> list[tuple[list[Header], str]]:
    """The passes over the body in one group, each with a label (of what made them differ)."""
    told: list[tuple[str, Callable[[Header], object]]] = [
        ("thickness", _thickness),
        *((name, functools.partial(_pass, i)) for i, name in enumerate(PASSES)),
        ("type", lambda h: h.image_type),
        ("kvp", lambda h: "" if math.isnan(h.kvp) else f"{h.kvp:g}"),
        ("field of view", _in_plane),
    ]
    parts = [(headers, "")]
    for name, value in told:
        parts = [
            (layer, f"{label} {name} {value(layer[0])}" if len(layers) > 1 else label)
            for members, label in parts
            for layers in [_layers(members, value)]
            for layer in layers
        ]
    return [found for part in parts for found in _by_time(*part)]


def _thickness(header: Header) -> int:
    return round(header.thickness_mm / SAME_THICKNESS_MM) if header.thickness_mm > 0 else 0


def _pass(i: int, header: Header) -> tuple[float, str]:
    """One of :data:`PASSES`: numbers in their order, words after them."""
    text = header.passes[i].strip()
    return (float(text), "") if text.isdigit() else (math.inf, text)


def _in_plane(header: Header) -> tuple[int, ...]:
    """Where the image lies along its rows, to half a millimetre; a tilt doesn't move it there."""
    row = header.orientation[:3]
    return (round(2 * sum(p * r for p, r in zip(header.position, row, strict=True))),)


def _layers(headers: list[Header], value: Callable[[Header], object]) -> list[list[Header]]:
    """Headers split where ranges of positions of different values overlap.

    Values whose ranges follow one another (the rotations of a step-and-shoot scan, the thin and
    the thick part of a head) stay together.
    """
    groups: dict[object, list[Header]] = {}
    for header in headers:
        groups.setdefault(value(header), []).append(header)
    if len(groups) == 1:
        return [headers]
    places = {id(h): p for h, p in zip(headers, _along(headers), strict=True)}
    layers: list[tuple[list[tuple[float, float]], list[Header]]] = []
    for key in sorted(groups):
        at = [places[id(h)] for h in groups[key]]
        low, high = min(at) - SAME_PLACE_MM, max(at) + SAME_PLACE_MM
        for ranges, members in layers:
            if all(high < a or low > b for a, b in ranges):
                ranges.append((low, high))
                members += groups[key]
                break
        else:
            layers.append(([(low, high)], list(groups[key])))
    return [members for _, members in layers]


def _by_time(headers: list[Header], label: str) -> list[tuple[list[Header], str]]:
    """Slices at one position told apart by AcquisitionTime: each pass visits a position once."""
    places = np.round(_along(headers) / SAME_PLACE_MM).astype(int)
    times = [h.time for h in headers]
    if len(set(places.tolist())) == len(headers) or not all(times) or len(set(times)) == 1:
        return [(headers, label)]
    passes: list[list[Header]] = [[]]
    taken: set[int] = set()
    for k in sorted(range(len(headers)), key=lambda k: (times[k], headers[k].source_uid)):
        if places[k] in taken and times[k] != passes[-1][-1].time:
            passes.append([])
            taken = set()
        taken.add(int(places[k]))
        passes[-1].append(headers[k])
    return [(p, f"{label} time {i}" if len(passes) > 1 else label) for i, p in enumerate(passes)]


# ---- duplicates, UIDs, patients -----------------------------------------------------------------


def _without_duplicates(headers: list[Header]) -> tuple[list[Header], list[str]]:
    """Ordered headers without copies: slices of one UID, position and pixels."""
    positions = _along(headers)
    kept: list[int] = []
    for k, header in enumerate(headers):
        copies = (
            i
            for i in reversed(kept)
            if positions[k] - positions[i] <= SAME_PLACE_MM
            and headers[i].source_uid == header.source_uid
            and headers[i].frame == header.frame
            and same_pixels(headers[i], header)
        )
        if next(copies, None) is None:
            kept.append(k)
    copies = len(headers) - len(kept)
    notes = [f"{copies} duplicate{'s' * (copies > 1)} skipped"] if copies else []
    return [headers[k] for k in kept], notes


def _own_uid(header: Header) -> Header:
    """The slice under a UID that its place and series enter as well."""
    own = made_uid(
        *_key(header),
        header.source_uid,
        *map(repr, header.position + header.orientation),
        *header.passes,
        header.time,
        header.path.name,
        str(header.frame),
    )
    return dataclasses.replace(header, instance_uid=own)


def _with_patients(series: list[Series]) -> list[Series]:
    """Each series with its patient: PatientID, else name, else study, else frame of reference.

    A series without ID and name belongs to the patient of its study or frame of reference, where
    another series names one.
    """
    ids: dict[str, set[str]] = {}
    for first in (s.first for s in series):
        key = first.patient_id or first.patient_name
        told = [first.study_uid, first.frame_uid]
        if key and first.patient_id:
            told.append(f"name {first.patient_name}")
        for uid in told if key else ():
            ids.setdefault(uid, set()).add(key)

    def key_of(first: Header) -> str:
        if first.patient_id:
            return first.patient_id
        shared = [first.study_uid, first.frame_uid]
        if first.patient_name:
            shared = [f"name {first.patient_name}"]
        for uid in shared:
            if len(ids.get(uid, ())) == 1:
                return next(iter(ids[uid]))
        return first.patient_name or linked.get(first.frame_uid, first.study_uid)

    # Several studies without a name may share a frame of reference: one body.
    linked: dict[str, str] = {}
    for first in (s.first for s in series):
        linked.setdefault(first.frame_uid, first.study_uid)
    return [dataclasses.replace(s, patient_key=key_of(s.first)) for s in series]

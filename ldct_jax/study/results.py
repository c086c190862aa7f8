"""What a study leaves on the disk, read back: reports are made from this, never from memory."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ldct_jax.data.pairs import PairedSlices
from ldct_jax.errors import DataError
from ldct_jax.export.package import Facts, Score
from ldct_jax.metrics.protocols import Protocol, Scores, Summary, named, pcn, table
from ldct_jax.record import from_record, short_name
from ldct_jax.system.files import write_bytes
from ldct_jax.system.names import counted
from ldct_jax.train.log import read as read_log

RESULT = "result.json"
SAMPLES = "samples.npz"
STUDY = "study.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """One variant on one split."""

    folder: Path
    variant: str
    repeat: int
    result: dict

    def curve(self, metric: str) -> dict[int, float]:
        """A number by training step, counted from 1: one of the steps (``rmse``, ``wasserstein``)
        or one that was monitored on whole slices (``test_rmse`` …); empty where there is none."""
        found = {}
        for row in read_log(self.folder / "metrics.jsonl"):
            value = row.get("evaluation", row).get(metric)
            if value is not None:
                found[row["step"]] = value
        return found

    @cached_property
    def samples(self) -> dict[str, np.ndarray]:
        """``clones`` (T, H, W), ``low``, ``full`` (H, W): one test slice in HU.

        With several doses (D, T, H, W) and (D, H, W), in the order of the study's doses; test
        slices to scroll through, (S, H, W): ``scrolled``, ``scrolled_low``, ``scrolled_full``; and
        what the study's ``measures`` kept.
        """
        with np.load(self.folder / SAMPLES, allow_pickle=False) as arrays:
            return {k: arrays[k] for k in arrays.files}


@dataclasses.dataclass(frozen=True)
class Results:
    """All finished runs of a study and what stands beside them."""

    folder: Path
    study: dict
    runs: tuple[Run, ...]

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(r.variant for r in self.runs))

    def of(self, variant: str, repeats: Collection[int] | None = None) -> tuple[Run, ...]:
        """The finished runs of a variant, those of ``repeats`` only where they are given."""
        return tuple(
            r
            for r in self.runs
            if r.variant == variant and (repeats is None or r.repeat in repeats)
        )

    def shared_repeats(self, *labels: str) -> list[int]:
        """The repeats (split and seed) that all these rows have: what can be compared in pairs."""
        there = [
            set(map(int, self.study["references"]))
            if label in self.references
            else {r.repeat for r in self.of(label)}
            for label in labels
        ]
        return sorted(set.intersection(*there))

    @cached_property
    def shown(self) -> dict[str, Run]:
        """The run of each variant whose images are shown: all of one repeat, so of one patient.

        It is the first repeat that most variants have; a variant without it shows no image.
        """
        counts = Counter(run.repeat for run in self.runs)
        repeat = max(sorted(counts), key=counts.__getitem__, default=0)
        return {run.variant: run for run in self.runs if run.repeat == repeat}

    @cached_property
    def protocol(self) -> Protocol:
        """The protocol that the study's numbers were taken under."""
        if record := self.study.get("protocol_record"):
            return from_record(record)
        # Folders of runs from before the whole protocol was written down.
        name, own = self.study["protocol"], pcn(from_record(self.study["window"]))
        return own if own.name == name else named(name)

    @property
    def references(self) -> tuple[str, ...]:
        """The rows that aren't trained."""
        return tuple(next(iter(self.study["references"].values())))

    def rows(
        self,
        label: str,
        *,
        clone: int = -1,
        further: str | None = None,
        repeats: Collection[int] | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> list[list[dict]]:
        """The per-slice scores of a variant or a reference, one list a repeat.

        ``clone`` counts from the end; ``further``: other scored images of the run by that name;
        ``repeats``: of these alone; ``where``: only rows with these values (``{"dose": 0.1}``).
        A row that doesn't say its dose is at the only one, see :func:`score_rows`.
        """
        if label in self.references:
            found = [rows[label] for _, rows in self._references(repeats)]
        elif further is not None:
            found = [r.result["further"][further] for r in self.of(label, repeats)]
        else:
            found = [r.result["test"][clone] for r in self.of(label, repeats)]
        wanted = (where or {}).items()
        return [[x for x in rows if all(x.get(k, v) == v for k, v in wanted)] for rows in found]

    def summary(self, label: str, protocol: Protocol, **which: Any) -> Summary:
        """Mean ± SD over the test patients of all repeats; ``which`` as in :meth:`rows`."""
        return _summary(self.rows(label, **which), protocol)

    def numbers(self, label: str, repeats: Collection[int] | None = None) -> list[dict]:
        """What the study's ``measures`` found, one record a repeat."""
        return self._part("numbers", label, repeats)

    def quality(self, label: str, repeats: Collection[int] | None = None) -> list[dict]:
        """What is left of the quality phantom (ldct_jax.metrics.quality_phantom), by repeat."""
        return self._part("quality", label, repeats)

    def tissue_noise(self, label: str, repeats: Collection[int] | None = None) -> list[dict]:
        """Noise in flat tissue of the test slices, HU, by repeat and dose (``0.1``; the empty
        string where there is one dose alone); None where there is no flat tissue."""
        return self._part("tissue_noise_hu", label, repeats)

    def _part(self, what: str, label: str, repeats: Collection[int] | None) -> list[dict]:
        """Of each repeat; empty where it wasn't measured yet when the study ran."""
        if label not in self.references:
            return [r.result.get(what, {}) for r in self.of(label, repeats)]
        parts = self.study.get(f"reference_{what}", {})
        return [parts.get(r, {}).get(label, {}) for r, _ in self._references(repeats)]

    def _references(self, repeats: Collection[int] | None) -> list[tuple[str, dict]]:
        """The reference rows' scores by name, of each repeat."""
        every = self.study["references"].items()
        return [(r, rows) for r, rows in every if repeats is None or int(r) in repeats]


def _summary(parts: list[list[dict]], protocol: Protocol) -> Summary:
    rows = [row for part in parts for row in part]
    columns = {k: np.array([row[k] for row in rows]) for k in ("psnr_db", "ssim", "rmse", "peak")}
    return table(Scores(protocol, **columns), [row["patient"] for row in rows])


def score_rows(scores: Scores, pairs: PairedSlices) -> list[dict]:
    """Per-slice scores as plain rows for JSON; :class:`Results` reads them back.

    A row says its ``dose`` where the slices have several.
    """
    rows = [
        {
            "patient": patient,
            "psnr_db": float(scores.psnr_db[i]),
            "ssim": float(scores.ssim[i]),
            "rmse": float(scores.rmse[i]),
            "peak": float(scores.peak[i]),
        }
        for i, patient in enumerate(pairs.patients)
    ]
    if pairs.doses is not None:
        for row, dose in zip(rows, pairs.doses, strict=True):
            row["dose"] = float(dose)
    return rows


def load(folder: Path | str) -> Results:
    """The results in a study's folder (``runs/pcn_ablation``), in the study's own order."""
    folder = Path(folder)
    if not (folder / STUDY).is_file():
        raise DataError(f"{folder} holds no results: train first, with make train EXP=…")
    study = read_json(folder / STUDY)
    runs = []
    for path in sorted(folder.glob(f"*/{RESULT}")):
        result = read_json(path)
        runs.append(Run(path.parent, result["variant"], result["repeat"], result))
    order = {name: i for i, name in enumerate(study["variants"])}
    runs = [r for r in runs if r.variant in order]
    runs.sort(key=lambda r: (order[r.variant], r.repeat))
    return Results(folder, study, tuple(runs))


def facts(path: Path) -> Facts:
    """What a package's card says of the run in whose folder ``path`` is: data and scores.

    Nothing where no study trained it or it isn't finished. No patient is named.
    """
    # As it is named, for links within a study, and where links lead to.
    for place in dict.fromkeys((path.absolute(), path.resolve())):
        inside = [p for p in (place, *place.parents) if (p / RESULT).is_file()]
        if inside and (inside[0].parent / STUDY).is_file():
            break
    else:
        return Facts()
    result = read_json(inside[0] / RESULT)
    run = Run(inside[0], result["variant"], result["repeat"], result)
    found = Results(inside[0].parent, read_json(inside[0].parent / STUDY), (run,))
    data, protocol = found.study["data"], found.protocol
    model = short_name(result["record"]["experiment"]["model"]["type"])
    scores = []
    for dose in data["doses"] or (None,):
        where = {} if dose is None else {"dose": dose}
        at = "" if dose is None else f", {dose:.3g} of the dose"
        for label in (run.variant, *found.references):
            got = found.summary(label, protocol, repeats=[run.repeat], where=where)
            scores.append(
                Score(
                    images=f"test patients ({len(got.patients)}, "
                    f"{counted(got.n_slices, 'slice')}){at}",
                    method=model if label == run.variant else label,
                    protocol=str(protocol),
                    psnr_db=got.psnr_db.mean,
                    ssim=got.ssim.mean,
                    rmse=got.rmse.mean,
                    unit=protocol.unit,
                )
            )
    return Facts(data["source"], data["attribution"], model, tuple(scores))


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name} can't be read ({error}): delete it and run again") from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())

"""Blocks that draw curves, points and bars."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ldct_jax.ct.fbp import SMOOTH
from ldct_jax.models.catalogue import parameter_count
from ldct_jax.record import from_record
from ldct_jax.report import figures, tables
from ldct_jax.report.blocks.tables import SIGNIFICANT, compare
from ldct_jax.report.figures import Curve, Figure, Point
from ldct_jax.report.found import Found
from ldct_jax.system.names import percent

BINS = 60
"""Points of a training curve: each is the mean over as many steps."""


@dataclasses.dataclass(frozen=True)
class Convergence:
    """A number against the training step, mean over repeats.

    rows: None for all. metric: ``rmse`` of the result on the training patches; ``wasserstein``,
    the critic's estimate; ``test_rmse`` or ``validation_rmse``, monitored on whole slices.
    """

    title: str = "Training"
    rows: Sequence[str] | None = None
    metric: str = "rmse"

    def render(self, found: Found) -> list[Figure]:
        monitored = self.metric.startswith(("test_", "validation_"))
        curves = []
        for row in found.ran(self.rows):
            by_run = [run.curve(self.metric) for run in found.results.of(row)]
            by_run = [c for c in by_run if c]
            if by_run:
                curves.append(_mean_curve(row, by_run, None if monitored else BINS))
        if not curves:
            return []
        label = "D(normal dose) - D(denoised)"
        caption, references = "The critics' estimate of the Wasserstein distance", None
        if self.metric != "wasserstein":
            unit = found.protocol.window.width
            label = f"RMSE [1 = {unit:g} HU]"
            caption = "RMSE of the result on the training patches"
        if monitored:
            label = f"RMSE [{found.protocol.unit}]"
            caption = "RMSE on whole slices, looked at for this figure only"
            references = {"undenoised": found.undenoised.rmse.mean}
        return [
            figures.lines(
                tables.stem(self.title),
                self.title,
                curves,
                "training step",
                label,
                references=references,
                caption=f"{caption}, mean over repeats; {found.data}.",
            )
        ]


def _mean_curve(label: str, by_run: Sequence[Mapping[int, float]], bins: int | None) -> Curve:
    """The mean of runs at the steps that all have, averaged over intervals of steps."""
    steps = np.array(sorted(set.intersection(*(set(c) for c in by_run))))
    values = np.mean([[c[s] for s in steps] for c in by_run], axis=0)
    if bins is not None and len(steps) > bins:
        parts = np.array_split(np.arange(len(steps)), bins)
        steps = np.array([steps[p].mean() for p in parts])
        values = np.array([values[p].mean() for p in parts])
    return Curve(label, steps.tolist(), values.tolist())


@dataclasses.dataclass(frozen=True)
class ByClone:
    """PSNR of every clone's image on the test patients, mean over repeats."""

    title: str
    rows: Sequence[str] | None = None

    def render(self, found: Found) -> list[Figure]:
        results, protocol = found.results, found.protocol
        curves = []
        for row in found.ran(self.rows):
            clones = range(len(results.of(row)[0].result["test"]))
            psnr = [results.summary(row, protocol, clone=t).psnr_db.mean for t in clones]
            curves.append(Curve(row, [t + 1 for t in clones], psnr))
        return [
            figures.lines(
                tables.stem(self.title),
                self.title,
                curves,
                "clone index",
                "PSNR [dB]",
                markers=True,
                references={"undenoised": found.undenoised.psnr_db.mean},
                caption=f"Protocol {protocol.name}; {found.data}.",
            )
        ]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """PSNR of the last clone against a setting; x: row → its value. Bars: SD over seeds."""

    title: str
    x_label: str
    x: Mapping[str, float]

    def render(self, found: Found) -> list[Figure]:
        rows = found.ran(list(self.x))
        by_row = [found.by_repeat(r, "psnr_db", found.results.shared_repeats(r)) for r in rows]
        sd = [float(v.std(ddof=1)) if v.size > 1 else 0.0 for v in by_row]
        curve = Curve(
            "last clone", [self.x[r] for r in rows], [float(v.mean()) for v in by_row], sd
        )
        seeds = max(v.size for v in by_row)
        return [
            figures.lines(
                tables.stem(self.title),
                self.title,
                [curve],
                self.x_label,
                "PSNR [dB]",
                markers=True,
                references={"undenoised": found.undenoised.psnr_db.mean},
                caption=f"Mean over {seeds} seed{'s' * (seeds > 1)}, band: their SD. Protocol "
                f"{found.protocol.name}; {found.data}.",
            )
        ]


@dataclasses.dataclass(frozen=True)
class BySize:
    """PSNR against the number of parameters.

    with_critic: rows whose point counts the critic's parameters too.
    """

    title: str
    with_critic: Sequence[str] = ()

    def render(self, found: Found) -> list[Figure]:
        marks = []
        for row in found.results.variants:
            result = found.results.of(row)[0].result
            psnr = found.results.summary(row, found.protocol).psnr_db
            label, size = row, result["parameters"]
            if row in self.with_critic:
                label, size = f"{row}, critic included", size + _critic_parameters(result)
            marks.append(Point(label, size, psnr.mean, psnr.sd))
        return [
            figures.points(
                tables.stem(self.title),
                self.title,
                marks,
                "parameters",
                "PSNR [dB]",
                references={"undenoised": found.undenoised.psnr_db.mean},
                caption=f"Protocol {found.protocol.name}; {found.data}.",
            )
        ]


def _critic_parameters(result: dict) -> int:
    experiment = result["record"]["experiment"]
    critic, side = from_record(experiment["gan"]["critic"]), experiment["patches"]["size"]
    return parameter_count(critic, (1, side, side, 1))[0]


@dataclasses.dataclass(frozen=True)
class BySlice:
    """A metric of every row over the test slices, first repeat, patient after patient."""

    title: str
    metric: str

    def render(self, found: Found) -> list[Figure]:
        rows = {v: found.results.rows(v)[0] for v in found.rows}
        patients = [row["patient"] for row in rows[found.rows[0]]]
        curves = [
            Curve(found.name(v), range(1, len(of) + 1), [row[self.metric] for row in of])
            for v, of in rows.items()
        ]
        label = {"rmse": f"RMSE [{found.protocol.unit}]", "ssim": "SSIM"}.get(self.metric)
        return [
            figures.lines(
                tables.stem(self.title),
                self.title,
                curves,
                "slice",
                label or "PSNR [dB]",
                caption=f"First repeat, patients {', '.join(dict.fromkeys(patients))}; "
                f"{found.data}.",
            )
        ]


@dataclasses.dataclass(frozen=True)
class ByDose:
    """A metric of every row at each tested dose as bars, with an asterisk where the row differs
    from ``against`` (paired two-tailed t-test over patients, p < 0.05)."""

    title: str
    metric: str
    against: str

    def render(self, found: Found) -> list[Figure]:
        results, protocol = found.results, found.protocol
        place = {"psnr_db": 2, "ssim": 5}[self.metric]
        bars: dict[str, list[figures.Bar]] = {}
        for row in found.rows:
            for dose in found.doses:
                own = results.summary(row, protocol, where={"dose": dose})
                mark = ""
                if results.of(self.against) and row != self.against:
                    theirs = results.summary(self.against, protocol, where={"dose": dose})
                    cells = compare(own, theirs)
                    mark = "*" if cells and str(cells[place]).endswith("*") else ""
                value = getattr(own, self.metric)
                bars.setdefault(found.name(row), []).append(
                    figures.Bar(value.mean, value.sd or 0.0, mark)
                )
        return [
            figures.bars(
                tables.stem(self.title),
                self.title,
                [percent(dose) for dose in found.doses],
                bars,
                "dose",
                "SSIM" if self.metric == "ssim" else "PSNR [dB]",
                caption=f"Mean and SD over patients; * p < {SIGNIFICANT:g} against {self.against} "
                f"(paired two-tailed t-test over patients). Protocol {protocol.name}; "
                f"{found.data}.",
            )
        ]


@dataclasses.dataclass(frozen=True)
class MTF:
    """The modulation transfer function that shapes noise inserted in the phantoms' images; of DATA
    each series' own does."""

    title: str

    def render(self, found: Found) -> list[Figure]:
        frequencies = np.linspace(0, 1, 101)
        spectrum = "f · MTF², as filtered back projection leaves it"
        if found.results.study["scale"].get("noise_spectrum") == "mtf":
            spectrum = "MTF²"
        return [
            figures.lines(
                tables.stem(self.title),
                self.title,
                [Curve("MTF", frequencies.tolist(), SMOOTH.window(frequencies).tolist())],
                "spatial frequency [1/mm]",
                "MTF",
                caption="The phantoms' kernel. Where DATA was given, each series has a measured "
                f"one of its own in its place. The simulated noise has the spectrum {spectrum}.",
            )
        ]


@dataclasses.dataclass(frozen=True)
class BiasByDose:
    """The measured ``bias_hu`` of every row against the dose, mean over repeats."""

    title: str

    def render(self, found: Found) -> list[Figure]:
        curves = []
        for row in found.rows:
            records = [n["bias_hu"] for n in found.results.numbers(row)]
            doses = [d for d in records[0] if all(r[d] is not None for r in records)]
            if doses:
                means = [float(np.mean([r[d] for r in records])) for d in doses]
                curves.append(Curve(found.name(row), [100 * float(d) for d in doses], means))
        if not curves:
            return []
        return [
            figures.lines(
                tables.stem(self.title),
                self.title,
                curves,
                "dose [%]",
                "bias [HU]",
                log_x=True,
                markers=True,
                references={"none": 0.0},
                caption=f"Mean over repeats; {found.data}.",
            )
        ]

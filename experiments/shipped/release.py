"""Turn a finished run into what ships: the parameters for inference, and a model card.

    python -m experiments.shipped.release runs/shipped/pcn3 docs/results/shipped ldct_jax/shipped

The second argument holds what `experiments.shipped.held_out`, `.versions`, `.texture` and `.kept`
measured on what `experiments.shipped.in_hu` makes of that very run.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined

from experiments.shipped.in_hu import of_run
from experiments.shipped.kept import GAINED
from experiments.shipped.train import (
    ATTRIBUTION,
    BEFORE,
    HELD_OUT,
    HELD_OUT_SINGLES,
    MIXED,
    SINGLES,
    SMOOTH_SINGLES,
    TRAINING,
    VALIDATION,
    variants,
)
from ldct_jax.errors import UsageError
from ldct_jax.export.package import Facts, Score
from ldct_jax.metrics.protocols import MAYO_ABDOMEN, PCN
from ldct_jax.models.noise_scaled import NoiseScaled
from ldct_jax.study import results
from ldct_jax.train import released
from ldct_jax.train.digests import combined

DOSES = ("10 %", "25 %", "50 %")
FILTERS = ("median", "gaussian", "wiener", "bilateral", "nlm", "tv")
# The paper's schedule: 60 epochs of the stride-4 grid of 55x55 patches on 9 patients x 10 slices.
PAPER_PATCHES = 60 * 90 * ((512 - 55) // 4 + 1) ** 2
PAPER_SIDE, BEFORE_BATCH = 55, 16  # of every training before this recipe

# The versions, and what was new; the network of each began as that of the one before.
HISTORY = (
    ("1cbf48f41215", "a PCN of three clones in HU, mean squared error of every clone"),
    ("40b7e4235551", "quiet targets, logarithm of each patch's error on several scales"),
    ("4dd4f1ef798f", "the network sees slices in units of their noise; Noisier2Noise targets"),
    ("adfca3c8cd74", "longer training; the slices of a series keep one share of their noise"),
    ("55748df07ef4", "506 steps of the sixth's recipe; it never shipped"),
    (
        BEFORE["version"][:12],
        "noise of each series' own spectrum, patients with smooth kernels, slices as other kernels "
        "would have shown them, a random constant on both images of a pair",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("measured", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    shipped, variables, record = of_run(given.run)
    cases = sorted((given.measured / "held_out_by_case").glob("*.json"))
    measured = [results.read_json(path) for path in cases]
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"{given.run.name}.npz"
    # Beside it first: no weights without their own card.
    new = path.with_suffix(".new")
    try:
        released.write(new, variables, {"record": record})
        digest = combined(released.read(new)[1]["digests"])
        if any(m["model"] != digest for m in measured) or not measured:
            raise UsageError(f"{given.measured} holds measurements of another model: measure again")
        for name in ("versions", "texture", "kept"):
            if digest not in (given.measured / f"{name}.md").read_text("utf-8"):
                raise UsageError(f"{given.measured}/{name}.md is of another model: measure again")
        text = card(new, digest, given.run, shipped, record, measured, given.measured)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    path.with_suffix(".md").write_text(text, "utf-8")
    results.write_json(path.with_suffix(".json"), facts(path.stem, record, measured))
    print(f"{path}: {path.stat().st_size:,} bytes")


def card(path, digest, run: Path, shipped: NoiseScaled, record, measured, folder: Path) -> str:
    """The model card as Markdown."""
    result = results.read_json(run / results.RESULT)
    (split,) = results.read_json(run.parent / results.STUDY)["splits"]
    experiment = variants("demo")[run.name]
    template = Path(__file__).with_name("card.md.j2").read_text("utf-8")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True)
    if record["init"] != BEFORE["digest"]:
        raise UsageError(f"{run} didn't start from the version that the card would name")
    patches, schedule = experiment.patches, experiment.optimizer.schedule
    before = (BEFORE["steps_hu"] + BEFORE["steps_noise"]) * BEFORE_BATCH * PAPER_SIDE**2
    pixels = before + (BEFORE["steps"] + result["steps"]) * patches.batch * patches.size**2
    return environment.from_string(template).render(
        name=path.stem,
        model=record["model"]["base"],
        parameters=result["parameters"],
        bytes=path.stat().st_size,
        shipped=shipped,
        scales=experiment.loss.base.scales,
        digest=digest,
        steps=result["steps"],
        patches=patches,
        before_batch=BEFORE_BATCH,
        before_side=PAPER_SIDE,
        schedule=schedule,
        share=pixels / (PAPER_PATCHES * PAPER_SIDE**2),
        minutes=result["seconds"]["total"] / 60,
        before=BEFORE,
        trained=record["trained_on"],
        mixed=MIXED["demo"],
        source=record["data"]["source"],
        training=sorted(split["train"]),
        earlier=sorted(
            {*TRAINING.values(), *SINGLES.values(), *SMOOTH_SINGLES.values()} - {*split["train"]}
        ),
        validation=list(VALIDATION.values()),
        held_out=[*HELD_OUT.values(), *sorted(set(HELD_OUT_SINGLES.values()))],
        attribution=ATTRIBUTION,
        gains=_gains(results.read_json(folder / "kept.json")),
        history=HISTORY,
        tables=(folder / "held_out.md").read_text("utf-8").strip(),
        versions=(folder / "versions.md").read_text("utf-8").strip(),
        texture=(folder / "texture.md").read_text("utf-8").strip(),
        verdict=verdict([row for m in measured for row in m["rows"]]),
    )


def facts(name: str, record: dict, measured: list[dict], attribution: str = ATTRIBUTION) -> dict:
    """What `ldct export --format package` says of the model beside the card, as JSON."""
    patients = ", ".join(HELD_OUT.values())
    scores = [
        Score(
            images=f"held-out patients ({patients}), simulated dose {row['case']}",
            method=name if row["method"] == "model" else row["method"],
            protocol=str(protocol),
            **{
                metric: float(np.mean([scores[metric] for scores in row[protocol.name].values()]))
                for metric in ("psnr_db", "ssim", "rmse")
            },
            unit=protocol.unit,
        )
        for one in measured
        for row in one["rows"]
        if row["method"] in ("undenoised", "model")
        for protocol in (PCN, MAYO_ABDOMEN)
    ]
    data = f"{record['data']['source']}; patients of validation and test are counted"
    found = Facts(data, attribution, name, tuple(scores))
    return dataclasses.asdict(found)


def _gains(table: dict) -> list[str]:
    """PSNR gained at 75 % by each volume that trained or validated, from `.kept`."""
    key = next(k for k in table["rows"][0] if k.startswith(GAINED))
    return [f"{row[key]:+.1f}" for row in table["rows"] if row[key] is not None]


def verdict(rows: list[dict]) -> str:
    """What the model was meant to reach, and whether it did, from the measurements."""
    by = {(row["case"], row["method"]): row for row in rows}
    lines = []
    for dose in DOSES:
        ours = by[dose, "model"]
        for what, score in SCORES.items():
            best = max(FILTERS, key=lambda f, d=dose, s=score: s(by[d, f]))
            theirs = score(by[dose, best])
            held = score(ours) > theirs
            lines.append(
                f"- {dose} dose, {what}: {score(ours):.4g} against {theirs:.4g} of the best filter "
                f"({best}): {'better' if held else '**not better**'}."
            )
    largest, tissue, patient, dose = max(
        (abs(value), tissue, patient, dose)
        for dose in sorted({case for case, _ in by})
        for tissue, values in by[dose, "model"]["bias_hu"].items()
        for patient, value in values.items()
    )
    low_dose = abs(by[dose, "undenoised"]["bias_hu"][tissue][patient])
    lines.append(
        f"- Largest HU bias of a region: {largest:.2f} HU ({tissue} of {patient} at {dose}), "
        f"{'under' if largest < 1 else '**not under**'} 1 HU; the low dose itself has "
        f"{low_dose:.2f} HU there."
    )
    ours, low = by["75 %", "model"], by["75 %", "undenoised"]
    better = all(s(ours) >= s(low) for s in SCORES.values())
    smooth = SCORES[SMOOTH_PSNR]
    lines.append(
        f"- At 75 % dose it is {'never worse' if better else '**worse in some measure**'} than the "
        f"input in the mean over patients: PSNR {_score('psnr_db')(ours):.2f} against "
        f"{_score('psnr_db')(low):.2f} dB, SSIM {_score('ssim')(ours):.6f} against "
        f"{_score('ssim')(low):.6f}, PSNR of smooth kernels {smooth(ours):.2f} against "
        f"{smooth(low):.2f} dB, and the three CNRs."
    )
    return "\n".join(lines)


def _score(metric: str):
    return lambda row: float(np.mean([patient[metric] for patient in row["pcn"].values()]))


SMOOTH_PSNR = "PSNR of smooth kernels [dB]"
SCORES = {
    "PSNR [dB]": _score("psnr_db"),
    "SSIM": _score("ssim"),
    SMOOTH_PSNR: lambda row: float(np.mean([one["psnr_db"] for one in row["smooth"].values()])),
    **{
        f"CNR of {pair}": lambda row, pair=pair: row["cnr"][pair]
        for pair in ("liver and lesion", "liver and fat", "muscle and fat")
    },
}


if __name__ == "__main__":
    main()

"""A folder that holds all that a receiver of a model needs, as model hubs expect it.

``README.md`` (the card, with the metadata head that hubs read), ``model.onnx``,
``model.stablehlo``, ``model.safetensors``, an example image of a phantom with the expected result,
``denoise_onnx.py`` that needs no ldct_jax, ``LICENSE``, and ``SHA256SUMS`` of all of them, which
``sha256sum -c`` reads. The folder is a model of ``ldct denoise`` and ``ldct_jax.load()``.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import io
import math
from pathlib import Path

import numpy as np

import ldct_jax
from ldct_jax.errors import CheckpointError, UsageError
from ldct_jax.system.files import sha256, write_bytes

SUMS = "SHA256SUMS"
CARD = "README.md"
MODELS = ("model.onnx", "model.stablehlo", "model.safetensors")
EXAMPLE = "denoise_onnx.py"
LOW, DENOISED = "example_low_hu.npy", "example_denoised_hu.npy"
LICENCE = "LICENSE"
FILES = (*MODELS, *(f"{n}.json" for n in MODELS[1:]), LOW, DENOISED, EXAMPLE, LICENCE, CARD)
SIDE = 512
BODY_MM = 380.0
"""Width of the example: an abdomen."""
SEED, NORMAL_HU, ADDED_HU = 2016, 20.0, 35.0
"""The example's phantom, the SD of its normal dose's noise, and of what a quarter dose adds."""
METRICS = {"psnr_db": ("psnr", "PSNR, dB"), "ssim": ("ssim", "SSIM"), "rmse": ("rmse", "RMSE")}


@dataclasses.dataclass(frozen=True)
class Score:
    """One row of a run's results: means over patients.

    ``images``: what was scored, with its dose; ``method``: the network's name, or what it is
    compared with; ``protocol``: all that the numbers depend on, in words; ``unit``: of ``rmse``.
    """

    images: str
    method: str
    protocol: str
    psnr_db: float
    ssim: float
    rmse: float
    unit: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a checkpoint doesn't hold and a card should say.

    ``about``: Markdown for a model that has a card already; ``data`` and ``attribution``: what it
    was trained on, and whom to cite; ``scores``: of its test images, those of the network itself
    under ``method == model``.
    """

    data: str = ""
    attribution: str = ""
    model: str = ""
    scores: tuple[Score, ...] = ()
    about: str = ""

    @classmethod
    def of_record(cls, record: dict) -> Facts:
        """From JSON that ``dataclasses.asdict`` made."""
        return cls(**{**record, "scores": tuple(Score(**s) for s in record["scores"])})


def export(
    source,
    out: Path,
    *,
    facts: Facts,
    onnx_size: tuple[int, int] | None,
    size: tuple[int, int] | None = None,
    check: Path | None = None,
    licence: Path | None = None,
) -> dict[str, dict[str, float]]:
    """Write the package into the folder ``out``; largest differences in HU by file and image.

    Args:
      source: :class:`ldct_jax.export.source.Source`.
      onnx_size, size: (H, W) of the ONNX and the StableHLO file, or None for any; the example has
        that of the former.
      licence: text that the weights are under; None for ldct_jax's own, Apache-2.0.

    Raises:
      UsageError, LdctError: as the three formats do; without SHA256SUMS, which is written last,
        the folder isn't taken for a package.
    """
    from ldct_jax.export import onnx_model, stablehlo, tensors

    if importlib.util.find_spec("huggingface_hub") is None:
        raise UsageError("a package needs huggingface-hub: pip install 'ldct-jax[export]'")
    text = _licence(licence)
    (out / SUMS).unlink(missing_ok=True)
    # The converter knows the fewest networks, so it goes first.
    cards = {
        MODELS[0]: onnx_model.export(source, out / MODELS[0], size=onnx_size, check=check),
        MODELS[1]: stablehlo.export(source, out / MODELS[1], size=size, check=check),
        MODELS[2]: tensors.export(source, out / MODELS[2], check=check),
    }
    low = example(*(onnx_size or (SIDE, SIDE)))
    denoised = _expected(source, low)
    for name, array in ((LOW, low), (DENOISED, denoised)):
        buffer = io.BytesIO()
        np.save(buffer, array)
        write_bytes(out / name, buffer.getvalue())
    write_bytes(out / EXAMPLE, Path(__file__).with_name(EXAMPLE).read_bytes())
    write_bytes(out / LICENCE, text.encode())
    readme = _readme(source, cards, facts, denoised - low, own_licence=licence is not None)
    write_bytes(out / CARD, readme.encode())
    sums = "".join(f"{sha256(out / name)}  {name}\n" for name in sorted(FILES))
    write_bytes(out / SUMS, sums.encode())
    return {name: card.verified for name, card in cards.items()}


def is_package(folder: Path) -> bool:
    """Whether ``folder`` is a package, a damaged one included."""
    return any((folder / name).is_file() for name in (SUMS, *MODELS))


def in_the_way(out: Path) -> list[str]:
    """Names of the files in ``out`` that a package would replace."""
    return [name for name in (*FILES, SUMS) if (out / name).exists()]


def model_in(folder: Path) -> Path:
    """The file of the package that computes here: StableHLO where jax can read it, else ONNX.

    Raises CheckpointError where a file is missing or isn't the one that was exported.
    """
    try:
        lines = (folder / SUMS).read_text("utf-8").splitlines()
        said = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError):
        there = next((n for n in MODELS[:2] if (folder / n).is_file()), MODELS[0])
        raise CheckpointError(
            f"{folder / SUMS} is missing or damaged: export the package again, or, of files that "
            f"are not a package, name one (as {folder / there})"
        ) from None
    lacking = [n for n in said if not (folder / n).is_file()]
    lacking += [n for n in MODELS if n not in said]
    if lacking:
        raise CheckpointError(f"{folder} lacks {', '.join(lacking)}: get the whole package again")
    if changed := [name for name, digest in said.items() if sha256(folder / name) != digest]:
        raise CheckpointError(
            f"{', '.join(changed)} in {folder} changed since the export: get the package again, "
            f"or, if you edited it yourself, write its new sha256 into {SUMS}"
        )
    can = all(importlib.util.find_spec(name) for name in ("jax", "flatbuffers"))
    return folder / MODELS[1 if can else 0]


def example(height: int, width: int) -> np.ndarray:
    """One slice (1, H, W) int16 HU of an abdominal phantom (no patient) at a quarter dose."""
    from ldct_jax.ct.add_noise_to_images import sample_noise
    from ldct_jax.ct.phantom.random_patient import random_patient
    from ldct_jax.hu import whole_hu

    side = max(height, width, 32)  # a phantom's smallest
    pixel_mm = BODY_MM / side
    hu = random_patient(
        SEED, region="abdomen", n_slices=1, size=side, pixel_mm=pixel_mm, slice_mm=5.0
    ).hu
    for seed, sd_hu in enumerate((NORMAL_HU, ADDED_HU)):
        hu = hu + sample_noise(hu.shape, sd_hu, pixel_mm, seed=seed)
    top, left = (side - height) // 2, (side - width) // 2
    return whole_hu(hu[:, top : top + height, left : left + width], -1024, 3071)


def _expected(source, low: np.ndarray) -> np.ndarray:
    """What the network in float32 makes of ``low``; a slice of its own, no series."""
    import jax

    from ldct_jax.export import verify
    from ldct_jax.export.source import twin_for_onnx
    from ldct_jax.models import onednn

    with verify.on_cpu(), onednn.disabled():
        function = jax.jit(source.function(twin_for_onnx(source.model)))
        return np.asarray(function(low.astype(np.float32)))


def _licence(own: Path | None) -> str:
    if own is not None:
        try:
            return own.read_text("utf-8")
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{own} can't be read as text ({error}): give a licence file"
            ) from None
    clone = Path(ldct_jax.__file__).parents[1]
    if (clone / "pyproject.toml").is_file():  # not a folder of installed packages
        return (clone / LICENCE).read_text("utf-8")
    return importlib.metadata.distribution("ldct-jax").read_text("licenses/LICENSE")


def _readme(source, cards: dict, facts: Facts, change: np.ndarray, *, own_licence: bool) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ldct_jax.export"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    card = cards[MODELS[0]]
    return environment.get_template("package.md.j2").render(
        head=_head(facts, own_licence=own_licence),
        card=card,
        cards=cards,
        facts=facts,
        version=ldct_jax.__version__,
        parameters=sum(_sizes(source.variables["params"])),
        takes_noise=source.takes_noise,
        change=float(np.abs(change).mean()),
    )


def _sizes(tree):
    for value in tree.values():
        yield from _sizes(value) if hasattr(value, "items") else (value.size,)


def _head(facts: Facts, *, own_licence: bool) -> str:
    """The YAML that hubs read, with the results under their protocols as ``model-index``."""
    from huggingface_hub import EvalResult, ModelCardData

    def result(score: Score, metric: str) -> EvalResult:
        kind, title = METRICS[metric]
        unit = f", {score.unit}" if metric == "rmse" else ""
        return EvalResult(
            task_type="image-to-image",
            task_name="low-dose CT denoising",
            dataset_type="ct",
            dataset_name=score.images,
            metric_type=kind,
            metric_name=title + unit,
            metric_value=getattr(score, metric),
            metric_args={"protocol": score.protocol},
        )

    licence = {"license": "apache-2.0"}
    if own_licence:
        licence = {"license": "other", "license_name": "own", "license_link": LICENCE}
    data = {"training_data": facts.data, "training_data_attribution": facts.attribution}
    results = [
        result(score, metric)
        for score in facts.scores
        if score.method == facts.model
        for metric in METRICS
        if math.isfinite(getattr(score, metric))
    ]
    return ModelCardData(
        **licence,
        library_name="ldct_jax",
        pipeline_tag="image-to-image",
        tags=["medical-imaging", "computed-tomography", "low-dose-ct", "denoising", "onnx", "jax"],
        **{k: v for k, v in data.items() if v},
        **(dict(model_name=facts.model, eval_results=results) if results else {}),
    ).to_yaml()

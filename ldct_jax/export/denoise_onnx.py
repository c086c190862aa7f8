"""Denoise CT with model.onnx: needs numpy, onnxruntime and, for DICOM, pydicom; research only.

    python denoise_onnx.py --check                # the example beside this file, compared
    python denoise_onnx.py SERIES out.npy         # a folder with one DICOM series
    python denoise_onnx.py slices.npy out.npy     # HU, (slices, height, width) or (height, width)

The result is float32 HU in slice order. It is an array, not DICOM: a derived series needs
identifiers and a description of its own, which `ldct denoise` of ldct_jax writes.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime

HERE = Path(__file__).parent
AIR_HU = -1024
SAMPLE = 16  # slices of a series in which its noise is measured


def read(path: Path) -> np.ndarray:
    """(slices, height, width) float32 HU of an array, or of a folder with one DICOM series."""
    if path.suffix == ".npy":
        hu = np.load(path, allow_pickle=False).astype(np.float32)
        hu = hu[None] if hu.ndim == 2 else hu
    else:
        hu = read_series(path)
    if hu.ndim != 3 or not np.isfinite(hu).all():
        sys.exit(f"error: {path} isn't (slices, height, width) of finite HU")
    # Scanners fill what lies outside of the field of view with values far below air.
    return np.maximum(hu, AIR_HU).astype(np.float32)


def read_series(folder: Path) -> np.ndarray:
    """(slices, height, width) HU, upwards."""
    import pydicom

    slices, others = [], []
    for file in sorted(p for p in folder.glob("*") if p.is_file()):
        try:
            image = pydicom.dcmread(file)
            slices.append((image.SeriesInstanceUID, image.ImagePositionPatient, image))
        except (pydicom.errors.InvalidDicomError, AttributeError):
            others.append(file.name)
    if others:
        print(f"left out, no slices: {', '.join(others)}", file=sys.stderr)
    if len({uid for uid, _, _ in slices}) != 1:
        sys.exit(f"error: {folder} holds slices of several series, or none; give a folder of one")
    first = slices[0][2]
    across = np.cross(*np.reshape(np.array(first.ImageOrientationPatient, float), (2, 3)))
    images = [i for _, _, i in sorted(slices, key=lambda s: across @ np.array(s[1], float))]
    if len({(i.Rows, i.Columns) for i in images}) != 1:
        sys.exit(f"error: {folder} holds slices of several sizes")
    hu = [i.pixel_array * float(i.RescaleSlope) + float(i.RescaleIntercept) for i in images]
    return np.stack(hu)


def denoise(session: onnxruntime.InferenceSession, hu: np.ndarray) -> np.ndarray:
    """Slices of one series, (slices, height, width) float32 HU → the same shape."""
    series = {}
    if len(session.get_outputs()) > 1 and len(hu) > 1:
        # This network keeps a share of the noise. All slices of a series keep the same share where
        # it gets the median of their noise; at 1 HU it only measures.
        some = np.linspace(0, len(hu) - 1, min(len(hu), SAMPLE)).round().astype(int)
        measure = {"series_noise_hu": np.array(1, np.float32)}
        noise = [session.run(["noise_hu"], {"hu": hu[i : i + 1], **measure})[0][0] for i in some]
        series = {"series_noise_hu": np.array(np.median(noise), np.float32)}
    slices = (hu[i : i + 1] for i in range(len(hu)))
    return np.concatenate(
        [session.run(["denoised_hu"], {"hu": one, **series})[0] for one in slices]
    )


def main() -> None:
    """The command line above."""
    onnxruntime.set_default_logger_severity(3)  # errors alone
    session = onnxruntime.InferenceSession(
        HERE / "model.onnx", providers=onnxruntime.get_available_providers()
    )
    if sys.argv[1:] == ["--check"]:
        low, expected = (
            np.load(HERE / f"example_{n}_hu.npy", allow_pickle=False) for n in ("low", "denoised")
        )
        worst = np.abs(denoise(session, low.astype(np.float32)) - expected).max()
        print(f"largest difference from the expected image: {worst:.4f} HU")
        sys.exit(not worst <= 0.05)
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    hu, takes = read(Path(sys.argv[1])), session.get_inputs()[0].shape[1:]
    if any(isinstance(n, int) and n != m for n, m in zip(takes, hu.shape[1:], strict=True)):
        sys.exit(f"error: model.onnx takes slices of {takes} pixels, not {list(hu.shape[1:])}")
    np.save(sys.argv[2], denoise(session, hu))


if __name__ == "__main__":
    main()

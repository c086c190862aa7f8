"""What travels with an exported artefact: where it comes from, its window, how it was verified."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from ldct_jax import __version__
from ldct_jax.data.acquisition import Trained
from ldct_jax.errors import CheckpointError
from ldct_jax.hu import Window
from ldct_jax.record import from_record, short_name
from ldct_jax.system.files import write_bytes

FORMAT = 1
UNSEALED = "0" * 64
"""What stands for a file's own digest, inside that file, while the digest is taken."""


@dataclasses.dataclass(frozen=True)
class Card:
    """The description of an artefact; JSON beside a StableHLO file, metadata inside an ONNX one.

    Args:
      name: of the network. kind: stablehlo, onnx or safetensors.
      checkpoint: digest of the checkpoint it was made of.
      model, window: their records (:mod:`ldct_jax.record`); trained_on as in the checkpoint.
      size: (H, W) that the artefact takes, or None for any with sides of ``min_side`` or more.
      verified: largest differences from the checkpoint's network, HU, by the images' name.
      sha256: of the artefact's bytes; where the card is inside of them, of :func:`sealed` ones.

    A card beside its artefact is sealed too (``card_sha256``), so that no word of it can change.
    """

    name: str
    kind: str
    checkpoint: str
    model: dict
    window_record: dict
    trained_record: dict | None
    size: tuple[int, int] | None
    verified: dict[str, float] = dataclasses.field(default_factory=dict)
    sha256: str = ""
    min_side: int = 1

    @property
    def window(self) -> Window:
        return from_record(self.window_record)

    @property
    def trained_on(self) -> Trained | None:
        return Trained.from_record(self.trained_record)

    def text(self) -> str:
        """JSON, with words for a reader who has nothing else."""
        record: dict[str, Any] = {
            "format": FORMAT,
            "made_by": f"ldct_jax {__version__}",
            "function": "low-dose CT in HU -> denoised CT in HU, (batch, height, width) float32; "
            "the window and the padding rule are inside",
            "use": "research only",
            "card_sha256": UNSEALED,
            **dataclasses.asdict(self),
        }
        if self.kind == "safetensors":
            record["function"] = (
                "parameters only: network units are (HU - low) / (high - low) of the window"
            )
            if short_name(self.model["type"]) == "NoiseScaled":
                record["function"] += (
                    "; base gets them divided by unit times the slice's noise and its result is "
                    "multiplied back: ldct_jax.models.noise_scaled says how the noise is measured "
                    "and how much of it is kept"
                )
        return json.dumps(record, indent=1, sort_keys=True)

    @classmethod
    def from_text(cls, text: str, where: str) -> Card:
        """The inverse of :meth:`text`; raises CheckpointError that names ``where``."""
        try:
            record = json.loads(text)
            if record["format"] != FORMAT:
                raise CheckpointError(
                    f"{where} has format {record['format']}, this version reads {FORMAT}"
                )
            record.setdefault("min_side", 1)  # cards of before have none
            fields = {f.name: record[f.name] for f in dataclasses.fields(cls)}
            size = fields["size"]
            card = cls(**{**fields, "size": None if size is None else tuple(size)})
            if not isinstance(card.window, Window):
                raise KeyError("window")
            return card
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{where} isn't one that ldct_jax wrote ({type(error).__name__}): export it again "
                "with `ldct export`"
            ) from None


def write_beside(card: Card, path: Path) -> None:
    """Write ``path.json``, the card of the artefact at ``path``."""
    write_bytes(card_path(path), sealed(card.text().encode())[0])


def read_beside(path: Path) -> Card:
    """The card of the artefact at ``path``; CheckpointError where it is missing or changed."""
    beside = card_path(path)
    if not beside.exists():
        raise CheckpointError(f"{beside.name} is missing beside {path}: the two belong together")
    data = beside.read_bytes()
    text = data.decode(errors="replace")
    card = Card.from_text(text, str(beside))
    seal = json.loads(text).get("card_sha256")
    if seal is None:
        raise CheckpointError(f"{beside} was written before cards were sealed: export it again")
    if not seal_holds(data, str(seal)):
        raise CheckpointError(f"{beside} is not the card that was written: export it again")
    return card


def card_path(path: Path) -> Path:
    """Where the card of an artefact lies that has no room for it inside."""
    return path.with_name(path.name + ".json")


def sealed(data: bytes) -> tuple[bytes, str]:
    """(``data`` with its digest in place of :data:`UNSEALED`, that digest)."""
    digest = hashlib.sha256(data).hexdigest()
    return data.replace(UNSEALED.encode(), digest.encode()), digest


def seal_holds(data: bytes, digest: str) -> bool:
    """Whether ``data`` is what :func:`sealed` gave with ``digest``."""
    unsealed = data.replace(digest.encode(), UNSEALED.encode())
    return hashlib.sha256(unsealed).hexdigest() == digest

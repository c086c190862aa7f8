"""Start a training from another one's parameters: fine-tuning, and the next cascade stage."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from ldct_jax.errors import CheckpointError
from ldct_jax.hu import Window
from ldct_jax.models.cascade import Cascade, join, split
from ldct_jax.record import difference, to_record
from ldct_jax.train.checkpoint import load_model
from ldct_jax.train.state import TrainState


def start_from(state: TrainState, model, window: Window, path: Path) -> tuple[TrainState, str]:
    """(``state`` with the parameters and statistics of the checkpoint at ``path``, its digest).

    The checkpoint's model must equal ``model``, or be the first stage or stages of the cascade
    ``model``, whose later stages then keep their initial parameters. Step, optimiser and random
    key stay those of ``state``. Raises CheckpointError for any other model, and for another
    window: the same image would have other values.
    """
    source, variables, theirs, meta = load_model(path)
    if reason := why_not(model, window, source, theirs):
        raise CheckpointError(f"{path} holds {reason}")
    if not difference(to_record(source), to_record(model)):
        chosen = variables
    else:
        old = split(variables) if isinstance(source, Cascade) else [variables]
        fresh = {"params": state.params}
        if state.batch_stats:
            fresh["batch_stats"] = state.batch_stats
        chosen = join([*old, *split(fresh)[len(old) :]])
    chosen = jax.tree.map(np.asarray, chosen)
    ema = None if state.ema is None else jax.tree.map(np.copy, chosen["params"])
    started = state.replace(
        params=chosen["params"],
        batch_stats=chosen.get("batch_stats", {}),
        ema=ema,
        ema_stats=None if ema is None else jax.tree.map(np.copy, chosen.get("batch_stats")),
    )
    return started, meta["digest"]


def why_not(model, window: Window, source, theirs: Window) -> str:
    """Why a training of ``model`` can't start from ``source``, trained at the window ``theirs``.

    Empty where it can: the same model, or a single stage or shorter cascade that it begins with.
    """
    if theirs != window:
        return (
            f"parameters for the window {theirs}, and {window} is to be trained: choose the same "
            "window"
        )
    where = difference(to_record(source), to_record(model))
    if where and not (isinstance(model, Cascade) and _begins_with(model, source)):
        return (
            f"another model than the one to be trained: {where}; start from a checkpoint of the "
            "same model"
        )
    return ""


def _begins_with(model: Cascade, source) -> bool:
    stages = source.stages if isinstance(source, Cascade) else (source,)
    own = model.stages[: len(stages)]
    return 0 < len(stages) < len(model.stages) and not difference(to_record(stages), to_record(own))

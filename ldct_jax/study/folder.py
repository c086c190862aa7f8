"""What a study's folder holds already, and whether a command can go on there."""

from __future__ import annotations

from collections.abc import Sequence

from ldct_jax.data.splits import Split
from ldct_jax.errors import CheckpointError
from ldct_jax.study import results
from ldct_jax.study.plan import Plan
from ldct_jax.study.scoring import Scorer
from ldct_jax.user_script import names_own, script_record

ANOTHER = "choose another folder (--out, or OUT= of make), or remove it"


def check_begun(plan: Plan) -> None:
    """Raise CheckpointError where the folder holds what can't go on, as far as no data tell it."""
    path = plan.folder / results.STUDY
    if path.exists() and (scale := results.read_json(path)["scale"]["name"]) != plan.scale.name:
        raise CheckpointError(
            f"{plan.folder} holds runs of the {scale} scale, and this is the {plan.scale.name} "
            f"scale: {ANOTHER}"
        )
    for name, experiment in plan.experiments.items():
        if not names_own(experiment.record()):
            continue
        for repeat in range(len(plan.splits)):
            folder, now = plan.run_folder(name, repeat), script_record()
            begun = next(folder.glob("checkpoints/last/[0-9]*"), None)
            if begun is None or (folder / results.RESULT).exists():
                continue
            code = results.read_json(folder / "config.json")["record"].get("code")
            if code is not None and code["sha256"] != now["sha256"]:
                raise CheckpointError(
                    f"{now['file']} was changed since the training in {folder} began (sha256 "
                    f"{code['sha256'][:16]}, now {now['sha256'][:16]}): go on with the copy of "
                    f"{code['file']} that lies there, or {ANOTHER}"
                )


def check_others(plan: Plan, scorer: Scorer, splits: Sequence[Split]) -> None:
    """Raise CheckpointError where rows that aren't asked for now can't share one table.

    Those that are asked for are compared where they are run, and scored again where needed.
    ``splits``: those of the folder, one a repeat.
    """
    every = plan.study.rows(plan.request.scale)
    asked = {plan.run_folder(n, i) for n in plan.experiments for i in range(len(plan.splits))}
    for path in sorted(plan.folder.glob(f"*/{results.RESULT}")):
        result = results.read_json(path)
        if path.parent in asked or result["variant"] not in every:
            continue
        same = result["repeat"] < len(splits)
        if same:
            split = splits[result["repeat"]]
            key = scorer.key(split, plan.protocol)
            trained = result["record"].get("split", {}).get("train", list(split.train))
            same = result.get("scored_by", key) == key and trained == list(split.train)
        if not same:
            raise CheckpointError(
                f"{path.parent} was trained or scored on other patients, slices or doses than "
                f"this command asks for, and one table can't hold both: ask for all rows "
                f"(without --variant, with as many --seeds), or {ANOTHER}"
            )

"""``ldct serve``: a DICOM node that receives series, denoises them and sends the results on."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import click

from ldct_jax.cli.options import Number, code_option, quality_option, texture_option
from ldct_jax.errors import LdctError, UsageError


@click.command()
@click.option(
    "--spool",
    required=True,
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Where series wait.",
)
@click.option("--send", metavar="AE@HOST:PORT", help="Where results go.")
@click.option(
    "--out",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="A folder for the results, instead of --send.",
)
@click.option("--port", default=11112, show_default=True, type=click.IntRange(0, 65535))
@click.option("--ae-title", default="LDCT", show_default=True, help="Our AE title.")
@click.option(
    "--from",
    "callers",
    multiple=True,
    metavar="AE@HOST[:PORT]",
    help="Who may call [programs on this machine].",
)
@click.option("--model", metavar="M", help="Checkpoint, artefact, or filter [the shipped model].")
@texture_option
@quality_option
@click.option("--blend", default=1.0, show_default=True, help="Share of the result in the output.")
@click.option("--strict", is_flag=True, help="Fail series of which 'denoise' would only warn.")
@click.option(
    "--rules",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="TOML: which series are denoised, what happens to the others.",
)
@click.option(
    "--quiet",
    type=Number(0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="A series is complete when nothing came for so long.",
)
@click.option(
    "--keep-free",
    type=Number(0),
    default=2.0,
    show_default=True,
    metavar="GB",
    help="Refuse new images when the disk has less left.",
)
@click.option(
    "--keep-failed",
    type=Number(0),
    default=7.0,
    show_default=True,
    metavar="DAYS",
    help="How long failed series are kept.",
)
@click.option("--status", is_flag=True, help="Say what waits in the spool, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print the status as JSON.")
@code_option
def serve(spool, status, as_json, **settings):
    """Receive CT series by C-STORE, denoise them, and send the derived series on.

    Every image is on the disk before its sender is told of success; the same command goes on
    after any interruption. For research only; the node is not an archive.

    \b
    Example:
      ldct serve --spool /data/spool --from SCANNER@10.0.0.5 --send PACS@10.0.0.9:104
      ldct serve --spool /data/spool --status
    """
    if status:
        _status(spool, as_json)
    else:
        _serve(spool, **settings)


def _serve(
    spool,
    send,
    out,
    port,
    ae_title,
    callers,
    model,
    texture,
    quality,
    blend,
    strict,
    rules,
    quiet,
    **keep,
):
    try:
        import pynetdicom  # noqa: F401
    except ImportError:
        raise LdctError("pynetdicom is not installed: pip install 'ldct-jax[serve]'") from None
    from ldct_jax.denoise.models import find
    from ldct_jax.denoise.run import Options
    from ldct_jax.serve.node import Listening, Node
    from ldct_jax.serve.peer import ToFolder, ToPeer, parse_peer
    from ldct_jax.serve.rules import read_rules
    from ldct_jax.serve.spool import Spool
    from ldct_jax.serve.worker import Worker
    from ldct_jax.system.files import locked

    if (send is None) == (out is None):
        raise UsageError("say where results go: --send AE@HOST:PORT or --out FOLDER")
    if out and spool.resolve() in (out.resolve(), *out.resolve().parents):
        raise UsageError(f"--out {out} must not lie in the spool")
    deliver = ToFolder(out) if out else ToPeer(parse_peer(send, needs_port=True), ae_title)
    peers = tuple(parse_peer(c, needs_port=False) for c in callers)
    found = find(model).chosen(texture=texture, quality=quality)
    options, chosen = Options(blend=blend, strict=strict), read_rules(rules)
    with locked(spool):
        if found.needs_jax:
            from ldct_jax.system import accelerator

            accelerator.start()
        store = Spool(spool, keep_free=int(keep["keep_free"] * 1e9))
        worker = Worker(
            store,
            found.open(),
            deliver,
            options=options,
            rules=chosen,
            log=_log,
            keep_s=keep["keep_failed"] * 86400,
        )
        node = Node(Listening(port, ae_title, peers, quiet), store, worker, _log)
        node.start()
        who = "callers named by --from" if callers else "programs on this machine"
        _log(f"listening on port {node.port} as {ae_title} for {who}")
        while node.is_alive:  # a signal ends this, see ldct_jax.cli.main
            time.sleep(0.5)
    raise LdctError("a thread of the node has ended; nothing is lost: start it again")


def _log(text: str) -> None:
    click.echo(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", err=True)


def _status(spool: Path, as_json: bool) -> None:
    from ldct_jax.serve.spool import counts
    from ldct_jax.serve.worker import STATE
    from ldct_jax.system.files import locked
    from ldct_jax.system.tables import plain_table

    if not (spool / "receiving").is_dir():
        raise UsageError(f"{spool} is not the spool of a node")
    try:
        with locked(spool):
            running = False
    except LdctError:
        running = True
    found = counts(spool)
    state = json.loads((spool / STATE).read_text()) if (spool / STATE).exists() else {}
    free = shutil.disk_usage(spool).free
    if as_json:
        states = {k: {"series": s, "instances": n} for k, (s, n) in found.items()}
        click.echo(
            json.dumps(
                {"running": running, "states": states, "delivery": state, "free_bytes": free},
                indent=1,
            )
        )
        return
    click.echo(f"the node is {'running' if running else 'not running'}; {free / 1e9:.1f} GB free")
    click.echo(
        plain_table(
            ("state", "series", "instances"), [(k, str(s), str(n)) for k, (s, n) in found.items()]
        )
    )
    if state:
        click.echo(f"delivery: {state['why']}; next try {state['next_try']}")

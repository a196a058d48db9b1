"""The command that hands a run to other programs and other people."""

from __future__ import annotations

from pathlib import Path

import click

from rys_gguf.cli.options import FILE, force_option, needs
from rys_gguf.cli.output import TextOutput, echo, say


@click.command()
@needs("an export", "msgspec", "scipy")
@click.argument("run", type=FILE)
@click.option(
    "--optuna",
    "storage",
    metavar="URL",
    help="Add the run as a study to this storage of Optuna, such as sqlite:///sweep.db.",
)
@click.option(
    "--scan",
    type=FILE,
    help="Write what each window did to this file, without questions and answers.",
)
@force_option
def export(run: Path, storage: str | None, scan: Path | None, force: bool) -> None:
    """Hand a sweep on: to Optuna's dashboard, or as a small file to share.

    In Optuna each window is a trial, with its gain after each round. A scan holds the effects of
    all windows, their intervals and the model's hash.
    """
    from rys_gguf.runs.storage import Run

    if storage is None and scan is None:
        raise click.UsageError("say what to make: --optuna URL or --scan FILE")
    opened = Run.open(run)
    if scan is not None:
        from rys_gguf.runs.scan import encode_scan
        from rys_gguf.stats.scan import scan_of

        output = TextOutput.named(scan, [], force=force)
        output.write(encode_scan(scan_of(opened)))
        echo([str(output.path)])
    if storage is not None:
        from rys_gguf.report.optuna_study import export_study

        name = export_study(opened, storage, force=force)
        say(f"study '{name}' added; to look at it: optuna-dashboard STORAGE")

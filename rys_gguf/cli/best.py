"""What follows a sweep: the command that writes its best window, or the finished variant itself."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rys_gguf.checks.ladder import n_steps
from rys_gguf.checks.ladder import validate as climb
from rys_gguf.checks.variant import VariantPair
from rys_gguf.cli.card import card_text, read_validation
from rys_gguf.cli.output import TextOutput, echo, say
from rys_gguf.cli.progress import Progress
from rys_gguf.cli.prove import report_path, rung_line
from rys_gguf.engines.base import EngineOptions
from rys_gguf.errors import InvalidOptions, OutputFailed, RysError
from rys_gguf.formats.model import Model
from rys_gguf.hub.caches import outside_caches
from rys_gguf.layers.schedule import Schedule
from rys_gguf.patch.naming import default_output
from rys_gguf.patch.plan import make_plan
from rys_gguf.patch.writer import write_plan
from rys_gguf.report.sentences import apply_command, swept_schedule
from rys_gguf.stats.evidence import RunData
from rys_gguf.stats.verdict import BETTER, Verdict
from rys_gguf.text import printable

CARD = "README.md"


def best_of(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The best window that is better than the base; without one, the finalist that did best."""
    better = (v for v in verdicts if v.judgement.word == BETTER)
    return next(better, verdicts[0] if verdicts else None)


def why_nothing(best: Verdict | None) -> str | None:
    """Why no variant is written; None if one is."""
    if best is None:
        return "no window has come as far as the held-out items"
    if best.judgement.word != BETTER:
        spec = printable(best.trial.candidate.spec)
        return f"the verdict on the best finalist, {spec}, is '{best.judgement.word}'"
    return None


def conclude(
    verdicts: Sequence[Verdict],
    run: RunData,
    model: Path,
    engine: EngineOptions,
    folder: BestFolder | None,
    log_file: Path | None,
) -> None:
    """End a sweep: write its best window to a folder if it is better, or say how to write it."""
    best = best_of(verdicts)
    reason = why_nothing(best)
    if folder is not None and best is not None and reason is None:
        with Progress(log_file) as progress:
            paths = folder.write(best, run, model, engine, progress)
        echo(map(str, paths))
        return
    if folder is not None:
        say(f"nothing was written: {reason}")
    if best is not None:
        say(f"to write {printable(best.trial.candidate.spec)} ({best.judgement.word}):")
        echo([apply_command(best, str(model), swept_schedule(run.info))])


@dataclass(frozen=True, slots=True)
class BestFolder:
    """A new folder for the best window: its model, its validation and its card."""

    path: Path
    is_named: bool

    @classmethod
    def of(cls, given: Path | None, model: Path) -> BestFolder:
        """The folder that the user named, or MODEL.best."""
        default = outside_caches(model.with_name(model.name + ".best"))
        return cls(given or default, is_named=given is not None)

    def require(self, run: Path) -> None:
        """Raise now for what would stop `write` after hours of work; `run` is the run's folder."""
        name = printable(self.path)
        if self.path.is_symlink() and not self.is_named:
            raise OutputFailed(f"{name}: is a link; remove it, or name a folder with --write-best")
        if self.path.resolve() == run.resolve():
            raise InvalidOptions(f"{name}: is the run's folder; name another one for --write-best")
        try:
            is_free = not self.path.exists() or not any(self.path.iterdir())
        except OSError as e:
            raise OutputFailed(f"{name}: cannot write here: {e.strerror}") from e
        if not is_free:
            raise OutputFailed(
                f"{name}: exists already and is not empty; remove it, or name another folder"
            )
        if not self.path.parent.is_dir():
            raise OutputFailed(f"{printable(self.path.parent)}: there is no such folder")

    def write(
        self,
        best: Verdict,
        run: RunData,
        model: Path,
        engine: EngineOptions,
        progress: Progress,
    ) -> list[Path]:
        """Write, verify, prove and smoke the window and make its card; returns the files.

        If anything stops this, nothing of it stays. Only a variant that fails a check does, with
        the report that says why: RysError is raised then.
        """
        with self._made():
            variant = self._write_variant(best, model, swept_schedule(run.info), progress)
            pair = VariantPair(variant, model, best.trial.candidate.layer_map)
            progress.begin("validate", n_steps(pair))
            climbed = climb(
                pair, engine,
                done=lambda rung: progress.say(rung_line(rung)), progress=progress.advance,
            )  # fmt: skip
            report = report_path(variant)
            TextOutput.named(report, [variant, model], force=False).write(climbed.dump())
            card = self.path / CARD
            if climbed.passed:
                text = card_text(variant, model, None, run, read_validation(report))
                TextOutput.named(card, [variant, model], force=False).write(text)
        if not climbed.passed:
            last = climbed.rungs[-1]
            raise RysError(
                f"{printable(variant)}: {last.name} failed: {last.shows}. The file is not to be "
                f"used; {printable(report.name)} beside it has the details"
            )
        return [variant, report, card]

    def _write_variant(
        self, best: Verdict, source: Path, schedule: Schedule, progress: Progress
    ) -> Path:
        with Model(source) as model:
            plan = make_plan(model, best.trial.candidate.layer_map, schedule=schedule)
            path = self.path / default_output(model, plan.layer_map).name
            progress.begin(path.name, plan.n_bytes, "B")
            write_plan(plan, path, progress=progress.advance, may_be_link=False)
        return path

    @contextlib.contextmanager
    def _made(self) -> Iterator[None]:
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as e:
            raise OutputFailed(f"{printable(self.path)}: cannot write here: {e.strerror}") from e
        try:
            yield
        except BaseException:
            # The folder was empty. The same command finds it so again.
            shutil.rmtree(self.path, ignore_errors=True)
            raise

"""A run as a study of Optuna, so that optuna-dashboard and other tools of its world open it.

A trial is a candidate. Its value is the soft score over the base that it is ranked by, a fraction
of 1, and its intermediate values are the same after each round. It is complete if it was asked as
many rounds as any candidate, failed where an error ended it, and pruned otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rys_gguf.errors import OutputFailed
from rys_gguf.extras import load, require
from rys_gguf.layers.blocks import BLOCK, LAYER, Form
from rys_gguf.report.content import Content
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.stage import Status
from rys_gguf.stats.evidence import RunData
from rys_gguf.stats.ranking import rank
from rys_gguf.stats.verdict import Rank, Verdict
from rys_gguf.text import printable

_TASK = "the export to Optuna"


def export_study(run: RunData, storage: str, *, force: bool = False) -> str:
    """Add a run to a storage of Optuna, such as sqlite:///sweep.db; returns the study's name.

    A study of that name is replaced with `force` only. Raises OutputFailed, and RysError for a run
    without a base or a missing package.
    """
    require(_TASK, "optuna", "scipy")
    content = Content.of(run)
    name = f"rys-gguf {printable(run.info.run_id)}"
    optuna = load(_TASK, "optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if force and name in optuna.get_all_study_names(storage):
            optuna.delete_study(study_name=name, storage=storage)
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        try:
            for key, value in _about(content).items():
                study.set_user_attr(key, value)
            study.add_trials(list(_trials(content)))
        except BaseException:
            optuna.delete_study(study_name=name, storage=storage)
            raise
    except optuna.exceptions.DuplicatedStudyError as e:
        raise OutputFailed(f"the storage has a study {name!r} already; --force replaces it") from e
    except _errors_of(optuna) as e:
        # Not the storage's address, which may hold a password.
        line = str(e).partition("\n")[0]
        raise OutputFailed(
            f"Optuna cannot write this storage: {printable(line)}; expected an address such as "
            f"sqlite:///sweep.db"
        ) from e
    return name


def _errors_of(optuna: Any) -> tuple[type[Exception], ...]:
    database = load(_TASK, "sqlalchemy.exc")
    # A driver that is missing, and addresses that are none.
    own = (ImportError, ValueError, OSError)
    return (*own, optuna.exceptions.OptunaError, database.SQLAlchemyError)


def _about(content: Content) -> dict[str, Any]:
    """What the run knows about itself, as attributes of the study."""
    info = content.evidence.info
    model = info.identity.get("model")
    return {
        "model": printable(info.model.name),
        "model_sha256": printable(str(model.get("sha256"))) if isinstance(model, Mapping) else "",
        "architecture": printable(info.model.architecture),
        "n_layers": info.model.n_layers,
        "suite": printable(str(info.identity.get("suite"))),
        "heldout": printable(str(info.identity.get("heldout"))),
        "run_id": printable(info.run_id),
        "rys_gguf": printable(info.rys_gguf),
    }


def _trials(content: Content) -> Iterator[Any]:
    """A frozen trial for each candidate, in the order of the log."""
    evidence = content.evidence
    make = load(_TASK, "optuna.trial")
    values = {
        number: {
            r.trial.key: r.value
            for r in rank(evidence.base, evidence.windows, number).order
            if r.n_rounds == number and r.n_items
        }
        for number in (stage.number for stage in evidence.rounds)
    }
    space = _Space.of(content)
    judged = {v.trial.key: v for v in content.verdicts}
    ranks = {r.trial.key: r for r in content.ranking.ranks}
    for trial in evidence.windows:
        steps = {n: of[trial.key] for n, of in values.items() if trial.key in of}
        failed = trial.ending is not None and trial.ending.status is Status.FAILED
        is_last = bool(steps) and max(steps) == max(values)
        state = "FAIL" if failed else "COMPLETE" if is_last else "PRUNED"
        yield make.create_trial(
            state=make.TrialState[state],
            value=None if failed or not steps else steps[max(steps)],
            params=space.params(trial.candidate),
            distributions=space.distributions(trial.candidate),
            intermediate_values=steps,
            user_attrs=_attributes(ranks[trial.key], judged.get(trial.key)),
        )


class _Space:
    """The parameters of candidates: those of a window, and `spec` of any other map.

    A window has `start` and `length`, and where the run tries several forms also `passes` (in all)
    and `mode`.
    """

    def __init__(self, n_layers: int, forms: tuple[Form, ...], others: tuple[str, ...]) -> None:
        make = load(_TASK, "optuna.distributions")
        self._all = {
            "start": make.IntDistribution(0, n_layers - 1),
            "length": make.IntDistribution(1, n_layers),
        }
        if len(forms) > 1:
            passes = [form.n_passes for form in forms]
            self._all["passes"] = make.IntDistribution(min(passes), max(passes))
            self._all["mode"] = make.CategoricalDistribution((BLOCK, LAYER))
        if others:
            self._all["spec"] = make.CategoricalDistribution(others)

    @classmethod
    def of(cls, content: Content) -> _Space:
        """The space of a run's candidates."""
        candidates = [trial.candidate for trial in content.evidence.windows]
        others = (printable(c.spec) for c in candidates if c.window is None)
        forms = (block.form for c in candidates if c.window for block in c.blocks)
        n_layers = content.evidence.info.model.n_layers
        return cls(n_layers, tuple(dict.fromkeys(forms)), tuple(dict.fromkeys(others)))

    def params(self, candidate: Candidate) -> dict[str, int | str]:
        """A candidate's parameters."""
        if candidate.window is None:
            return {"spec": printable(candidate.spec)}
        (block,) = candidate.blocks
        params: dict[str, int | str] = {"start": block.start, "length": block.stop - block.start}
        if "passes" in self._all:
            mode = LAYER if block.form.by_layer else BLOCK
            params |= {"passes": block.form.n_passes, "mode": mode}
        return params

    def distributions(self, candidate: Candidate) -> dict[str, Any]:
        """What each of them could have been."""
        return {name: self._all[name] for name in self.params(candidate)}


def _attributes(rank: Rank, verdict: Verdict | None) -> dict[str, Any]:
    trial = rank.trial
    ending = trial.ending
    found: dict[str, Any] = {
        "spec": printable(trial.candidate.spec),
        "added_layers": trial.candidate.n_added,
        "reached": str(trial.reached or ""),
        "status": ending.status.value if ending else Status.OK.value,
        "reason": printable((ending.reason or "") if ending else ""),
        "n_items": rank.n_items,
        "divergence": trial.measures.get("kl"),
    }
    for name, gain in rank.gains.items():
        found[f"gain {printable(name)}"] = gain.mean
        found[f"error {printable(name)}"] = gain.error
    if verdict is not None:
        overall = verdict.judgement.overall
        found |= {
            "verdict": verdict.judgement.word,
            "held_out": overall.estimate,
            "held_out_low": overall.likely.low,
            "held_out_high": overall.likely.high,
        }
    return {k: v for k, v in found.items() if v not in ("", None)}

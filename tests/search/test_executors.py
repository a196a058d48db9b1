"""Each executor keeps to the contract; threads, GPUs and jobs are divided; Ray stays local."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from rys_gguf.engines.base import LIVE, EngineOptions
from rys_gguf.errors import RysError
from rys_gguf.search.executors import local, ray_cluster
from rys_gguf.search.executors.base import JobLists, MakeExecutor
from rys_gguf.search.executors.local import shares_of
from rys_gguf.search.worker import cheapest_order
from tests import tiny
from tests.listening import descendants, listening_ports
from tests.search.executor_contract import (
    N_WORKERS,
    SCRIPTED,
    WINDOWS,
    ExecutorContract,
    jobs,
)
from tests.search.fakes import scripted_setup

# Not imported to find out: a local Ray has to be told to stay local before that.
NEEDS_RAY = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")


class TestLocal(ExecutorContract):
    """Threads of this process."""

    def factory(self) -> MakeExecutor:
        """Two threads."""
        return local.factory(EngineOptions(), N_WORKERS, hosts=SCRIPTED)


@pytest.fixture(autouse=True)
def _workers_know_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's workers import nothing from the current folder, and the hosts here are of the tests."""
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


# A local Ray that stays until its standard input ends, for others to join by its address.
CLUSTER = """
import sys
from typing import Any
from rys_gguf.engines.base import EngineOptions
from rys_gguf.search.executors import ray_cluster

setup: Any = None
with ray_cluster.factory("local", 1, EngineOptions())(setup):
    import ray

    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""


@NEEDS_RAY
class TestRay(ExecutorContract):
    """Actors of a Ray cluster, which takes seconds to start and serves for all tests."""

    address: str

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _cluster(cls) -> Iterator[None]:
        ray_cluster.factory("local", 1, EngineOptions())  # chooses the token of this process
        with subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdout
            cls.address = process.stdout.readline().strip()
            yield

    def factory(self) -> MakeExecutor:
        """Two actors; more would fit on no machine here."""
        return ray_cluster.factory(self.address, N_WORKERS, EngineOptions(), hosts=SCRIPTED)


def test_jobs_that_follow_one_another_go_to_one_worker() -> None:
    """They cost it least; whoever is through takes from the end of the longest list."""
    lists = JobLists(jobs(*WINDOWS), 2)
    taken = [lists.take(0) for _ in range(5)]
    windows = [t.candidate.windows[0] for t in taken if t]
    assert windows == [*WINDOWS[:4], WINDOWS[7]]
    assert len(lists) == 3
    assert [t.candidate.windows[0] for _ in range(3) if (t := lists.take(1))] == [*WINDOWS[4:7]]
    assert lists.take(0) is None
    assert not lists


def test_windows_of_one_start_follow_one_another_in_a_live_engine() -> None:
    """They share a tail there; with files they are left in the order of the sampler."""
    mixed = jobs((0, 4), (1, 5), (0, 2), (1, 3))
    live = cheapest_order(mixed, EngineOptions(kind=LIVE))
    assert [job.candidate.windows for job in live] == [((0, 2),), ((0, 4),), ((1, 3),), ((1, 5),)]
    assert cheapest_order(mixed, EngineOptions()) == mixed


def test_threads_and_gpus_are_divided() -> None:
    """Each worker gets its part; a single worker keeps what was given."""
    four = shares_of(EngineOptions(), 2, ["0", "1", "2", "3"])
    assert dict(four[0].environment)["CUDA_VISIBLE_DEVICES"] == "0,2"
    assert dict(four[1].environment)["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert all(o.n_threads == max(1, (os.cpu_count() or 1) // 2) for o in four)
    assert dict(shares_of(EngineOptions(), 3, ["0"])[2].environment)["CUDA_VISIBLE_DEVICES"] == "0"
    own = EngineOptions(environment=(("GGML_TEST", "1"),))
    assert shares_of(own, 1, ()) == [own]
    assert dict(shares_of(own, 2, ["0", "1"])[1].environment)["GGML_TEST"] == "1"
    assert shares_of(EngineOptions(n_threads=3), 2, ())[0].n_threads == 3


# -- Ray -----------------------------------------------------------------------------------------


@NEEDS_RAY
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_local_ray_is_closed_to_others(tmp_path: Path) -> None:
    """Its processes take commands from whoever reaches them, so nobody else does.

    They listen on loopback, ask for a token that no command line shows, and keep their sockets in a
    folder that other users may not enter.
    """
    (tmp_path / "work").mkdir()
    setup = scripted_setup(tiny.write(tmp_path / "m.gguf", "llama", 12), tmp_path)
    make = ray_cluster.factory("local", 1, EngineOptions(), hosts=SCRIPTED)
    with make(setup) as executor:
        import ray

        list(executor.run(jobs(WINDOWS[0])))
        listening = {ip.removeprefix("::ffff:") for ip, _ in listening_ports(os.getpid())}
        token = os.environ["RAY_AUTH_TOKEN"].encode()
        commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(os.getpid())]
        node: Any = ray._private.worker.global_worker.node
        session = Path(node.get_session_dir_path())
        mode = session.parent.parent.stat().st_mode
        address = ray.get_runtime_context().gcs_address
        # Ray asks twenty times, once a second.
        other = {"RAY_AUTH_TOKEN": "0" * 64, "RAY_NUM_REDIS_GET_RETRIES": "2"}
        stranger = subprocess.run(
            [sys.executable, "-c", STRANGER, address],
            env={**os.environ, **other}, capture_output=True, text=True,
        )  # fmt: skip
    assert any(b"raylet" in command for command in commands)
    assert listening <= {"127.0.0.1", "::1"}
    assert not any(token in command for command in commands)
    assert stat.S_IMODE(mode) == 0o700
    assert not session.parent.parent.exists()
    assert "AuthenticationError" in stranger.stderr
    assert "connected" not in stranger.stdout


STRANGER = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print("connected")
"""

# What a program does that calls a sweep with --ray, in a folder that holds other modules.
DRIVER = """
import sys
from pathlib import Path
from rys_gguf.engines.base import EngineOptions
from rys_gguf.search.executors import ray_cluster
from tests.search.executor_contract import SCRIPTED, WINDOWS, jobs
from tests.search.fakes import scripted_setup

folder = Path(sys.argv[1])
setup = scripted_setup(folder / "m.gguf", folder)
with ray_cluster.factory("local", 1, EngineOptions(), hosts=SCRIPTED)(setup) as executor:
    print(len(list(executor.run(jobs(WINDOWS[0])))))
"""


@NEEDS_RAY
def test_workers_run_nothing_that_lies_in_the_current_folder(tmp_path: Path) -> None:
    """Ray would let them import from the folder in which the sweep was started."""
    (tmp_path / "work").mkdir()
    tiny.write(tmp_path / "m.gguf", "llama", 12)
    hostile = tmp_path / "models"
    hostile.mkdir()
    for name in ("gguf", "numpy", "msgspec", "json", "rys_gguf"):
        (hostile / f"{name}.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    script = tmp_path / "bin" / "driver.py"
    script.parent.mkdir()
    script.write_text(DRIVER)
    done = subprocess.run(
        [sys.executable, script, tmp_path],
        cwd=hostile,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert not (tmp_path / "mark").exists()
    assert done.stdout == "2\n", done.stderr


@NEEDS_RAY
def test_a_worker_larger_than_this_machine_is_refused(tmp_path: Path) -> None:
    """Before anything starts; with more workers than there is room for the others do the work."""
    with pytest.raises(RysError, match="a worker needs 999 CPUs"):
        ray_cluster.factory("local", 1, EngineOptions(), cpus=999)
    (tmp_path / "work").mkdir()
    setup = scripted_setup(tiny.write(tmp_path / "m.gguf", "llama", 12), tmp_path)
    n = (os.cpu_count() or 1) + 1
    with ray_cluster.factory("local", n, EngineOptions(), hosts=SCRIPTED)(setup) as executor:
        assert len(list(executor.run(jobs(*WINDOWS)))) == 2 * len(WINDOWS)
        assert len(list((tmp_path / "work").iterdir())) < n


@NEEDS_RAY
def test_no_cluster_is_one_message(tmp_path: Path) -> None:
    """One message names the address, and nothing is left running."""
    setup: Any = None
    make = ray_cluster.factory("127.0.0.1:1", 1, EngineOptions())
    with pytest.raises(RysError, match=r"no Ray cluster at '127\.0\.0\.1:1'"), make(setup):
        pass

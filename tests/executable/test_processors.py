"""Threads by default: a core has one, a container's quota limits them; files as Linux has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from forgec.backends.cpu import native

from forgec import processors
from forgec.processors import one_per_core, quota, useful_threads


@pytest.fixture
def eight(monkeypatch) -> None:
    monkeypatch.setattr(processors, "allowed", lambda: list(range(8)))


def _write(system: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (system / name).parent.mkdir(parents=True, exist_ok=True)
        (system / name).write_text(text + "\n")


def _siblings(lists: list[str]) -> dict[str, str]:
    return {
        f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list": text
        for number, text in enumerate(lists)
    }


@pytest.mark.parametrize(
    ("siblings", "first"),
    [
        (["0,4", "1,5", "2,6", "3,7"] * 2, [0, 1, 2, 3]),
        (["0-1", "0-1", "2-3", "2-3", "4-5", "4-5", "6-7", "6-7"], [0, 2, 4, 6]),
        (
            ["0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"],
            [0, 2, 4, 5, 6, 7],
        ),  # some cores have one processor
        ([str(number) for number in range(8)], list(range(8))),
        ([], list(range(8))),  # the system does not say
    ],
)
def test_a_thread_for_every_core(eight, tmp_path, siblings, first) -> None:
    _write(tmp_path, _siblings(siblings))
    assert one_per_core(tmp_path) == first
    assert useful_threads(tmp_path) == len(first)


@pytest.mark.parametrize(
    ("megahertz", "threads"),
    [
        ([4800, 4800, 3800, 3800, 3800, 3800, 2500, 2500], 6),  # fast, efficient and low-power cores
        ([4800, 4800, 4700, 4700, 3700, 3700, 3700, 3700], 8),
        ([3000] * 8, 8),
        ([], 8),
    ],
)
def test_no_thread_for_slow_cores(eight, tmp_path, megahertz, threads) -> None:
    _write(tmp_path, _siblings([str(number) for number in range(8)]))
    for number, most in enumerate(megahertz):
        _write(tmp_path, {f"sys/devices/system/cpu/cpu{number}/cpufreq/cpuinfo_max_freq": str(1000 * most)})
    assert useful_threads(tmp_path) == threads


def test_only_cores_that_the_process_may_use(monkeypatch, tmp_path) -> None:
    _write(tmp_path, _siblings(["0,4", "1,5", "2,6", "3,7"] * 2))
    monkeypatch.setattr(processors, "allowed", lambda: [2, 4, 6])
    assert one_per_core(tmp_path) == [2, 4]


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/self/cgroup": "0::/pod/box", "sys/fs/cgroup/pod/box/cpu.max": "350000 100000"}, 3.5),
        (
            {  # the group around it has less
                "proc/self/cgroup": "0::/pod/box",
                "sys/fs/cgroup/pod/box/cpu.max": "max 100000",
                "sys/fs/cgroup/pod/cpu.max": "50000 100000",
            },
            0.5,
        ),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
        (  # a container with the host's path in /proc
            {"proc/self/cgroup": "0::/docker/1234", "sys/fs/cgroup/cpu.max": "200000 100000"},
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/a\n3:cpu,cpuacct:/a\n1:name=systemd:/a:b",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "600000",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            6.0,
        ),
        ({"proc/self/cgroup": "0::/box", "sys/fs/cgroup/box/cpu.max": "none of it"}, None),
        ({}, None),
    ],
)
def test_quota(eight, tmp_path, files, limit) -> None:
    _write(tmp_path, files)
    assert quota(tmp_path) == limit
    assert useful_threads(tmp_path) == (8 if limit is None else max(1, int(limit)))


def test_they_are_the_default(monkeypatch) -> None:
    monkeypatch.delenv("FORGEC_THREADS", raising=False)
    assert native.threads_default() == useful_threads() >= 1

"""Faults that last for a while, each with the way back; a timer on the host takes it back should we die meanwhile."""

from collections.abc import Iterable

from drills.drill import Act
from drills.hosts import Host
from drills.scene import Scene

TABLE = "headrace_drill"
DEAD_MAN_S = 150
REDIS, POSTGRESQL = "redis-server.service", "postgresql@*"


def kill(group: str, unit: str) -> Act:
    """SIGKILL to every process of a unit, on every host of a group."""

    def fault(scene: Scene) -> None:
        for host in scene.of(group):
            host.signal(unit, "KILL")

    return fault


def freeze(host: Host, unit: str) -> None:
    """SIGSTOP to every process of a unit: they are there, and do nothing."""
    host.undo_later(DEAD_MAN_S, f"systemctl kill --kill-whom=all --signal=CONT {unit}")
    host.signal(unit, "STOP")


def thaw(host: Host, unit: str) -> None:
    """They go on where they were, if they are still there."""
    host.attempt(f"systemctl kill --kill-whom=all --signal=CONT '{unit}'")
    host.forget_undo()


def cut(host: Host, others: Iterable[Host], port: int) -> None:
    """Packets between a host and a port of others are dropped, both ways; neither side is told."""
    addresses = ", ".join(other.inside for other in others)
    host.undo_later(DEAD_MAN_S, f"nft delete table inet {TABLE}")
    host.sh(
        f"nft -f - <<'END'\n"
        f"table inet {TABLE} {{\n"
        f"  chain out {{ type filter hook output priority -300; ip daddr {{ {addresses} }} tcp dport {port} drop; }}\n"
        f"  chain in {{ type filter hook input priority -300; ip saddr {{ {addresses} }} tcp sport {port} drop; }}\n"
        f"}}\nEND"
    )


def mend(host: Host) -> None:
    """Packets pass again."""
    host.attempt(f"nft delete table inet {TABLE}")
    host.forget_undo()


def reset(host: Host, port: int) -> None:
    """Every connection to a port of a host is answered with a reset, for a second; new ones too."""
    host.sh(
        f"nft -f - <<'END'\n"
        f"table inet {TABLE} {{\n"
        f"  chain in {{ type filter hook input priority -300; tcp dport {port} reject with tcp reset; }}\n"
        f"}}\nEND\n"
        f"sleep 1.5\nnft delete table inet {TABLE}"
    )


CLOCK, CLOCK_UNIT = "/run/headrace-drill-clock", "/run/systemd/system/headrace-.service.d/90-drill-clock.conf"


def own_clock(host: Host) -> None:
    """Gives our units there a clock that can be set: containers have the machine's, which is not ours to set.

    libfaketime answers for the C library; the monotonic clock stays as it is, as in a real step.
    """
    host.sh(
        f"""
        command -v faketime >/dev/null || {{ apt-get update -qq; apt-get install -y -qq faketime; }} >/dev/null 2>&1
        fake=$(ls /usr/lib/*/faketime/libfaketimeMT.so.1)
        LD_PRELOAD=$fake FAKETIME=+0 FAKETIME_DONT_FAKE_MONOTONIC=1 python3 -c 'import time; time.sleep(0.01)' || {{
            echo "libfaketime breaks time.sleep() of this Python: leave this drill out, or upgrade to Debian 13" >&2
            exit 1
        }}
        echo +0 > {CLOCK}
        mkdir -p {CLOCK_UNIT.rpartition("/")[0]}
        cat > {CLOCK_UNIT} <<END
        [Service]
        Environment=LD_PRELOAD=$fake
        Environment=FAKETIME_TIMESTAMP_FILE={CLOCK} FAKETIME_CACHE_DURATION=1 FAKETIME_DONT_FAKE_MONOTONIC=1
END
        systemctl daemon-reload
        systemctl restart 'headrace-*.service'
        """,
        seconds=240,
    )


def set_clock(host: Host, seconds: int) -> None:
    """Let our units there have a time so far from the true one."""
    host.sh(f"echo {seconds:+d} > {CLOCK}.new; mv {CLOCK}.new {CLOCK}")


def common_clock(host: Host) -> None:
    """Its units have the host's clock again."""
    host.sh(f"rm -f {CLOCK_UNIT} {CLOCK}; systemctl daemon-reload; systemctl restart 'headrace-*.service'", 240)


def leader(scene: Scene, role: str) -> Host:
    """The host whose process leads a role now, as the ledger says."""
    holder = scene.django(f"from jobs.models import Leader; print(Leader.objects.get(role='{role}').holder)")
    return scene.hosts[holder.partition(":")[0]]

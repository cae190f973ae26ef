"""The local cluster with nothing but Docker: containers that are whole Debian hosts, with systemd and ssh.

    make cluster               bring the inventory's machines up and provision them
    make cluster ARGS=bare     bring them up, and leave them as a provider hands them out
    make cluster ARGS=status   what runs
    make cluster ARGS=down     nothing of it stays: containers, network

`vagrant up` makes the same machines, from the same inventory, and asks here for what it needs (`machines`, `ready`,
`welcome`, `tidy`). HEADRACE_CPU_WORKERS=3 adds cpu2 and cpu3; HEADRACE_INVENTORY=deploy/inventories/small is another
set of machines; HEADRACE_SUBNET=10.30.56.0/24 is another network for them. The first and the last hold until the
cluster is taken down.
"""

import argparse
import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from deploy import subnet

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv/bin"
STATE = ROOT / "var/cluster"
KEY = STATE / "id_ed25519"
SSH_CONFIG = STATE / "ssh_config"
INVENTORY = os.environ.get("HEADRACE_INVENTORY", "deploy/inventories/local")
NETWORK = "headrace"
LABEL = "headrace.cluster"
BOOT_S = 120

# What systemd needs to run a container as a host. Not --privileged: that asks for more than some machines can give.
HOST_ARGS = [
    "--cgroupns=private",
    "--cap-add=SYS_ADMIN",
    "--cap-add=NET_ADMIN",
    "--cap-add=SYS_PTRACE",  # for units that have both PrivateUsers= and ProtectProc=, like Debian's Redis
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--tmpfs=/run",
    "--tmpfs=/run/lock",
]

Machine = dict[str, Any]
Machines = dict[str, Machine]


class ClusterError(RuntimeError):
    """The cluster cannot be brought up; the message says why, and what to do."""


def run(*argv: str | Path, check: bool = True) -> str:
    """The output of a program."""
    done = subprocess.run([str(arg) for arg in argv], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    if check and done.returncode != 0:
        raise ClusterError(f"{' '.join(map(str, argv[:3]))} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def say(text: str = "") -> None:
    print(text, flush=True)  # noqa: T201


def in_parallel(work: Callable[[str], object], names: Iterable[str]) -> None:
    """Do it for all machines at the same time; the first failure is raised when all have ended."""
    with ThreadPoolExecutor(max_workers=20) as pool:
        for future in [pool.submit(work, name) for name in names]:
            future.result()


def machines() -> Machines:
    """The inventory's hosts and their variables, by name; `machine_ip` is computed."""
    inventory = json.loads(run(BIN / "ansible-inventory", "-i", INVENTORY, "--list"))
    hosts: Machines = inventory["_meta"]["hostvars"]
    if not hosts:
        raise ClusterError(f"{INVENTORY} has no machines: name another inventory in HEADRACE_INVENTORY.")
    for name, host in hosts.items():
        for fact in ("machine_number", "machine_cores", "machine_memory_mb", "machine_release"):
            if fact not in host:
                raise ClusterError(f"{name} has no {fact} in {INVENTORY}: write it there.")
            if fact != "machine_release" and not (type(host[fact]) is int and host[fact] > 0):
                raise ClusterError(f"{name} has {fact}: {host[fact]!r} in {INVENTORY}: make it a whole number.")
        host["machine_ip"] = subnet.machine_address(host["machine_number"])
    return hosts


def up() -> None:
    """Everything, from whatever is there already."""
    bare()
    if subprocess.run(play("site.yml"), cwd=ROOT, check=False).returncode != 0:  # noqa: S603
        raise ClusterError("The machines are up, but the playbook failed: mend that, and repeat this command.")
    welcome()


def bare() -> None:
    """The machines, with nothing of ours on them unless it is there already."""
    began = time.monotonic()
    subprocess.run([ROOT / "deploy/prepare"], check=True)  # noqa: S603
    keep_choices()
    wanted = machines()
    write_ssh_config(wanted)
    ready()
    remove(set(containers()) - set(wanted))
    cores = spread_cores(wanted)
    in_parallel(lambda name: start(name, wanted[name], cores[name]), wanted)
    in_parallel(wait_until_up, wanted)
    say(f"{len(wanted)} machines are up after {time.monotonic() - began:.0f} s: {', '.join(sorted(wanted))}.")


def ready() -> None:
    """What the machines start from: their images, the key that opens them, their network.

    Raises:
        ClusterError: the cluster runs in another network.
        SubnetError: its network is not free.
    """
    for release in sorted({host["machine_release"] for host in machines().values()}):
        subprocess.run([ROOT / "deploy/images/machine/build", release], check=True)  # noqa: S603
    with one_at_a_time():
        make_network(subnet.subnet())


def make_network(wanted: IPv4Network) -> None:
    """Unless it is there already."""
    if found := run("docker", "network", "ls", "--quiet", f"--filter=label={LABEL}"):
        _, there = docker_networks(*found.split())[0]
        subnet.KEPT.write_text(str(there))  # whatever was asked for, this is where its machines are
        if there != wanted:
            raise ClusterError(
                f"The cluster runs in {there}, not in {wanted}: take it down first (make cluster ARGS=down), or leave "
                "HEADRACE_SUBNET out."
            )
        return
    used = docker_networks(*run("docker", "network", "ls", "--quiet").split())
    subnet.refuse_taken(wanted, [*used, *subnet.routed()])
    run("docker", "network", "create", f"--label={LABEL}", f"--subnet={wanted}", NETWORK)


def docker_networks(*ids: str) -> list[subnet.Used]:
    """The networks that Docker has, by its ids for them."""
    form = "--format={{.Name}}{{range .IPAM.Config}} {{.Subnet}}{{end}}"
    found = [line.split() for line in run("docker", "network", "inspect", form, *ids).splitlines()]
    named = [(name, network) for name, *networks in found for network in networks if ":" not in network]
    return [(f"Docker's network {name}", IPv4Network(network, strict=False)) for name, network in named]


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Vagrant calls this file for several machines at the same time; some things only one call may do."""
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def keep_choices() -> None:
    """Keep what the environment says of workers and network, for later commands: more_workers.py and subnet.py."""
    STATE.mkdir(parents=True, exist_ok=True)
    if said := os.environ.get("HEADRACE_CPU_WORKERS"):
        (STATE / "cpu_workers").write_text(said)
    subnet.KEPT.write_text(str(subnet.subnet()))


def containers() -> dict[str, str]:
    """State of each container of ours, by the name of its machine."""
    lines = run("docker", "ps", "--all", f"--filter=label={LABEL}", "--format={{.Names}} {{.State}}").splitlines()
    return {name.removeprefix("headrace-"): state for name, state in map(str.split, lines)}


def spread_cores(wanted: Machines) -> dict[str, str]:
    """The cores of this machine that each of ours may use: as many as its inventory says, spread evenly over all."""
    there = sorted(os.sched_getaffinity(0))
    given, used = {}, 0
    for name, host in sorted(wanted.items()):
        count = min(host["machine_cores"], len(there))
        if count < host["machine_cores"]:
            say(f"{name} should have {host['machine_cores']} cores, but this machine has {count}: it gets {count}.")
        given[name] = ",".join(str(there[(used + i) % len(there)]) for i in range(count))
        used += count
    return given


def start(name: str, host: Machine, cores: str) -> None:
    """Leave a container that runs, start one that is stopped, make one that is missing."""
    state = containers().get(name)
    if state == "running":
        return
    if state is not None:
        run("docker", "start", f"headrace-{name}")
        return
    arguments = container_arguments(name, host, cores)
    image = f"headrace-machine:{host['machine_release']}"
    run("docker", "run", "--detach", f"--name=headrace-{name}", *arguments, image)


def container_arguments(name: str, host: Machine, cores: str) -> list[str]:
    """The options that make a container this machine, for `docker run` and for Vagrant; both add its name."""
    return [
        *(f"--label={LABEL}", f"--hostname={name}", f"--network={NETWORK}", f"--ip={host['machine_ip']}"),
        *(f"--cpuset-cpus={cores}", f"--memory={host['machine_memory_mb']}m", *HOST_ARGS),
    ]


def wait_until_up(name: str) -> None:
    """Wait until systemd has started everything, nothing of it has failed, and ssh lets us in."""
    deadline = time.monotonic() + BOOT_S
    state = ""
    while state not in {"running", "degraded"} and time.monotonic() < deadline:
        state = run("docker", "exec", f"headrace-{name}", "systemctl", "is-system-running", "--wait", check=False)
        time.sleep(0.1)
    if state != "running":
        failed = run("docker", "exec", f"headrace-{name}", "systemctl", "--failed", "--no-legend", check=False)
        logs = run("docker", "logs", "--tail=5", f"headrace-{name}", check=False)
        raise ClusterError(f"{name} is {state or 'not up'} after its start: {failed or logs or 'its log is empty'}")
    while run(*ssh(name), "echo in", check=False) != "in":
        if time.monotonic() > deadline:
            raise ClusterError(f"{name} runs, but refuses our login: try {' '.join(map(str, ssh(name)))}")
        time.sleep(0.2)


def ssh(name: str) -> list[str | Path]:
    """The command that logs in to a machine; what follows it is run there."""
    return ["ssh", "-F", SSH_CONFIG.relative_to(ROOT), name]


def write_ssh_config(wanted: Machines) -> None:
    """Addresses and the key, so that a machine is reached by its name."""
    options = ["User vagrant", f"IdentityFile {KEY}", "IdentitiesOnly yes", "BatchMode yes", "LogLevel ERROR"]
    # the machines are often removed and made anew, with new host keys
    options += ["StrictHostKeyChecking no", "UserKnownHostsFile /dev/null"]
    blocks = [f"Host {name}\n  HostName {host['machine_ip']}\n" for name, host in sorted(wanted.items())]
    STATE.mkdir(parents=True, exist_ok=True)
    SSH_CONFIG.write_text("".join(blocks) + "Host *\n" + "".join(f"  {option}\n" for option in options))


def play(playbook: str) -> list[str | Path]:
    """The command that runs a playbook over our inventory."""
    return [BIN / "ansible-playbook", "-i", INVENTORY, f"playbooks/{playbook}"]


def welcome() -> None:
    """The plan, who may sign in, and what one can do next."""
    subprocess.run(play("plan.yml"), cwd=ROOT, check=True)  # noqa: S603
    run(*play("user.yml"))
    wanted = machines()
    rows = "\n".join(
        f"  {name:<10}{host['machine_ip']:<16}Debian {host['machine_release']}" for name, host in sorted(wanted.items())
    )
    secrets = ROOT / "var/secrets" / Path(INVENTORY).name
    (STATE / "README").touch(mode=0o600)
    (STATE / "README").write_text(
        f"The local cluster ({INVENTORY}):\n\n{rows}\n\n"
        f"  open         https://{edge_address()}/ (its certificate is {(secrets / 'edge.crt').relative_to(ROOT)})\n"
        f"  sign in      demo, {(secrets / 'login_demo').read_text().strip()}\n"
        f"  log in       {' '.join(map(str, ssh('NAME')))}\n"
        f"  provision    .venv/bin/ansible-playbook -i {INVENTORY} playbooks/site.yml\n"
        f"  host tests   .venv/bin/pytest tests/hosts --cluster running\n"
        f"  take down    make cluster ARGS=down (or vagrant destroy -f, where Vagrant brought it up)\n"
    )
    say((STATE / "README").read_text())


def edge_address() -> str:
    """Where browsers go."""
    inventory = json.loads(run(BIN / "ansible-inventory", "-i", INVENTORY, "--list"))
    return str(machines()[inventory["edge"]["hosts"][0]]["machine_ip"])


def for_vagrant() -> None:
    """The machines as the Vagrantfile needs them, as JSON."""
    STATE.mkdir(parents=True, exist_ok=True)
    keep_choices()
    if not KEY.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "headrace-cluster", "-f", KEY)
    wanted = machines()
    write_ssh_config(wanted)
    cores = spread_cores(wanted)
    arguments = {name: container_arguments(name, host, cores[name]) for name, host in wanted.items()}
    say(json.dumps({name: {**host, "create_args": arguments[name]} for name, host in wanted.items()}))


def status() -> None:
    """One line for each machine."""
    found = containers()
    for name, host in sorted(machines().items()):
        say(f"{name:<10}{host['machine_ip']:<16}{found.get(name, 'absent')}")


def remove(names: Iterable[str]) -> None:
    in_parallel(lambda name: run("docker", "rm", "--force", "--volumes", f"headrace-{name}"), names)


def down() -> None:
    """Remove the containers and their network; images and what is in var/ stay."""
    remove(containers())
    tidy()
    say("The cluster is gone.")


def tidy() -> None:
    """After the last machine, remove the network and what was kept about the cluster."""
    with one_at_a_time():
        if containers():
            return
        for network in run("docker", "network", "ls", "--quiet", f"--filter=label={LABEL}").split():
            run("docker", "network", "rm", network)
        for name in ("README", "cpu_workers", "subnet"):
            (STATE / name).unlink(missing_ok=True)


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="make cluster", description="The local cluster, in containers.")
    for_people = {"up": up, "bare": bare, "down": down, "status": status}
    commands = {**for_people, "machines": for_vagrant, "ready": ready, "welcome": welcome, "tidy": tidy}
    parser.add_argument("command", nargs="?", default="up", choices=commands, metavar=f"{{{','.join(for_people)}}}")
    try:
        commands[parser.parse_args().command]()
    except (ClusterError, subnet.SubnetError) as error:
        say(str(error))
        sys.exit(1)
    except subprocess.CalledProcessError:
        sys.exit(1)  # it has said why


if __name__ == "__main__":
    main()

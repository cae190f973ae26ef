"""No secret can be read by whoever should not: not in the list of processes, not in journals, not in open files."""

import subprocess

import pytest

from tests.clusters import STATE, Cluster

MODES = {
    "web": {"/etc/headrace": "750 root headrace", "/etc/headrace/web.env": "640 root headrace"},
    "workers": {"/etc/headrace/worker.env": "640 root headrace"},
    "beat": {"/etc/headrace/beat.env": "640 root headrace"},
    "edge": {"/etc/nginx/tls/headrace.key": "600 root root"},
    "broker": {"/etc/redis/users.acl": "640 root redis", "/etc/redis/redis.conf": "640 root redis"},
    "db": {"/etc/postgresql/17/main/pg_hba.conf": "640 postgres postgres"},
}

# Given to bash on standard input, so that looking for a secret does not itself put it into a list of processes.
SEARCH = r"""
umask 077
wanted=$(mktemp -p /run)
cat > "$wanted" <<'END'
{secrets}
END
for file in /proc/[0-9]*/cmdline; do
    tr '\0' ' ' < "$file" 2>/dev/null | grep -qFf "$wanted" && echo "process: $(tr '\0' ' ' < "$file" | cut -c1-80)"
done
journalctl --no-pager -o cat | grep -qFf "$wanted" && echo "journal"
find /etc /opt /var /usr/local /home /tmp /srv -xdev -type f -perm -o=r -size -10M -print0 2>/dev/null |
    xargs -0 grep -lFf "$wanted" 2>/dev/null | sed 's/^/readable by everybody: /'
grep -lFf "$wanted" "$wanted" > /dev/null || echo "the search itself is broken"
rm "$wanted"
"""


def test_files_with_secrets_are_closed(local: Cluster) -> None:
    for group, files in MODES.items():
        for name in local.groups[group]:
            for path, mode in files.items():
                assert local.on(name, f"stat -c '%a %U %G' {path}").strip() == mode, (name, path)


def test_each_unit_has_one_environment_file_and_none_in_its_unit(local: Cluster) -> None:
    name = local.groups["web"][0]
    for unit in local.units(name):
        show = local.on(name, f"systemctl show {unit} -p EnvironmentFiles,Environment")
        kind = unit.removeprefix("headrace-").removesuffix(".service")
        assert f"/etc/headrace/{kind}.env" in show
        assert "PASSWORD" not in show.upper()
        assert "SECRET" not in show.upper()


@pytest.fixture(scope="module")
def secrets(local: Cluster) -> list[str]:
    found = [path.read_text().split()[0] for path in local.secrets.iterdir() if path.suffix not in {".crt", ".key"}]
    key = (local.secrets / "edge.key").read_text().splitlines()[1]
    assert len(found) >= 5
    return [*found, key]


def test_no_secret_is_in_sight(local: Cluster, secrets: list[str]) -> None:
    script = SEARCH.replace("{secrets}", "\n".join(secrets))

    def search(name: str) -> str:
        command = ["ssh", "-F", str(STATE / "ssh_config"), name, "sudo bash -s"]
        return subprocess.run(command, input=script, capture_output=True, text=True, check=True, timeout=300).stdout

    assert local.everywhere(search) == dict.fromkeys(local.machines, "")


def test_secrets_on_the_controller_are_closed(local: Cluster, secrets: list[str]) -> None:
    for path in local.secrets.iterdir():
        assert path.suffix == ".crt" or path.stat().st_mode & 0o077 == 0, path
    shown = (local.secrets / "login_demo").read_text().split()[0]  # on purpose, to whoever brought the cluster up
    assert [secret for secret in secrets if secret != shown and secret in local.output] == []

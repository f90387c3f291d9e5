"""The guide's values run, and a file of ours gives them back at boot."""

FILE = "/etc/sysctl.d/99-zz-precog-fleet.conf"


def test_values_run(kernel):
    assert kernel["net.ipv4.tcp_rmem"] == "4096 65536 134217728"


def test_file_is_ours(host):
    file = host.file(FILE)
    assert (file.user, file.group, file.mode) == ("root", "root", 0o644)
    assert file.contains("net.ipv4.tcp_rmem")

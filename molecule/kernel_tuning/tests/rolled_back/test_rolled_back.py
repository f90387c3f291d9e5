"""Nothing of the role is left: neither its file nor its values."""

FILE = "/etc/sysctl.d/99-zz-precog-fleet.conf"


def test_file_is_gone(host):
    assert not host.file(FILE).exists


def test_original_values_run(kernel):
    assert kernel["net.ipv4.tcp_rmem"] != "4096 65536 134217728"

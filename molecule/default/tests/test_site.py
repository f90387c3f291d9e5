"""After site.yml: the hosts run the guide's values, and say so at the next boot too."""


def test_values_run(kernel):
    assert kernel["net.ipv4.tcp_rmem"] == "4096 65536 134217728"


def test_values_are_kept(host):
    assert host.file("/etc/sysctl.d/99-zz-precog-fleet.conf").contains("net.ipv4.tcp_rmem")


def test_psutil_is_there(host):
    assert host.package("python3-psutil").is_installed

"""What `export/docker-compose.yml` opens: gRPC, and REST only for who asks for it, on the machine itself."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PORTS = {8500: "--port=8500", 8501: "--rest_api_port=8501"}


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load((ROOT / "export" / "docker-compose.yml").read_text())["services"]


def published(service):
    return [mapping.rsplit(":", 2) for mapping in service["ports"]]


def options(service):
    return [*service["entrypoint"], *service.get("command", [])]


def test_without_a_profile_there_is_grpc_alone(services):
    started = [service for service in services.values() if "profiles" not in service]
    assert [int(inside) for service in started for _, _, inside in published(service)] == [8500]
    assert not any("rest_api" in option for service in started for option in options(service))


def test_ports_are_published_to_this_machine_alone_and_served(services):
    for service in services.values():
        for address, outside, inside in published(service):
            assert address == "127.0.0.1"
            assert outside == inside
            assert PORTS[int(inside)] in options(service)
    # Profiles are started beside each other.
    outside = [outside for service in services.values() for _, outside, _ in published(service)]
    assert sorted(outside) == ["8500", "8501"]


def test_files_that_it_mounts_are_there(services):
    for service in services.values():
        for source in (volume.rsplit(":", 2)[0] for volume in service["volumes"]):
            assert source.startswith("${SERVING_DIR") or (ROOT / "export" / source).is_file()

"""The health check tells trouble before a site meets it, and the stop before the port closes."""

import asyncio
import errno
import os
import sqlite3
import threading
import time

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from adpfl_server.daemon import SERVICE_NAME
from adpfl_server.operating import health
from adpfl_server.storage.trouble import probe

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def stub(consortium, monkeypatch):
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.1)
    consortium.start()
    return health_pb2_grpc.HealthStub(consortium.caller("hospital1").channel)


def answer(stub, service=SERVICE_NAME):
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status


def eventually(wanted, stub, service=SERVICE_NAME):
    until = time.monotonic() + 20
    while (found := answer(stub, service)) != wanted and time.monotonic() < until:
        time.sleep(0.05)
    assert found == wanted


@pytest.mark.parametrize("service", ["", SERVICE_NAME])
def test_a_disk_that_refuses_is_not_serving_until_it_works_again(stub, monkeypatch, service):
    assert answer(stub, service) == SERVING

    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    with monkeypatch.context() as broken:
        broken.setattr(health, "probe", full)
        eventually(NOT_SERVING, stub, service)
    eventually(SERVING, stub, service)


def test_a_database_that_refuses_shows_although_files_can_be_written(consortium, stub):
    daemon = consortium.running[-1]
    stop = threading.Event()

    def locked():
        raise sqlite3.OperationalError("database is locked")

    def keep_failing():
        while not stop.wait(0.02):
            asked = daemon.daemon.runner.in_database(locked)
            failed = asyncio.run_coroutine_threadsafe(asked, daemon._loop)
            assert isinstance(failed.exception(10), sqlite3.OperationalError)

    thread = threading.Thread(target=keep_failing)
    thread.start()
    try:
        eventually(NOT_SERVING, stub)
    finally:
        stop.set()
        thread.join()
    eventually(SERVING, stub)


def test_a_watcher_hears_of_the_stop(consortium, stub):
    watched = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE_NAME), timeout=30)
    assert next(watched).status == SERVING
    stopping = threading.Thread(target=consortium.running[-1].stop)
    stopping.start()
    assert next(watched).status == NOT_SERVING
    watched.cancel()
    stopping.join()


def test_the_probe_leaves_nothing_behind(tmp_path):
    (tmp_path / "blobs").mkdir()
    probe(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["blobs"]
    with pytest.raises(OSError, match="No such file"):
        probe(tmp_path / "absent")

"""Addresses at which no Ray cluster answers are told at once."""

import socket
import threading

import pytest
from installed import needs

from vertebra.cluster.ray_connection import connected
from vertebra.errors import UsageError, VertebraError

needs("ray")


@pytest.mark.parametrize("address", ["10.0.0.1", "ray://127.0.0.1:10001", "host:port"])
def test_what_is_no_address(address):
    with pytest.raises(UsageError, match="must be local, auto or HOST:PORT"), connected(address):
        pass


def test_where_nothing_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(VertebraError, match="Connection refused"), connected(f"127.0.0.1:{port}"):
        pass


def test_what_answers_is_something_else():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            opened, _ = server.accept()
            with opened:
                opened.recv(100)
                opened.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(VertebraError, match="is no Ray cluster"), connected(address):
            pass
        thread.join()


def test_a_folder_too_long_for_sockets_is_told(tmp_path, monkeypatch):
    folder = tmp_path / ("x" * 60)
    folder.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    with pytest.raises(VertebraError) as error, connected("local"):
        pass
    assert f"{folder}/ray (RAY_TMPDIR)" in str(error.value) and "such as RAY_TMPDIR=/tmp" in str(error.value)

"""A client that asks much and computes little: many connections in one process, requests made beforehand.

Run as a process of its own: `python _client.py JSON FILE`; what it got goes to the file as JSON. It shares the
cores with the server that it measures, so that it does nothing with an answer but read its status and its length.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

BOUNDARY = "vertebra-bench-boundary"


def request(host: str, path: str, photo: bytes, headers: dict[str, str], field: str = "files") -> bytes:
    """A whole HTTP request with one photo as a form's file."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="photo.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + photo + f"\r\n--{BOUNDARY}--\r\n".encode()
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Connection(asyncio.Protocol):
    """One client: asks, waits for the answer, asks again, until the time is over."""

    def __init__(self, run: Run, number: int) -> None:
        self.run = run
        self.number = number
        self.buffer = bytearray()
        self.sent = 0.0
        self.next_at = 0.0
        self.waiting = False
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        # Not all in the same millisecond.
        self.loop.call_later(self.run.pause * self.number / max(1, self.run.connections), self.ask)

    def ask(self) -> None:
        if self.run.over():
            self.transport.close()
            return
        self.sent = time.perf_counter()
        self.next_at = self.sent + self.run.pause
        self.waiting = True
        self.transport.write(self.run.requests[self.run.asked % len(self.run.requests)])
        self.run.asked += 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.buffer[:end]).lower()
        start = head.find(b"content-length:")
        length = int(head[start + 15 : (head + b"\r\n").find(b"\r\n", start)])
        if len(self.buffer) < end + 4 + length:
            return
        status = int(head[9:12])
        self.waiting = False
        self.run.answered(self.sent, status)
        if b"connection: close" in head:
            return
        self.buffer.clear()
        wait = self.next_at - time.perf_counter()
        if wait > 0:
            self.loop.call_later(wait, self.ask)
        else:
            self.ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.waiting:
            self.run.answered(self.sent, 0)
        self.run.closed(self.number)


class Run:
    """All clients of this process, and what they got."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.host, self.port = task["host"], task["port"]
        self.connections = task["connections"]
        self.seconds = task["seconds"]
        self.warm = task.get("warm", 0.0)
        self.pause = task.get("pause", 0.0)  # seconds between two requests of a client, at least
        photos = [Path(path).read_bytes() for path in task["photos"]]
        where = f"{self.host}:{self.port}"
        make = (where, task["path"])
        field = task.get("field", "files")
        self.requests = [request(*make, photo, task.get("headers", {}), field) for photo in photos]
        self.asked = task.get("offset", 0)
        self.results: list[tuple[float, int]] = []
        self.open = 0
        self.done = asyncio.Event()

    def over(self) -> bool:
        return time.perf_counter() >= self.stop

    def answered(self, sent: float, status: int) -> None:
        now = time.perf_counter()
        if self.begin <= now and sent < self.stop:
            self.results.append((now - sent, status))
            self.last = now

    def closed(self, number: int) -> None:
        if self.over():
            self.open -= 1
            if self.open <= 0:
                self.done.set()
        else:
            asyncio.get_running_loop().create_task(self.connect(number))

    async def connect(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        while not self.over():
            try:
                await loop.create_connection(lambda: Connection(self, number), self.host, self.port)
                return
            except OSError:
                await asyncio.sleep(0.05)
        self.closed(number)

    async def __call__(self) -> dict[str, Any]:
        self.begin = time.perf_counter() + self.warm
        self.stop = self.begin + self.seconds
        self.last = self.begin
        self.open = self.connections
        await asyncio.gather(*(self.connect(number) for number in range(self.connections)))
        await asyncio.wait_for(self.done.wait(), self.warm + self.seconds + 60)
        statuses: dict[str, int] = {}
        for _, status in self.results:
            statuses[str(status)] = statuses.get(str(status), 0) + 1
        return {
            "statuses": statuses,
            # Up to the last answer, so that what was on its way at the end is not counted as done in time.
            "seconds": self.last - self.begin,
            "latencies": [round(1000 * seconds, 2) for seconds, status in self.results if status == 200],
            "others": [round(1000 * seconds, 2) for seconds, status in self.results if status != 200],
        }


def main() -> None:
    task = json.loads(sys.argv[1])
    try:
        import uvloop

        runner = uvloop.run
    except ImportError:
        runner = asyncio.run

    async def work() -> dict[str, Any]:
        return await Run(task)()

    Path(sys.argv[2]).write_text(json.dumps(runner(work())))


if __name__ == "__main__":
    main()

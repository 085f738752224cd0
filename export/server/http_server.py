"""An HTTP/1.1 server on threads: connections, and the requests on each of them, one after the other."""

import contextlib
import io
import logging
import selectors
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from export.server.http_request import HttpError, HttpRequest, RequestReader
from export.server.http_response import HttpResponse

_LOG = logging.getLogger("export.serve")
_BACKLOG = 128
_MAX_CONNECTIONS = 256
_POLL_SECONDS = 0.1
_LINGER_SECONDS = 5.0
_LINGER_BODIES = 4  # the largest allowed bodies that are taken off the line after the last answer
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class HttpService(Protocol):
    """What answers the requests."""

    def answer(self, request: HttpRequest) -> HttpResponse:
        """Answers a request; called by several threads at once."""

    def refuse(self, error: HttpError, fields: Mapping[str, str]) -> HttpResponse:
        """Answers what is no request, as far as its header fields could be read."""


class HttpServer:
    """Answers over HTTP, from the moment it is made until `stop`.

    Args:
        sockets: bound, one for each address.
        service: what answers.
        max_body: larger bodies are refused with 413.
        idle_seconds: how long a connection may wait for its next request.
        request_seconds: how long a request may take to arrive, and an answer to be taken.

    Raises:
        OSError: somebody else has begun to listen there.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        service: HttpService,
        max_body: int,
        *,
        idle_seconds: float = 30.0,
        request_seconds: float = 60.0,
    ) -> None:
        self._service = service
        self._max_body = max_body
        self._idle_seconds = idle_seconds
        self._request_seconds = request_seconds
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # of the two below
        self._connections: set[socket.socket] = set()
        self._in_progress = 0
        self._selector = selectors.DefaultSelector()
        for each in sockets:
            each.listen(_BACKLOG)
            each.setblocking(False)  # a client may have gone between the call of `select` and that of `accept`
            self._selector.register(each, selectors.EVENT_READ)
        self._accepting = threading.Thread(target=self._accept, name="rest", daemon=True)
        self._accepting.start()

    def stop(self, grace: float) -> None:
        """Refuses new connections, waits up to `grace` seconds for the requests in progress, and ends the others."""
        self._stopping.set()
        self._accepting.join()
        end = time.monotonic() + grace
        while self._in_progress and time.monotonic() < end:
            time.sleep(0.01)
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):  # the client has ended it
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            for key, _ in self._selector.select(_POLL_SECONDS):
                try:
                    connection, _ = key.fileobj.accept()  # type: ignore[union-attr]
                except BlockingIOError:  # the client has gone again
                    continue
                except OSError:  # too many files are open
                    _LOG.warning("no connection can be accepted", exc_info=True)
                    time.sleep(_POLL_SECONDS)
                    continue
                self._start(connection)
        for listening in [key.fileobj for key in self._selector.get_map().values()]:
            listening.close()  # type: ignore[union-attr]
        self._selector.close()

    def _start(self, connection: socket.socket) -> None:
        """Gives a connection a thread, or refuses it where there are too many."""
        with self._lock:
            is_served = len(self._connections) < _MAX_CONNECTIONS
            if is_served:
                self._connections.add(connection)
        if is_served:
            threading.Thread(target=self._serve, args=(connection,), name="rest connection", daemon=True).start()
            return
        busy = HttpResponse.of_error(503, f"The server has {_MAX_CONNECTIONS} connections; try again later")
        with connection, contextlib.suppress(OSError):
            connection.setblocking(False)  # it fits into what the system keeps for a client
            connection.sendall(busy.to_bytes("close"))

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._serve_requests(connection)
            self._linger(connection)
        except OSError:  # the client has gone, or does nothing
            _LOG.debug("a connection failed", exc_info=True)
        finally:
            self._end(connection)

    def _serve_requests(self, connection: socket.socket) -> None:
        """Answers requests until the connection cannot or shall not be used any further."""
        source = _Source(connection)
        stream = io.BufferedReader(source, 1 << 16)
        reader = RequestReader(stream, self._max_body, lambda: connection.sendall(_CONTINUE))
        is_open = True
        while is_open:
            source.allow(self._idle_seconds)
            if not stream.peek(1):
                return
            source.allow(self._request_seconds)
            try:
                request = self._read(reader)
            except HttpError as error:
                connection.settimeout(self._request_seconds)
                connection.sendall(self._service.refuse(error, reader.fields).to_bytes("close"))
                return
            with self._progress():
                response = self._service.answer(request)
                is_open = request.keeps_alive and not self._stopping.is_set()
                kept = "keep-alive" if not request.minor_version else ""
                connection.settimeout(self._request_seconds)
                connection.sendall(response.to_bytes(kept if is_open else "close", with_body=request.method != "HEAD"))

    def _read(self, reader: RequestReader) -> HttpRequest:
        try:
            return reader.read()
        except TimeoutError as error:
            raise HttpError(408, f"The request has not arrived within {self._request_seconds:g} seconds") from error

    @contextlib.contextmanager
    def _progress(self) -> Iterator[None]:
        with self._lock:
            self._in_progress += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_progress -= 1

    def _linger(self, connection: socket.socket) -> None:
        """Takes off the line what the client still sends.

        It reads the answer only when it has sent all; and to close at once would take the answer from it.
        """
        connection.shutdown(socket.SHUT_WR)
        source = _Source(connection)
        source.allow(_LINGER_SECONDS)
        piece = bytearray(1 << 16)
        rest = _LINGER_BODIES * self._max_body
        while rest > 0 and (size := source.readinto(piece)):
            rest -= size

    def _end(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)
        connection.close()


class _Source(io.RawIOBase):
    """What a client sends, until a moment that moves on.

    Args:
        connection: to the client.
    """

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connection = connection
        self._end = 0.0

    def allow(self, seconds: float) -> None:
        """Lets it wait so long from now, all in all; `readinto` then raises `TimeoutError`."""
        self._end = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        rest = self._end - time.monotonic()
        if rest <= 0:
            raise TimeoutError
        self._connection.settimeout(rest)
        return self._connection.recv_into(buffer)

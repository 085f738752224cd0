"""The ports of a server, which are taken before anything else is done: models take their time to load."""

import errno
import socket

from beam_pipelines.format.errors import InputError

_OF_HOST = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""What is wrong with the address rather than the port."""


class Ports:
    """A port for gRPC and one for REST on all addresses of a host. Nobody listens there yet: who connects is refused.

    Args:
        host: an address of IPv4 or IPv6, or a name. `::` is all of this machine's, of IPv4 too where the system has it
            so.
        port: of gRPC; 0 takes a free one.
        rest_port: of REST; 0 takes a free one.

    Attributes:
        host: as above, without brackets around an address of IPv6.
        port: that of gRPC.
        rest_port: that of REST.

    Raises:
        InputError: one of them cannot be used.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 8500, rest_port: int = 8501) -> None:
        self.host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        for name, value in (("port", port), ("rest_port", rest_port)):
            if not 0 <= value <= 65535:
                raise InputError(f"`{name}` must be between 0 and 65535. Received: {value}")
        if port and port == rest_port:
            raise InputError(f"`port` and `rest_port` must differ. Received: {port} for both")
        self._rest: list[socket.socket] = []
        self._grpc: list[socket.socket] = []
        try:
            self._rest = _bind(self.host, rest_port, "rest_port")
            self._grpc = _bind(self.host, port, "port")
        except InputError:
            self.close()
            raise
        self.port: int = self._grpc[0].getsockname()[1]
        self.rest_port: int = self._rest[0].getsockname()[1]

    def take_rest(self) -> list[socket.socket]:
        """Hands over the bound sockets for REST."""
        sockets, self._rest = self._rest, []
        return sockets

    def take_grpc(self) -> str:
        """Gives up the port for gRPC, which binds by itself, and tells the address to bind."""
        self._close(self._grpc)
        return host_port(self.host, self.port)

    def close(self) -> None:
        """Gives up the ports that nobody has taken."""
        self._close(self._rest)
        self._close(self._grpc)

    def __enter__(self) -> "Ports":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _close(sockets: list[socket.socket]) -> None:
        while sockets:
            sockets.pop().close()


def host_port(host: str, port: int) -> str:
    """`host:port`, with brackets around an address of IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(host: str, port: int, name: str) -> list[socket.socket]:
    """Sockets of a port on the addresses of a host.

    Args:
        host: the host.
        port: the port; 0 for a free one, the same on all addresses.
        name: of the argument that the port is.

    Raises:
        InputError: one cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, ValueError) as error:  # no such host; no name at all
        reason = getattr(error, "strerror", None) or "it is no address and no name of a host"
        raise InputError(f"`host`: {host!r} cannot be resolved: {reason}") from error
    sockets: list[socket.socket] = []
    unusable: OSError | None = None
    for family, address in dict.fromkeys((each[0], each[4]) for each in found):
        try:
            sockets.append(_bound(family, (address[0], port, *address[2:])))
        except OSError as error:
            if error.errno in _OF_HOST:  # a machine may be without one of the two protocols
                unusable = error
                continue
            for each in sockets:
                each.close()
            raise InputError(f"`{name}`: cannot listen on {host_port(host, port)}: {error.strerror}") from error
        port = sockets[0].getsockname()[1]
    if unusable is not None and not sockets:
        raise InputError(f"`host`: cannot listen on {host}: {unusable.strerror}") from unusable
    return sockets


def _bound(family: int, address: tuple) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # although old connections are not forgotten yet
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound

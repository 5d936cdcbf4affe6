"""Mutual TLS between services."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from libs.common.errors import PreconditionError
from libs.common.unix import path_of

# An address that begins with it is spoken to by mutual TLS, with our own certificate.
TLS = "tls:"


@dataclass(frozen=True, slots=True)
class ServerTls:
    """Mutual TLS: both sides prove themselves with certificates of the same authority."""

    folder: Path
    service: str

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        """The key, its certificate, the authority's certificate."""
        files = (f"{self.service}.key", f"{self.service}.pem", "ca.pem")
        key, certificate, authority = (self.folder / file for file in files)
        return key, certificate, authority

    def _pem(self) -> tuple[bytes, bytes, bytes]:
        try:
            key, certificate, authority = (path.read_bytes() for path in self.paths)
        except OSError as error:
            files = ", ".join(path.name for path in self.paths)
            raise PreconditionError(
                f"The certificates cannot be read: {error.strerror}.",
                which=str(error.filename),
                next_step=f"BASALT_TLS names a folder with {files}.",
            ) from error
        return key, certificate, authority

    def credentials(self) -> grpc.ServerCredentials:
        key, certificate, authority = self._pem()
        return grpc.ssl_server_credentials(
            [(key, certificate)], root_certificates=authority, require_client_auth=True
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        key, certificate, authority = self._pem()
        return grpc.ssl_channel_credentials(authority, key, certificate)

    def client_context(self) -> ssl.SSLContext:
        """For HTTP/2 by asyncio, as gRPC does it."""
        self._pem()
        key, certificate, authority = self.paths
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(authority)
        context.load_cert_chain(certificate, key)
        context.set_alpn_protocols(["h2"])
        return context


def tls_between(address: str, tls: ServerTls | None) -> ServerTls | None:
    """Of `tls` what an address of a service takes: a Unix socket needs none."""
    return None if path_of(address) else tls


def tls_for(address: str, tls: ServerTls | None) -> ServerTls | None:
    """What an address asks for. Raises PreconditionError when we have no certificate for it."""
    if not address.startswith(TLS):
        return None
    if tls is None:
        raise PreconditionError(
            "Mutual TLS is asked for, and there is no certificate.",
            which="BASALT_TLS",
            next_step="Set BASALT_TLS to the folder of this service's certificate.",
        )
    return tls

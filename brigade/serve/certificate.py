"""A certificate and its key, looked at before a model is loaded: a refusal names the file that is at fault."""

from __future__ import annotations

import ssl
from pathlib import Path

from brigade.errors import ConfigError
from brigade.serve.handshake import tls_context

_WRITTEN = "give the certificate and its private key as PEM files"


def check_certificate(certificate: Path | None, key: Path | None) -> None:
    if certificate is None or key is None:
        return
    _read("--tls-cert", certificate, b"CERTIFICATE-----", "certificate")
    if b"ENCRYPTED" in _read("--tls-key", key, b"PRIVATE KEY-----", "private key"):
        raise ConfigError(
            f"--tls-key {key} cannot be used: it has a password, and nobody can be asked for it; give one without, as "
            "`openssl pkey -in FILE -out OTHER` writes it"
        )
    try:
        tls_context(certificate, key)
    except (OSError, ValueError) as error:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"--tls-key {key} cannot be used: it is not the key of the certificate {certificate}; give the one that it was "
                "made with"
            ) from error
        raise ConfigError(f"--tls-cert {certificate} with --tls-key {key} cannot be used ({error}); {_WRITTEN}") from error


def _read(option: str, file: Path, mark: bytes, what: str) -> bytes:
    try:
        found = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{option} {file} cannot be used: {error.strerror}; give a {what} in PEM") from error
    if mark not in found:
        raise ConfigError(f"{option} {file} cannot be used: it holds no {what} in PEM; give a file that does")
    return found

"""TLS of the connection to the broker, as configured."""

from __future__ import annotations

import ssl

from monitor.config import MqttConfig


def tls_context(config: MqttConfig) -> ssl.SSLContext:
    """TLS as configured.

    Raises:
        OSError, ssl.SSLError: A file cannot be read, or is not what it should be.
    """
    context = ssl.create_default_context(cafile=config.tls_ca_file)
    if config.tls_cert_file is not None:
        context.load_cert_chain(config.tls_cert_file, config.tls_key_file)
    if config.tls_insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context

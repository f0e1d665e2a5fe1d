"""Watches the Workload API with PyPI `spiffe` (gRPC C-core) and reports updates.

Speaks the same events and commands as `entente-peer workload-watch` in ../go: one JSON object a line on standard
output, one command a line on standard input, ending when that is closed.
"""

import argparse
import json
import sys
import threading

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from spiffe import JwtSource, JwtSvid, TrustDomain, WorkloadApiClient, X509Source

FIRST_UPDATE_SECONDS = 60
_lock = threading.Lock()


def emit(event, **body):
    """Writes one event line; events may come from several threads."""
    with _lock:
        sys.stdout.write(json.dumps({"event": event, **body}) + "\n")
        sys.stdout.flush()


def key_id(certificate, kind):
    """The subject or authority key identifier in hexadecimal, empty if there is none."""
    try:
        value = certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return ""
    identifier = value.digest if kind is x509.SubjectKeyIdentifier else value.key_identifier
    return identifier.hex()


def report_x509(source):
    """Checks the source's SVID against the source's bundle of its own domain and reports both."""
    svid = source.svid
    bundle = source.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    issued_by = key_id(svid.leaf, x509.AuthorityKeyIdentifier)
    for authority in bundle.x509_authorities:
        if key_id(authority, x509.SubjectKeyIdentifier) == issued_by and isinstance(authority.public_key(), ec.EllipticCurvePublicKey):
            svid.leaf.verify_directly_issued_by(authority)
            break
    else:
        raise RuntimeError(f"no authority of the bundle issued {svid.spiffe_id}")
    emit(
        "x509_source",
        id=str(svid.spiffe_id),
        serial=str(svid.leaf.serial_number),
        authority_key_id=issued_by,
        not_after=int(svid.leaf.not_valid_after_utc.timestamp()),
    )
    emit(
        "x509_context",
        ids=[str(svid.spiffe_id)],
        bundles={
            str(each.trust_domain): sorted(key_id(authority, x509.SubjectKeyIdentifier) for authority in each.x509_authorities)
            for each in source.bundles
        },
    )


def report_jwt_bundles(source):
    """Reports the key IDs of every trust domain."""
    emit("jwt_bundles", bundles={str(each.trust_domain): sorted(each.jwt_authorities) for each in source.bundles})


def obey(client, jwt_source, words):
    """Runs one command; the answers are those of the Go program."""
    if words[0] == "jwt" and len(words) >= 2:
        svid = jwt_source.fetch_svid(set(words[1:]), timeout=30)
        bundle = jwt_source.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        JwtSvid.parse_and_validate(svid.token, bundle, {words[1]})
        emit("jwt_svid", id=str(svid.spiffe_id), audience=sorted(svid.audience), token=svid.token, expires_at=int(svid.expiry))
    elif words[0] == "validate" and len(words) == 3:
        try:
            svid = client.validate_jwt_svid(words[2], words[1], timeout=30)
        except Exception as error:  # every refusal is reported, whatever class the library chose
            emit("invalid", error=str(error))
            return
        emit("valid", id=str(svid.spiffe_id))
    elif words[0] == "jwt-bundle" and len(words) == 2:
        bundle = jwt_source.get_bundle_for_trust_domain(TrustDomain(words[1]))
        if bundle is None:
            emit("no_bundle", trust_domain=words[1])
        else:
            emit("jwt_bundle", trust_domain=words[1], keys=len(bundle.jwt_authorities))
    else:
        raise RuntimeError(f"unknown command {words[0]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True, help="Workload API address, unix:///path")
    client = WorkloadApiClient(parser.parse_args().socket)
    x509_source = X509Source(client, timeout_in_seconds=FIRST_UPDATE_SECONDS)
    jwt_source = JwtSource(client, timeout_in_seconds=FIRST_UPDATE_SECONDS)

    def on_x509_update():
        try:
            report_x509(x509_source)
        except Exception as error:
            emit("failed", error=repr(error))

    on_x509_update()
    report_jwt_bundles(jwt_source)
    x509_source.subscribe_for_updates(on_x509_update)
    jwt_source.subscribe_for_updates(lambda: report_jwt_bundles(jwt_source))
    for line in sys.stdin:
        if words := line.split():
            obey(client, jwt_source, words)
    x509_source.close()
    jwt_source.close()
    client.close()


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        emit("failed", error=repr(error))
        sys.exit(1)

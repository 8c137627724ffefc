"""Signed privacy statements: made from the ledger, checked with the statement and a certificate alone."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from adpfl import __version__
from adpfl.config import FrozenModel, load_json, parse
from adpfl.errors import ConfigError, IdentityError, IntegrityError
from adpfl.privacy.statement import PrivacyStatement, describe_threshold, guarantee_part, iso
from adpfl.security.identity import (
    check_authority,
    check_issued_by,
    check_valid_at,
    load_certificate,
    public_key,
    site_of,
)
from adpfl.security.private_files import read_public, replace_file
from adpfl_client.config import SiteConfig
from adpfl_client.ledger.ledger_check import open_ledger
from adpfl_client.ledger_store import LedgerStore
from adpfl_client.link.enrollment import PUBLIC_MODE, load_site_identity

ALGORITHM = "ECDSA P-256 with SHA-256 over the statement's canonical JSON, DER, hexadecimal"


class SignedStatement(FrozenModel):
    """The file that a site hands out."""

    statement: dict[str, Any]
    signature: str
    algorithm: Literal[ALGORITHM] = Field(default=ALGORITHM)  # type: ignore[valid-type]
    certificate: str
    """The site's, PEM: to be believed only as far as the certificate that the reader already has."""


def write_statement(config: SiteConfig, run: str, output: Path, *, now: datetime) -> PrivacyStatement:
    """State what one run cost this site, sign it with the site's key, and write it.

    Args:
        config: the site's.
        run: has spent something here.
        output: the file to write; replaced where it exists.
        now: aware; the statement's date.

    Raises:
        StateError: there is no ledger, or the run has spent nothing.
        IntegrityError: the ledger was edited, cut or rolled back.
        IdentityError: the site has no usable identity.
    """
    identity = load_site_identity(config.state_dir, config.site, now=now)
    with open_ledger(config) as ledger:
        statement = _statement(config, ledger, run, now)
    signature = identity.key.sign(statement.canonical_json(), ec.ECDSA(hashes.SHA256()))
    signed = SignedStatement(
        statement=statement.model_dump(mode="json"),
        signature=signature.hex(),
        certificate=identity.certificate.public_bytes(serialization.Encoding.PEM).decode(),
    )
    data = json.dumps(signed.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
    replace_file(output, data.encode(), mode=PUBLIC_MODE)
    return statement


def verify_statement(file: Path, certificate: Path) -> PrivacyStatement:
    """Check a statement without any other state.

    Args:
        file: the signed statement.
        certificate: the site's certificate, or that of the consortium's authority which issued it.

    Raises:
        ConfigError: the file is no signed statement.
        IntegrityError: the statement was changed.
        IdentityError: it is signed by another key, or the certificate is another site's or authority's, or
            was not valid at the statement's date.
    """
    try:
        document = load_json(read_public(file))
    except ValueError as error:
        raise IntegrityError(f"{file}: is not JSON") from error
    signed = parse(document, SignedStatement, source=str(file))
    statement = PrivacyStatement.from_document(signed.statement, source=f"{file}: statement")
    try:
        dated = datetime.strptime(statement.dated, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        said = f"statement.dated is {statement.dated[:40]!r}"
        raise ConfigError(f"{file}: {said}; must be a time in UTC") from error
    site_certificate = _trusted_certificate(signed, certificate, dated)
    check_valid_at(site_certificate, dated, what="the site's certificate")
    named = site_of(site_certificate)
    if named != statement.site:
        raise IdentityError(f"{file}: is of site {statement.site}; the certificate is of {named}")
    try:
        public_key(site_certificate).verify(
            bytes.fromhex(signed.signature), statement.canonical_json(), ec.ECDSA(hashes.SHA256())
        )
    except (ValueError, InvalidSignature) as error:
        raise IdentityError(
            f"{file}: the signature is not that of {statement.site} over this statement"
        ) from error
    return statement


def _trusted_certificate(signed: SignedStatement, path: Path, dated: datetime) -> x509.Certificate:
    given = load_certificate(read_public(path), what=str(path))
    try:
        authority = given.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        authority = False
    if not authority:
        return given
    check_authority(given, dated, what=str(path))
    enclosed = load_certificate(signed.certificate.encode(), what="the statement's certificate")
    check_issued_by(enclosed, given, what="the statement's certificate")
    return enclosed


def _statement(config: SiteConfig, ledger: LedgerStore, run: str, now: datetime) -> PrivacyStatement:
    guarantee = ledger.guarantee_of(run)
    terms = ledger.terms(run)
    assert terms is not None  # `guarantee_of` found them
    reservations = ledger.reservations(run)
    spent = ledger.spent(terms.data_set_id, delta=config.policy.delta)
    since = spent.no_finite_guarantee_since
    verification = ledger.verify()
    return PrivacyStatement(
        site=config.site,
        run=run,
        plan_digest=terms.plan_digest,
        data_set_id=terms.data_set_id,
        patients=max(one.patients for one in reservations),
        declared_units=terms.unit_count,
        excluded_patients=len(ledger.exclusions()),
        threshold=describe_threshold(terms.privacy),
        steps=guarantee.steps,
        rounds=len({one.round_number for one in reservations}),
        data_set_epsilon=spent.epsilon,
        data_set_delta=spent.delta,
        no_finite_guarantee_since=None if since is None else iso(datetime.fromtimestamp(since, tz=UTC)),
        ledger_entries=verification.entries,
        ledger_head=verification.head.hex(),
        code_version=__version__,
        dated=iso(now.astimezone(UTC)),
        **guarantee_part(guarantee),
    )

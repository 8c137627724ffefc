"""Files and texts that somebody else wrote, or may have changed."""

import json
import struct
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from adpfl.config import load_yaml
from adpfl.data.metadata import read_origins
from adpfl.data.msd import dataset_table, read_msd
from adpfl.data.site_table import survey_site_table
from adpfl.data.synthetic.kidney_masks import _read_table as read_mask_table
from adpfl.data.volume_table import read_volume_table
from adpfl.errors import (
    ConfigError,
    DataError,
    IdentityError,
    IntegrityError,
    ModelMismatchError,
    ProtocolError,
    StateError,
)
from adpfl.federated.run_plan import RunPlan
from adpfl.privacy.engine import EngineState
from adpfl.privacy.statement import PrivacyStatement
from adpfl.security import identity
from adpfl.security.audit_chain import AuditEntry, head_of, parse_entry
from adpfl.security.bundle import read_bundle
from adpfl.security.certificates import (
    Holder,
    create_authority,
    create_request,
    issue_client_certificate,
    new_key,
    public_key_of_request,
    to_pem,
)
from adpfl.security.signing_files import (
    CertificateFile,
    RequestFile,
    SignedCertificate,
    SigningRequest,
    canonical,
    read_carried,
    request_to_pem,
)
from adpfl.wire.chunks import Manifest, sha256_hex
from adpfl.wire.messages import RunOffer, RunStatus
from adpfl.wire.receipts import Receipt, SignedReceipt, sign_receipt
from adpfl.wire.safetensors_file import (
    header_bytes,
    model_description,
    read_header,
    read_manifest,
    read_warm_start,
)
from adpfl.wire.transfers import manifest_from_wire, manifest_to_wire
from adpfl_client import spool
from adpfl_client.config import SiteConfig
from adpfl_client.ledger import receipts, statement_command
from adpfl_client.link.enrollment import _record as read_enrollment
from adpfl_client.operating import approvals
from adpfl_client.rounds import engine_state, site_record
from adpfl_client.rounds.local_run import read_plan
from adpfl_client.rounds.models import StoredModel
from adpfl_server.config import ServerConfig
from adpfl_server.identity.audit_log import read_export, verify_export
from tests.fuzz.target import Target, file_of, scratch
from tests.fuzz.wire_targets import HEX, MANIFEST, RECEIPT, sha256

ROOT = Path(__file__).parents[2]
NOW = datetime(2030, 1, 1, tzinfo=UTC)
"""When the certificates below were made."""
AUTHORITY = create_authority("Test", now=NOW)
KEY = new_key()
REQUEST = create_request(KEY, "hospital1").public_bytes(serialization.Encoding.DER)
CERTIFICATE = issue_client_certificate(AUTHORITY, REQUEST, Holder("site", "hospital1"), now=NOW)
PLAN = RunPlan.model_validate(
    {
        "run": "demo",
        "task": "skin_lesion",
        "image_size": [64, 64],
        "rounds": 2,
        "local": {"steps": 3, "learning_rate": 0.1},
        "cohort": {"sites": ["hospital1"], "quorum": 1},
        "privacy": {"mode": "none", "sampling": {"mode": "full"}},
    }
)


def _yaml(model: type[Any]) -> Callable[[bytes], None]:
    return lambda data: void(load_yaml(file_of(data, "config.yaml"), model))


def void(_value: object) -> None:
    """Nothing more is asked of what was read."""


def _plan(data: bytes) -> None:
    plan = read_plan(RunOffer("demo", data, sha256(data), RunStatus.RUNNING))
    assert plan.canonical_json() == data


def _manifest(data: bytes) -> None:
    manifest = Manifest.from_canonical_json(data)
    assert manifest.canonical_json() == data
    assert manifest_from_wire(manifest_to_wire(manifest)) == manifest


def _receipt(data: bytes) -> None:
    receipt = Receipt.from_canonical_json(data)
    assert Receipt.from_canonical_json(receipt.canonical_json()) == receipt
    assert Receipt.from_wire(receipt.to_wire()) == receipt


def _model(data: bytes) -> None:
    path = file_of(data, "model.safetensors")
    header = read_header(path)
    manifest = read_manifest(path, header)
    assert manifest.payload_bytes == len(data) - header.payload_offset
    assert manifest_from_wire(manifest_to_wire(manifest)) == manifest
    read_warm_start(path)


def _entry(data: bytes) -> None:
    entry = parse_entry(data, "entry")
    assert parse_entry(entry.canonical_json(), "entry") == entry


def _exported(data: bytes) -> None:
    verify_export(read_export(file_of(data)), KEY.public_key(), source="export")


def _certificate(data: bytes) -> None:
    certificate = identity.load_certificate(data, what="certificate")
    for check in (
        lambda: identity.holder_of(certificate),
        lambda: identity.public_key(certificate),
        lambda: identity.consortium_of(certificate),
        lambda: identity.check_valid_at(certificate, NOW, what="certificate"),
        lambda: identity.check_authority(certificate, NOW, what="certificate"),
        lambda: identity.check_issued_by(certificate, AUTHORITY.certificate, what="certificate"),
        lambda: identity.peer_certificate({"x509_pem_cert": [data]}),
    ):
        try:
            check()
        except IdentityError:
            continue


def _enrollment(data: bytes) -> None:
    file_of(data, "enrolled/federation.json")
    read_enrollment(scratch() / "enrolled")


def _table(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    return lambda data: void(read(file_of(data, name)))


def _in_folder(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    """A reader that is given the folder of the file."""
    return lambda data: void(read(file_of(data, name).parent))


def _offer(data: bytes) -> None:
    file_of(data, "state/runs/demo/offer.json")
    approvals.read_offer(scratch() / "state", "demo")


def _spooled(data: bytes) -> None:
    folder = file_of(data, f"spooled/{spool.ENTRY_FILE}").parent
    file_of(MANIFEST.canonical_json(), f"spooled/{spool.MANIFEST_FILE}")
    file_of(bytes(MANIFEST.payload_bytes), f"spooled/{spool.PAYLOAD_FILE}")
    spool._load(folder)


def _statement(data: bytes) -> None:
    statement_command.verify_statement(file_of(data), file_of(to_pem(CERTIFICATE), "certificate.pem"))


def _statement_document(data: bytes) -> None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):  # `verify_statement` reads the file
        return
    PrivacyStatement.from_document(document, source="statement")


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _export() -> bytes:
    entry = AuditEntry(sequence=1, at="t", kind="k", actor="local")
    head = head_of([entry], source="export")
    signature = b64encode(KEY.sign(head.signed_text(), ec.ECDSA(hashes.SHA256()))).decode()
    last = {"entries": head.entries, "chain": head.chain, "signature": signature}
    return entry.canonical_json() + b"\n" + _json(last)


def _stored(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:  # `kept_receipt` refuses the file
        return
    receipts.read_stored(text, source="receipt").verified(CERTIFICATE)


def _origins(path: Path) -> object:
    return read_origins(path, patient_column="patient", source_column="site")


def _masks(folder: Path) -> object:
    return read_mask_table(folder / "cases.json")


_DESCRIPTION = model_description(MANIFEST, PLAN, round_number=1)
_MODEL = header_bytes(MANIFEST, _DESCRIPTION) + bytes(MANIFEST.payload_bytes)
_SMALL_HEADER = _json({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})
_SMALL = struct.pack("<Q", len(_SMALL_HEADER)) + _SMALL_HEADER + bytes(8)
_PLAN_YAML = yaml.safe_dump(PLAN.model_dump(mode="json")).encode()
_OFFER = {"run": "demo", "plan_digest": HEX, "cost": ["much"]}
_BUNDLE = _json(
    {
        "consortium": "Test",
        "name": "hospital1",
        "address": "localhost:7400",
        "enroll_address": "localhost:7401",
        "authority_certificate": to_pem(AUTHORITY.certificate).decode(),
        "server_certificate": to_pem(CERTIFICATE).decode(),
        "token": "t" * 43,
        "expires_at": "2030-01-01T00:00:00Z",
    }
)
_REQUESTS = canonical(
    RequestFile(
        consortium="Test",
        authority_sha256=HEX,
        requests=(
            SigningRequest(
                request_sha256=sha256_hex(REQUEST),
                role="site",
                name="hospital1",
                purpose="enrolment",
                request_pem=request_to_pem(REQUEST),
                asked_at=NOW,
            ),
        ),
    )
)
_CERTIFICATES = canonical(
    CertificateFile(
        authority_sha256=HEX,
        certificates=(SignedCertificate(request_sha256=HEX, certificate_pem=to_pem(CERTIFICATE).decode()),),
    )
)
_SITES_CSV = b"case,site\ncase_1,hospital1\ncase_2,hospital2\n"
_IMAGES_CSV = b"image_id,patient,site\na,p,s\n"
_DECATHLON = _json(dataset_table([]))
_SITES_JSON = (b'{"case_1": "hospital1"}', b'[{"case": "a", "site": 3}]')
_SERVER = (ROOT / "examples/server.yaml").read_bytes()
_SITE = (ROOT / "examples/hospital1.yaml").read_bytes()
_STATEMENT = PrivacyStatement(
    site="hospital1",
    run="demo",
    plan_digest=HEX,
    data_set_id="set1",
    patients=10,
    declared_units=10,
    excluded_patients=0,
    epsilon=1.5,
    delta=1e-5,
    epsilon_if_fixed=None,
    epsilon_if_fixed_meaning=None,
    unit="patient",
    records_per_patient=None,
    epsilon_per_patient=None,
    neighboring_relation="zero-out",
    sampling="full",
    mechanism="gaussian",
    threshold="fixed",
    steps=3,
    rounds=1,
    accountant="Renyi",
    nominal_epsilon=None,
    reading=None,
    caveats=(),
    data_set_epsilon=1.5,
    data_set_delta=1e-5,
    no_finite_guarantee_since=None,
    ledger_entries=3,
    ledger_head=HEX,
    code_version="1",
    dated="2030-01-01T00:00:00Z",
)


def _signed_statement(**changes: object) -> bytes:
    document = _STATEMENT.model_dump(mode="json") | changes
    signature = KEY.sign(_STATEMENT.canonical_json(), ec.ECDSA(hashes.SHA256()))
    certificate = to_pem(CERTIFICATE).decode()
    return _json({"statement": document, "signature": signature.hex(), "certificate": certificate})


_SPOOL_ENTRY = _json(
    {
        "run": "demo",
        "round": 1,
        "base_digest": HEX,
        "update_digest": MANIFEST.digest,
        "reservation": "r",
        "steps": [],
        "engine_state": None,
    }
)
_SITE_RECORD = _json(
    {
        "site": "hospital1",
        "run": "demo",
        "plan_digest": HEX,
        "status": "running",
        "summary": "",
        "training_patients": 3,
        "held_out_patients": 1,
        "steps": [],
        "evaluations": [],
        "overlays": [],
        "guarantee": {
            "epsilon": 1.0,
            "epsilon_if_fixed": None,
            "delta": 1e-5,
            "unit": "patient",
            "neighboring_relation": "zero-out",
            "sampling": "full",
            "mechanism": "gaussian",
            "steps": 3,
            "accountant": "Renyi",
        },
        "timeline": [],
    }
)
_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)

_DER_CERTIFICATE = CERTIFICATE.public_bytes(serialization.Encoding.DER)
_RSA_REQUEST = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(_RSA, hashes.SHA256())
_ENROLLED = {"consortium": "c", "role": "site", "name": "a", "address": "h:1", "token_sha256": HEX}
_STORED_RECEIPT = (
    receipts.StoredReceipt.of(SignedReceipt(RECEIPT, sign_receipt(RECEIPT, KEY))).text().encode()
)
_ENGINE_STATE = {"state": EngineState().model_dump(mode="json"), "update_digest": HEX}
_AUDIT_ENTRY = AuditEntry(sequence=1, at="t", kind="k", actor="local")

_CONFIGURATIONS = (
    Target("server.yaml", _yaml(ServerConfig), (_SERVER, b"state_dir: a\nlisten: b:1\n"), (ConfigError,)),
    Target("site.yaml", _yaml(SiteConfig), (_SITE, b"site: a\n"), (ConfigError,)),
    Target("plan.yaml", _yaml(RunPlan), (_PLAN_YAML,), (ConfigError,)),
    Target("plan.json", _plan, (PLAN.canonical_json(),), (ConfigError, ProtocolError)),
    Target("run offer", _offer, (_json(_OFFER),), (ConfigError, IntegrityError)),
)
_OBJECTS = (
    Target("manifest.json", _manifest, (MANIFEST.canonical_json(),), (IntegrityError, ProtocolError)),
    Target("model.safetensors", _model, (_MODEL, _SMALL), (IntegrityError, ModelMismatchError)),
    Target("received model", _table("model.safetensors", StoredModel.read), (_MODEL,), (DataError,)),
    Target("spooled update", _spooled, (_SPOOL_ENTRY,), (IntegrityError, ProtocolError)),
)
_IDENTITIES = (
    Target(
        "requests to sign",
        _table("requests.json", lambda path: read_carried(path, RequestFile)),
        (_REQUESTS,),
        (IdentityError,),
    ),
    Target(
        "signed certificates",
        _table("certificates.json", lambda path: read_carried(path, CertificateFile)),
        (_CERTIFICATES,),
        (IdentityError,),
    ),
    Target("bundle", _table("bundle.json", read_bundle), (_BUNDLE,), (IdentityError,)),
    Target(
        "certificate",
        _certificate,
        (to_pem(CERTIFICATE), _DER_CERTIFICATE, to_pem(AUTHORITY.certificate)),
        (IdentityError,),
    ),
    Target(
        "signing request",
        lambda data: void(public_key_of_request(data)),
        (REQUEST, _RSA_REQUEST.public_bytes(serialization.Encoding.DER)),
        (IdentityError,),
    ),
    Target("key", _table("key.pem", identity.load_key), (identity.key_to_pem(KEY),), (IdentityError,)),
    Target("enrolment", _enrollment, (_json(_ENROLLED),), (IdentityError,)),
)
_RECORDS = (
    Target("receipt.json", _receipt, (RECEIPT.canonical_json(),), (IntegrityError, ProtocolError)),
    Target(
        "stored receipt",
        _stored,
        (_STORED_RECEIPT,),
        (ConfigError, IntegrityError, IdentityError, ProtocolError),
    ),
    Target("audit entry", _entry, (_AUDIT_ENTRY.canonical_json(),), (IntegrityError,)),
    Target("audit export", _exported, (_export(),), (IntegrityError,)),
    Target(
        "signed statement",
        _statement,
        (_signed_statement(), _signed_statement(dated="soon")),
        (ConfigError, IntegrityError, IdentityError),
    ),
    Target(
        "statement",
        _statement_document,
        (_json(_STATEMENT.model_dump(mode="json")),),
        (ConfigError, IntegrityError),
    ),
    Target(
        "engine state",
        _in_folder(engine_state.ENGINE_STATE_FILE, engine_state.read_engine_state),
        (_json(_ENGINE_STATE),),
        (StateError,),
    ),
    Target(
        "site record",
        _in_folder(site_record.RECORD_FILE, site_record.read_record),
        (_SITE_RECORD,),
        (StateError,),
    ),
)
_TABLES = (
    Target("site table, CSV", _table("sites.csv", survey_site_table), (_SITES_CSV,), (DataError,)),
    Target("site table, JSON", _table("sites.json", survey_site_table), _SITES_JSON, (DataError,)),
    Target("image metadata", _table("metadata.csv", _origins), (_IMAGES_CSV,), (DataError,)),
    Target(
        "volume table",
        _in_folder("volumes/metadata.csv", read_volume_table),
        (b"case,patient,source,labels\na,p,s,\n",),
        (DataError,),
    ),
    Target("decathlon table", _in_folder("msd/dataset.json", read_msd), (_DECATHLON,), (DataError,)),
    Target("kidney masks", _in_folder("masks/cases.json", _masks), (b'[{"case": "a"}]',), (DataError,)),
)
FILE_TARGETS = (*_CONFIGURATIONS, *_OBJECTS, *_IDENTITIES, *_RECORDS, *_TABLES)

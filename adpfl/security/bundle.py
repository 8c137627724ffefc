"""The enrolment bundle: the one small file that an operator hands to a site, an operator or an auditor.

It holds a one-time token, so it travels like a password: the file is private, and worthless once used or
expired.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, SecretStr, StringConstraints

from adpfl.config import FrozenModel, Name, load_json, parse
from adpfl.errors import ConfigError, IdentityError
from adpfl.security.certificates import Holder, Role
from adpfl.security.private_files import read_private, replace_file

Address = Annotated[str, StringConstraints(pattern=r"^[^\s/]+:[0-9]{1,5}$", max_length=300)]
"""`host:port`; an IPv6 address in brackets."""
Pem = Annotated[str, StringConstraints(pattern=r"^-----BEGIN CERTIFICATE-----\n", max_length=16_384)]


class EnrollmentBundle(FrozenModel):
    """What its holder needs to enrol: whom to call, whom to trust, and a token as the operator's consent."""

    format: Literal["adpfl-enrollment-bundle"] = "adpfl-enrollment-bundle"
    version: Literal[2] = 2
    consortium: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    role: Role = "site"
    name: Name
    address: Address
    """The main port, for after the enrolment."""
    enroll_address: Address
    authority_certificate: Pem
    server_certificate: Pem
    """Receipts are checked with its key."""
    token: SecretStr
    expires_at: AwareDatetime

    @property
    def holder(self) -> Holder:
        """Whom the bundle is for."""
        return Holder(self.role, self.name)


def write_bundle(path: Path, bundle: EnrollmentBundle) -> None:
    """Write a bundle as JSON that only its owner can read.

    An older bundle at the same path is replaced whole: issuing a new token has already made it worthless.

    Raises:
        IdentityError: the file cannot be written.
    """
    document = bundle.model_dump(mode="json") | {"token": bundle.token.get_secret_value()}
    replace_file(path, (json.dumps(document, indent=2) + "\n").encode())


def read_bundle(path: Path) -> EnrollmentBundle:
    """Read a bundle.

    Raises:
        IdentityError: the file is absent, readable by others, or no bundle.
    """
    data = read_private(path)
    try:
        document = load_json(data)
    except ValueError as error:  # covers bad UTF-8 and bad JSON; quoting either could quote the token
        raise IdentityError(f"{path}: is no enrolment bundle (not JSON)") from error
    try:
        return parse(document, EnrollmentBundle, source=str(path))
    except ConfigError as error:
        raise IdentityError(f"{error}; ask the operator for a new bundle") from error

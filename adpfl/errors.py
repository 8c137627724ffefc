"""The exception tree: every error that a person may meet, with the exit code of the command it ends.

A message names the key, the value and the rule (`privacy.l2_clip_norm is -1.0; must be > 0`).
It never carries patient data or key material.
"""

from typing import ClassVar


class AdpflError(Exception):
    """Base of every error that adpfl raises on purpose; commands print it as one line."""

    exit_code: ClassVar[int] = 1


class ConfigError(AdpflError):
    """A configuration file, option or argument breaks a rule; nothing was started."""

    exit_code = 2


class DataError(AdpflError):
    """A data folder, image or mask is absent, unreadable or inconsistent."""


class IdentityError(AdpflError):
    """A key, certificate or enrolment token is missing, expired, foreign or readable by others."""


class PrivacyError(AdpflError):
    """A privacy parameter or state makes a release impossible or unsafe; nothing was released."""


class BudgetError(PrivacyError):
    """The site's policy or ledger refuses the spend; nothing was spent."""


class KeystreamExhaustedError(PrivacyError):
    """A keystream index left the range in which (key, nonce, counter) stays unique."""


class ProtocolError(AdpflError):
    """A peer sent something that the wire contract does not allow."""


class IntegrityError(AdpflError):
    """Stored or received bytes do not match their digest, size or manifest."""


class ModelMismatchError(AdpflError):
    """A model's tensors differ from those of the plan's network."""


class StateError(AdpflError):
    """A stored state is from another version, another run or another history."""

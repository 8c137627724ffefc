"""The exception tree: every error that a person may meet, with the exit code of the command it ends.

A message names the key, the value and the rule (`privacy.l2_clip_norm is -1.0; must be > 0`).
It never carries patient data or key material. It may name local files and figures, so it stays on its
machine: a site that refuses a run tells the server the `rule` code and nothing else.
"""

from typing import ClassVar, Final, Literal, get_args

Rule = Literal[
    "policy",
    "policy.accept_unbounded",
    "policy.allow_rigorous_after_unbounded",
    "policy.allowed_tasks",
    "policy.approved_plans",
    "policy.epsilon_cap",
    "policy.maximum_rounds",
    "policy.minimum_patients",
    "ledger.clock",
    "ledger.dedicated",
    "plan",
    "plan.cohort",
    "plan.unit",
]
"""What a refusal may be called outside the site: the key or document whose rule was broken, never a value."""

RULES: Final[frozenset[str]] = frozenset(get_args(Rule))


class AdpflError(Exception):
    """Base of every error that adpfl raises on purpose; commands print it as one line."""

    exit_code: ClassVar[int] = 1


class ConfigError(AdpflError):
    """A configuration file, option or argument breaks a rule; nothing was started.

    Attributes:
        rule: what the server may be told when a site refuses a run for it.
    """

    exit_code = 2

    def __init__(self, message: str, *, rule: Rule = "policy") -> None:
        super().__init__(message)
        self.rule: Rule = rule


class DataError(AdpflError):
    """A data folder, image or mask is absent, unreadable or inconsistent."""


class IdentityError(AdpflError):
    """A key, certificate or enrolment token is missing, expired, foreign or readable by others."""


class PrivacyError(AdpflError):
    """A privacy parameter or state makes a release impossible or unsafe; nothing was released."""


class BudgetError(PrivacyError):
    """The site's policy or ledger refuses the spend; nothing was spent.

    Attributes:
        rule: what the server may be told of it.
    """

    def __init__(self, message: str, *, rule: Rule = "policy") -> None:
        super().__init__(message)
        self.rule: Rule = rule


class KeystreamExhaustedError(PrivacyError):
    """A keystream index left the range in which (key, nonce, counter) stays unique."""


class ProtocolError(AdpflError):
    """A peer sent something that the wire contract does not allow."""


class IntegrityError(AdpflError):
    """Stored or received bytes do not match their digest, size or manifest."""


class ModelMismatchError(AdpflError):
    """A model's tensors differ from those of the plan's network."""


class StorageError(AdpflError):
    """The local disk refuses a write or a read: full, read-only, failing. Nothing that needed it was sent."""


class DiskUnwritableError(StorageError):
    """The local disk is full or read-only, which may pass; nothing was spent for what could not be stored."""


class StateError(AdpflError):
    """A stored state is from another version, another run or another history."""

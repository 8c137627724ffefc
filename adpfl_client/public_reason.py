"""What a server may hear of an error at this site: a code from a closed list, never the message.

A message is for the site's own people. It may name files, what other runs have spent, the data set or a cap;
all of these are the site's alone.
"""

from adpfl import errors
from adpfl.errors import RULES, AdpflError, BudgetError, ConfigError


def public_reason(error: AdpflError) -> str:
    """Reduce an error to what may leave.

    Returns:
        Of a refusal, the code of the rule that refused (one of `adpfl.errors.RULES`); of any other error, the
        name of its class in `adpfl.errors`.
    """
    if isinstance(error, BudgetError | ConfigError):
        # Held against the list again: a type annotation does not stop a value made at run time.
        return error.rule if error.rule in RULES else "policy"
    kind = next(one for one in type(error).__mro__ if one.__module__ == errors.__name__)
    return f"the site stopped: {kind.__name__}; its own log says more"

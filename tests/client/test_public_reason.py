"""What a server hears of an error: a code, and no word of the message."""

import pytest

from adpfl import errors
from adpfl.errors import RULES, AdpflError, BudgetError, ConfigError, DataError, ProtocolError
from adpfl_client.connection import ServerRefusalError
from adpfl_client.public_reason import public_reason

SECRET = "/srv/clinic/set-17: epsilon 3.25 of a cap of 8; patient 0042"


@pytest.mark.parametrize("kind", [BudgetError, ConfigError])
@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_refusal_is_told_by_its_rule_alone(kind, rule):
    assert public_reason(kind(SECRET, rule=rule)) == rule


@pytest.mark.parametrize("kind", [BudgetError, ConfigError])
def test_a_refusal_without_a_rule_is_the_policys(kind):
    assert public_reason(kind(SECRET)) == "policy"


def test_a_rule_that_is_not_on_the_list_is_not_told():
    assert public_reason(BudgetError(SECRET, rule=SECRET)) == "policy"


def every_error():
    return [
        one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, AdpflError) and one not in {BudgetError, ConfigError}
    ]


@pytest.mark.parametrize("kind", every_error())
def test_nothing_of_a_message_leaves(kind):
    said = public_reason(kind(SECRET))
    assert said == f"the site stopped: {kind.__name__}; its own log says more"


def test_an_error_defined_elsewhere_is_told_by_the_kind_it_belongs_to():
    class PatientZeroError(DataError):
        pass

    assert "DataError" in public_reason(PatientZeroError(SECRET))
    assert ProtocolError.__name__ in public_reason(ServerRefusalError(SECRET, None))

import json
import math

import pytest

from adpfl.privacy.guarantee import Guarantee, shown_epsilon


@pytest.mark.parametrize(
    ("epsilon", "shown"),
    [
        (7.99914, "8"),
        (2.00004, "2.001"),
        (2.0, "2"),
        (0.0, "0"),
        (1.23e-7, "1.23e-07"),
        (0.000123401, "0.0001235"),
        (370_012_345.0, "3.701e+08"),
        (math.inf, "infinite"),
    ],
)
def test_an_epsilon_is_never_shown_smaller_than_it_is(epsilon: float, shown: str) -> None:
    assert shown_epsilon(epsilon) == shown
    assert math.isinf(epsilon) or float(shown) >= epsilon


def test_an_infinite_figure_survives_json() -> None:
    found = Guarantee(
        epsilon=math.inf,
        epsilon_if_fixed=1.5,
        delta=1e-5,
        unit="patient",
        neighboring_relation="zero-out",
        sampling="full",
        mechanism="laplace_l2",
        steps=3,
        accountant="renyi",
    )
    text = found.model_dump_json()
    assert json.loads(text)["epsilon"] == "inf"
    assert Guarantee.model_validate_json(text) == found

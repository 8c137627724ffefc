import json
import math

from adpfl.privacy.guarantee import Guarantee


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

"""What a site spends in the tests of its ledger."""

import sqlite3
from pathlib import Path

from adpfl.privacy.ledger import LedgerPolicy, SpendRequest
from adpfl.privacy.plan import FixedThreshold, PaperPrivacy, Sampling

NOW = 1_800_000_000.0
POLICY = LedgerPolicy(epsilon_cap=100.0, delta=1e-5)
PLAN = PaperPrivacy(
    mode="paper",
    nominal_epsilon=1.0,
    reading="multiplier",
    threshold=FixedThreshold(method="fixed", clip_norm=1.0),
    sampling=Sampling(mode="full"),
)
REQUEST = SpendRequest(
    run="first",
    plan_digest="0" * 64,
    privacy=PLAN,
    round_number=1,
    base_digest="b" * 64,
    data_set_id="clinic",
    patients=("ann lee", "bob ray"),
    unit_count=100,
    dimension=1000,
    first_step=0,
    steps=5,
)
DIGEST = "d" * 64


def edit(state_dir: Path, *statements: str) -> None:
    with sqlite3.connect(state_dir / "ledger.sqlite") as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()

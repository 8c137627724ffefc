"""What the demonstration writes is what the daemons read."""

from pathlib import Path

import pytest
import yaml

from adpfl.config import load_yaml
from adpfl.experiment.arms import ARMS
from adpfl.experiment.demo.configuration import (
    DemoChoices,
    Ports,
    demo_plan,
    write_server_config,
    write_site_config,
)
from adpfl.experiment.demo.folder import claimed
from adpfl_client.config import SiteConfig


@pytest.fixture
def folder(tmp_path):
    with claimed(tmp_path / "demo") as claimed_folder:
        yield claimed_folder


@pytest.mark.parametrize("arm", ARMS)
def test_a_sites_file_is_one_that_the_agent_reads(folder, arm):
    choices = DemoChoices(arm=arm)
    plan = demo_plan(choices)
    write_site_config(folder, "hospital1", plan, choices)
    config = load_yaml(folder.site_config("hospital1"), SiteConfig).resolved(folder.site_config("x").parent)
    assert config.data["skin_lesion"].path == folder.site_data("hospital1")
    assert config.state_dir == folder.site_state("hospital1")
    accepted = [entry.run for entry in config.policy.accept_unbounded]
    assert accepted == ([plan.run] if arm in ("fl", "adp-fl") else [])
    assert all(entry.reason and entry.by for entry in config.policy.accept_unbounded)
    lines = folder.site_config("hospital1").read_text().splitlines()
    if arm == "rigorous":
        assert config.policy.epsilon_cap == plan.privacy.target_epsilon == 8.0
        assert not any("A demonstration only" in line for line in lines)
        return
    key = "epsilon_cap" if arm == "dp-fl" else "accept_unbounded"
    place = next(number for number, line in enumerate(lines) if line.startswith(f"  {key}:"))
    assert lines[place - 1].startswith("  # ")
    assert any("  # A demonstration only: " in line for line in lines[:place])


def test_the_servers_file_names_the_plan_and_loopback_alone(folder):
    plan = demo_plan(DemoChoices(sites=2, rounds=3))
    write_server_config(folder, plan, Ports(main=50001, enrollment=50002))
    document = yaml.safe_load(folder.server_config.read_text())
    assert type(plan).model_validate(document["runs"][0]) == plan
    addresses = [
        document[key] for key in ("listen", "enroll_listen", "public_address", "public_enroll_address")
    ]
    assert addresses == ["127.0.0.1:50001", "127.0.0.1:50002"] * 2
    assert folder.root / document["state_dir"] == folder.server_state


def test_the_arms_share_all_but_the_threshold():
    plans = [demo_plan(DemoChoices(arm=arm)).model_dump() for arm in ("dp-fl", "adp-fl")]
    assert {key for key in plans[0] if plans[0][key] != plans[1][key]} == {"run", "privacy"}
    private = [plan["privacy"] for plan in plans]
    assert {key for key in private[0] if private[0][key] != private[1][key]} == {"threshold"}


def test_the_reason_tells_generated_images_from_chosen_ones(folder):
    for data, told in ((None, "generated images"), (Path("somewhere"), "whoever started it chose")):
        choices = DemoChoices(data=data)
        write_site_config(folder, "hospital1", demo_plan(choices), choices)
        assert told in folder.site_config("hospital1").read_text()

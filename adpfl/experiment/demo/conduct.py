"""Plays the demonstration from an empty folder to the report, by the commands that people type."""

import time
from pathlib import Path

from rich.console import Console

from adpfl.errors import AdpflError
from adpfl.experiment.demo.configuration import (
    DemoChoices,
    demo_plan,
    write_server_config,
    write_site_config,
)
from adpfl.experiment.demo.folder import DemoFolder, claimed, refuse_strangers
from adpfl.experiment.demo.hospitals import Hospitals, check_data_apart, furnish, gather
from adpfl.experiment.demo.processes import (
    START_SECONDS,
    Child,
    Troupe,
    answers,
    free_ports,
    troupe,
)
from adpfl.experiment.demo.progress import Display, display, read_standing
from adpfl.experiment.report.page import write_page
from adpfl.experiment.report.record import JoinedRun, load_run, write_record
from adpfl.experiment.report.words import count
from adpfl.federated.run_plan import RunPlan

SERVER = "adpfl_server"
CLIENT = "adpfl_client"
_POLL_SECONDS = 0.5


def run_demo(output: Path, choices: DemoChoices, console: Console) -> tuple[DemoFolder, JoinedRun]:
    """Make the hospitals, enrol them, train over mutual TLS on loopback, and write the report.

    Returns:
        The folder and the joined record that the report shows.

    Raises:
        ConfigError: the output folder is not this command's to empty, or a choice breaks a rule.
        DataError: the given data cannot be used.
        ChildFailedError: one of the commands failed; the others have been stopped and the logs stay.
    """
    check_data_apart(choices, DemoFolder(output))
    refuse_strangers(output)
    if choices.data is not None:
        console.print(f"reading {choices.data}", highlight=False, markup=False, soft_wrap=True)
    hospitals = gather(choices)
    plan = demo_plan(choices)
    with claimed(output) as folder, troupe(folder) as children, display(console, plan) as shown:
        try:
            run = _perform(folder, plan, choices, hospitals, children, shown)
        except (AdpflError, KeyboardInterrupt):
            if folder.started:
                shown.say(f"stopped; what every command said stands in {folder.logs}")
            raise
    return folder, run


def _perform(  # noqa: PLR0917 - the demonstration's cast, all of it needed at once
    folder: DemoFolder,
    plan: RunPlan,
    choices: DemoChoices,
    hospitals: Hospitals,
    children: Troupe,
    shown: Display,
) -> JoinedRun:
    """Everything from the hospitals' images to the report."""
    furnish(hospitals, choices, folder)
    shown.say(f"{folder.root}: {hospitals.words}")
    server = _open_consortium(folder, plan, choices, children, shown)
    agents = [children.start(site, CLIENT, "--site", site, "--until-finished") for site in choices.site_names]
    lengths = f"{count(plan.rounds, 'round')} of {count(plan.local.steps, 'local step')}"
    shown.say(f"training {plan.run}: {lengths}, over mutual TLS")
    _watch(folder, plan, server, agents, shown)
    children.stop(server)
    run = load_run(
        folder.server_state,
        tuple(folder.site_state(site) for site in choices.site_names),
        run=plan.run,
        data_note=hospitals.note,
    )
    write_record(folder.record, run.record)
    write_page(folder.report, run, joined_by_owner=True)
    return run


def _open_consortium(
    folder: DemoFolder, plan: RunPlan, choices: DemoChoices, children: Troupe, shown: Display
) -> Child:
    """Write the configurations, make the consortium, start the aggregator and enrol every site."""
    ports = free_ports()
    write_server_config(folder, plan, ports)
    config = folder.server_config.name
    children.complete("server-init", SERVER, "init", "--config", config)
    for site in choices.site_names:
        write_site_config(folder, site, plan, choices)
        bundle = str(folder.bundle(site).relative_to(folder.root))
        children.complete(
            f"server-enroll-{site}", SERVER, "enroll", site, "--config", config, "--output", bundle
        )
    server = children.start("server", SERVER, "--config", config)
    children.wait_until(
        lambda: not server.check(may_finish=False) and answers(ports.main) and answers(ports.enrollment),
        seconds=START_SECONDS,
        what="the aggregator to listen",
        child=server,
    )
    shown.say(f"the aggregator listens on 127.0.0.1:{ports.main}; enrolment on port {ports.enrollment}")
    for site in choices.site_names:
        bundle = str(folder.bundle(site).relative_to(folder.root))
        children.complete(f"{site}-enroll", CLIENT, "enroll", bundle, "--site", site)
    shown.say(
        f"enrolled {', '.join(choices.site_names)}: each made its own key, and its certificate is its name"
    )
    return server


def _watch(folder: DemoFolder, plan: RunPlan, server: Child, agents: list[Child], shown: Display) -> None:
    """Show progress until every agent has finished."""
    while True:
        finished = [agent.check(may_finish=True) for agent in agents]
        server.check(may_finish=False)
        standing = read_standing(folder, plan)
        shown.show(standing)
        if all(finished):
            shown.conclude(standing)
            return
        time.sleep(_POLL_SECONDS)

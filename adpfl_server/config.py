"""The operator's configuration file: where the server keeps its state, listens, and which runs it serves."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveFloat, StringConstraints, model_validator

from adpfl.config import FrozenModel, load_yaml
from adpfl.errors import ConfigError
from adpfl.federated.run_plan import RunPlan
from adpfl.tasks.registry import known_tasks
from adpfl.wire.limits import ROUND_MAX
from adpfl_server.limits.limits_config import LimitsConfig

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})")
AddressText = Annotated[str, StringConstraints(max_length=300)]


class RunEntry(RunPlan):
    """One run: the keys of its plan, and optionally the weights it starts from."""

    initial_model: Path | None = None
    """A safetensors file; without it the server makes random weights from the plan's seed."""

    @property
    def plan(self) -> RunPlan:
        """The public part, which the sites approve."""
        return RunPlan.model_validate(self.model_dump(exclude={"initial_model"}))


class ServerConfig(FrozenModel):
    """`server.yaml`. Relative paths are relative to the file, and absolute once it is loaded."""

    state_dir: Path
    """Database, chunks, keys and records. Back it up: with it a run goes on, without it the run is lost."""
    listen: AddressText
    """`host:port` of the main port, where enrolled sites call; port 0 takes a free one."""
    enroll_listen: AddressText
    """`host:port` of the enrolment port, where a site trades its one-time token for a certificate."""
    public_address: AddressText
    """`host:port` at which sites reach the main port; the host must stand in the server's certificate."""
    public_enroll_address: AddressText
    """The same for the enrolment port."""
    site_silence_seconds: PositiveFloat = 120.0
    """A site unheard for so long is not waited for: given a quorum, rounds close without it."""
    keep_models: Annotated[int, Field(ge=2, le=ROUND_MAX)] = 10
    """So many newest models, and averages, of each run stay on disk; older ones are collected. What `export
    --round` and `export --best` choose from."""
    metrics_listen: AddressText | None = None
    """`host:port` of Prometheus metrics, plain HTTP without authentication; None is off."""
    limits: LimitsConfig = LimitsConfig()
    """How much of the server one caller, and all of them, may take."""
    reflection: bool = False
    """Serve gRPC reflection on the main port; for debugging."""
    runs: Annotated[tuple[RunEntry, ...], Field(max_length=1000)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "ServerConfig":
        for key in ("listen", "enroll_listen"):
            split_address(key, getattr(self, key), least_port=0)
        for key in ("public_address", "public_enroll_address"):
            split_address(key, getattr(self, key), least_port=1)
        if self.metrics_listen is not None:
            split_address("metrics_listen", self.metrics_listen, least_port=0)
        if self.listen == self.enroll_listen and split_address("listen", self.listen)[1] != 0:
            raise ValueError(f"listen and enroll_listen are both {self.listen}; each needs a port of its own")
        names = [entry.run for entry in self.runs]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"runs names {name} twice; each run may stand once")
        return self

    def resolved(self, base: Path) -> "ServerConfig":
        """The same configuration with every path absolute, relative ones taken from `base`."""
        runs = tuple(
            entry.model_copy(update={"initial_model": absolute(entry.initial_model, base)})
            if entry.initial_model
            else entry
            for entry in self.runs
        )
        return self.model_copy(update={"state_dir": absolute(self.state_dir, base), "runs": runs})

    def entry(self, run: str) -> RunEntry:
        """One run's entry.

        Raises:
            ConfigError: the file names no such run.
        """
        for entry in self.runs:
            if entry.run == run:
                return entry
        known = ", ".join(entry.run for entry in self.runs) or "none"
        raise ConfigError(f"runs has no run {run}; the configuration names: {known}")

    def public_hosts(self) -> tuple[str, ...]:
        """Hosts that sites dial, without ports or brackets."""
        addresses = (self.public_address, self.public_enroll_address)
        return tuple(
            dict.fromkeys(split_address("public_address", text)[0].strip("[]") for text in addresses)
        )

    def initial_model_path(self, run: str) -> Path:
        """Where a run's initial weights stand: as the entry says, or where the server makes them."""
        return self.entry(run).initial_model or self.state_dir / "initial" / f"{run}.safetensors"


def load_server_config(path: Path) -> ServerConfig:
    """Read and check `server.yaml`.

    Raises:
        ConfigError: the file is absent, breaks a rule, or names an initial model that does not exist.
    """
    config = load_yaml(path, ServerConfig).resolved(path.resolve().parent)
    for index, entry in enumerate(config.runs):
        if entry.initial_model is not None and not entry.initial_model.is_file():
            raise ConfigError(
                f"{path}: runs.{index}.initial_model is {entry.initial_model}; there is no such file"
            )
    return config


def require_known_tasks(config: ServerConfig, *, source: str) -> None:
    """Refuse names of tasks that no package installed here registers.

    The daemon itself needs a task only to make initial weights.

    Args:
        config: the server's.
        source: the file, for the error.

    Raises:
        ConfigError: a run names one.
    """
    known = known_tasks()
    for index, entry in enumerate(config.runs):
        if entry.task not in known:
            raise ConfigError(
                f"{source}: runs.{index}.task is {entry.task} (run {entry.run}); must be one of: "
                f"{', '.join(known)}"
            )


def split_address(key: str, text: str, *, least_port: int = 0) -> tuple[str, int]:
    """Cut `host:port` in two; an IPv6 host keeps its brackets.

    Raises:
        ValueError: not an address, or a port outside `least_port`..65535.
    """
    found = _ADDRESS.fullmatch(text)
    if not found:
        raise ValueError(f"{key} is {text!r}; must be host:port, an IPv6 host in brackets")
    port = int(found.group(2))
    if not least_port <= port <= 65535:
        raise ValueError(f"{key} is {text!r}; its port must be {least_port} to 65535")
    return found.group(1), port


def absolute(path: Path, base: Path) -> Path:
    """A path as seen from `base`."""
    return (base / path.expanduser()).resolve()

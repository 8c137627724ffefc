"""The site's configuration file: where its data lie, what it allows, and how it works."""

import re
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from adpfl.config import FrozenModel, Name, load_yaml
from adpfl.errors import ConfigError
from adpfl.tasks.registry import known_tasks
from adpfl.wire.limits import ROUND_MAX
from adpfl_client.guard import SitePolicy

SEARCHED_FOLDERS = (Path("sites"), Path("/etc/adpfl/sites"))
"""Where `--site NAME` looks for `NAME.yaml`, in this order."""

DIRECT: Final = "direct"
"""What `proxy` says for: no proxy, whatever the environment says."""
_PROXY = re.compile(r"http://[^\s/@]{1,253}:[0-9]{1,5}/?")


class TaskDataConfig(FrozenModel):
    """One task's local data."""

    path: Path
    """Folder of images and masks, in one of the layouts that the task reads. Relative to this file."""
    held_out_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """Share of the patients that is never trained on: the global model is scored on them, and the scores stay
    at the site."""
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Another seed holds out other patients. Changing it in the middle of a run mixes training and held-out
    patients."""
    cache_mib: Annotated[int, Field(ge=0, le=2**20)] = 1024
    """Memory for preprocessed training images, in MiB, in each run. Volumes that find no room are read anew
    at every step that draws them, which is slow. At the tasks' own spacing an abdominal CT takes about 75, a
    case of BraTS about 30."""


class SiteConfig(FrozenModel):
    """`hospital1.yaml`. Paths in it are relative to the file, and absolute once it is loaded."""

    site: Name
    """This site's name: that of the file's stem, of its certificate and of the runs' plans."""
    state_dir: Path
    """Identity, ledger, spool, received models and records. Back it up: the ledger is in it."""
    data: Annotated[dict[Name, TaskDataConfig], Field(min_length=1)]
    """By task name."""
    policy: SitePolicy
    """What this site allows, whatever a server or a run says."""
    proxy: str | None = None
    """`http://host:port` of an HTTP proxy that lets CONNECT through, whatever the environment says; the proxy
    sees TLS alone. `direct` means none. Without the key the environment's `https_proxy` and `no_proxy` are
    followed."""
    proxy_credentials: Path | None = None
    """File that holds `user:password` for the proxy (RFC 7617), closed to group and others. Relative to this
    file."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Processor threads for training."""
    keep_models: Annotated[int, Field(ge=2, le=ROUND_MAX)] | None = None
    """So many newest models of each run stay in the state folder; without it every received model does."""
    evaluate_every_rounds: Annotated[int, Field(ge=0)] = 5
    """Score the global model on the held-out patients after every so many rounds; 0 means after the last
    alone."""

    @model_validator(mode="after")
    def _check_proxy(self) -> Self:
        # Of the whole model: an error of the key alone would quote its value, which may hold a password.
        if self.proxy is not None and "@" in self.proxy:
            raise ValueError(
                "proxy must not hold a user or a password; put user:password into a file of mode 0600 and "
                "name it as proxy_credentials"
            )
        if self.proxy is not None and self.proxy != DIRECT and not _PROXY.fullmatch(self.proxy):
            raise ValueError(f"proxy is {self.proxy[:80]!r}; must be http://host:port or {DIRECT}")
        if self.proxy_credentials is not None and self.proxy in {None, DIRECT}:
            raise ValueError("proxy_credentials is for a proxy that the key proxy names; there is none")
        return self

    def resolved(self, base: Path) -> "SiteConfig":
        """The same configuration with every path absolute, relative ones taken from `base`."""
        data = {
            task: entry.model_copy(update={"path": _absolute(entry.path, base)})
            for task, entry in self.data.items()
        }
        changes: dict[str, object] = {"state_dir": _absolute(self.state_dir, base), "data": data}
        if self.proxy_credentials is not None:
            changes["proxy_credentials"] = _absolute(self.proxy_credentials, base)
        return self.model_copy(update=changes)

    def data_of(self, task: str) -> TaskDataConfig:
        """The data of one task.

        Raises:
            ConfigError: this site has none.
        """
        if task not in self.data:
            raise ConfigError(f"data has no task {task}; this site has: {', '.join(sorted(self.data))}")
        return self.data[task]


def _absolute(path: Path, base: Path) -> Path:
    return (base / path.expanduser()).resolve()


def find_site_config(site: str | None, config: Path | None) -> Path:
    """Where the configuration stands: as `--config` says, or the first of `SEARCHED_FOLDERS` that has it.

    Raises:
        ConfigError: neither is given, or no such file exists.
    """
    if config is not None:
        if not config.is_file():
            raise ConfigError(f"--config is {config}; there is no such file")
        return config
    if site is None:
        raise ConfigError("--site is missing; give --site NAME or --config FILE")
    candidates = [folder / f"{site}.yaml" for folder in SEARCHED_FOLDERS]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    places = " or ".join(str(candidate) for candidate in candidates)
    raise ConfigError(
        f"--site is {site}; there is no {places}; name the file by --config, or write "
        f"one with: adpfl-client init --site {site}"
    )


def require_known_tasks(config: SiteConfig, *, source: str) -> None:
    """Refuse names of tasks that no installed package registers.

    Args:
        config: the site's.
        source: the file, for the error.

    Raises:
        ConfigError: `data` or `policy.allowed_tasks` names one.
    """
    known = known_tasks()
    for key, names in (("data", sorted(config.data)), ("policy.allowed_tasks", config.policy.allowed_tasks)):
        for name in names:
            if name not in known:
                raise ConfigError(f"{source}: {key} names task {name}; must be one of: {', '.join(known)}")


def load_site_config(site: str | None, config: Path | None) -> SiteConfig:
    """Find, read and check the site's configuration.

    Raises:
        ConfigError: it is absent, breaks a rule, or is another site's than `--site` says.
    """
    path = find_site_config(site, config)
    found = load_yaml(path, SiteConfig)
    if site is not None and found.site != site:
        raise ConfigError(f"{path}: site is {found.site}; must be {site}, as --site says")
    return found.resolved(path.resolve().parent)

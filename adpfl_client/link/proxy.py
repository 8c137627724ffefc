"""The way to the server: directly, or through an HTTP proxy by CONNECT (RFC 9110, section 9.3.6).

The proxy sees a host, a port and TLS records. A proxy that the site's file names is used whatever the
environment says; `direct` there means no proxy. Without either gRPC follows `grpc_proxy`, `https_proxy` or
`http_proxy`, the first that is set, and excepts what `no_grpc_proxy` or `no_proxy` names. gRPC passes over a
value that it cannot use and dials directly; here it is an error. Credentials go into the CONNECT request and
nowhere else: no message or log line holds them.
"""

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from adpfl.errors import ConfigError
from adpfl.security.private_files import read_private
from adpfl_client.config import DIRECT, SiteConfig

FOLLOWED_VARIABLES: Final = ("grpc_proxy", "https_proxy", "http_proxy")
"""In gRPC's order; an empty value means no proxy. Upper-case spellings are not followed."""
EXCEPTIONS_VARIABLE: Final = "no_grpc_proxy"
"""gRPC reads it before `no_proxy`, and lets either overrule a proxy that the program names."""
MAX_CREDENTIAL_CHARACTERS: Final = 512

ChannelOptions = tuple[tuple[str, str | int], ...]
NO_HIDDEN_PROXY: Final[ChannelOptions] = (("grpc.address_http_proxy_enabled_addresses", ""),)
"""gRPC reads a proxy from `GRPC_ADDRESS_HTTP_PROXY` too, whatever else says which; here it applies to no
address."""

_ENVIRONMENT_PROXY = re.compile(r"http://(?:[^\s/@]*@)?(?P<place>[^\s/@]+:[0-9]{1,5})/?")
_STATUS = re.compile(r"HTTP proxy returned response code (?P<status>[0-9]{3})")


@dataclass(frozen=True)
class Route:
    """How the server is dialled, and what to say of it when that fails."""

    proxy: str | None = None
    """`http://host:port`, without credentials; None dials directly."""
    named_by: str = ""
    """The key or variable that names the proxy."""
    options: ChannelOptions = field(default=NO_HIDDEN_PROXY, repr=False)
    """For gRPC's channel. They may hold credentials: not for any message."""
    ignored: str = ""
    """A variable that names a proxy and is not followed."""

    def refused(self, details: str) -> bool:
        """Whether the proxy has understood the request and will not serve it: no retry changes that."""
        status = _STATUS.search(details)
        return status is not None and status["status"].startswith("4")

    def explained(self, details: str) -> str:
        """The details of a failed call, with what they mean for whoever keeps the proxy or names it."""
        if self.proxy is None:
            return f"{details}{self._about_ignored()}"
        proxy = f"the proxy {self.proxy} ({self.named_by})"
        status = _STATUS.search(details)
        if status is None:
            hint = f"dialled through {proxy}: does it run, let CONNECT pass and leave TLS unopened?"
            return f"{details}; {hint}"
        match status["status"]:
            case "407":
                mend = "put user:password into a file of mode 0600 and name it as proxy_credentials"
                return f"{proxy} wants other credentials than it was given (407); {mend}"
            case code if code.startswith("4"):
                mend = "ask its administrators to allow CONNECT to the server's host and both ports"
                return f"{proxy} refuses the connection ({code}); {mend}"
            case code:
                return f"{proxy} cannot reach the server ({code})"

    def _about_ignored(self) -> str:
        if not self.ignored:
            return ""
        return f"; {self.ignored} is set, but only lower case is followed: name the proxy as https_proxy"


UNNAMED: Final = Route()
"""Nobody has looked: gRPC goes by the environment, and no message can say how."""


def route_of(config: SiteConfig) -> Route:
    """The way that a site's file names, or else the environment's.

    Raises:
        IdentityError: the file of the proxy's credentials is absent or open to others.
        ConfigError: it holds no credentials, or the environment's proxy cannot be used.
    """
    if config.proxy is None:
        return environment_route()
    if config.proxy == DIRECT:
        return Route(options=(*NO_HIDDEN_PROXY, ("grpc.enable_http_proxy", 0)))
    # Otherwise no_proxy, which is set for other programs, would silently overrule the site's file.
    if os.environ.get(EXCEPTIONS_VARIABLE) != "":
        os.environ[EXCEPTIONS_VARIABLE] = ""
    options: ChannelOptions = (*NO_HIDDEN_PROXY, ("grpc.http_proxy", config.proxy))
    if config.proxy_credentials is not None:
        options += (("grpc.http_connect_headers", _authorization(config.proxy_credentials)),)
    return Route(config.proxy, "proxy in the site's file", options)


def environment_route(environment: Mapping[str, str] | None = None) -> Route:
    """The way that the environment names, as gRPC reads it.

    Raises:
        ConfigError: the variable that gRPC would follow is not `http://[user:password@]host:port`.
    """
    found = os.environ if environment is None else environment
    for variable in FOLLOWED_VARIABLES:
        value = found.get(variable)
        if value is None:
            continue
        if not value:
            return Route()
        proxy = _ENVIRONMENT_PROXY.fullmatch(value)
        if proxy is None:
            raise ConfigError(
                f"{variable} in the environment names no usable proxy; must be http://host:port, "
                "or name the way as proxy in the site's file (proxy: direct for none)"
            )
        return Route(f"http://{proxy['place']}", variable)
    ignored = [name.upper() for name in FOLLOWED_VARIABLES if found.get(name.upper())]
    return Route(ignored=ignored[0] if ignored else "")


def _authorization(path: Path) -> str:
    """The header of RFC 7617 for `user:password` in a private file."""
    try:
        text = read_private(path).decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    user, colon, _ = text.partition(":")
    if not (user and colon and text.isprintable() and len(text) <= MAX_CREDENTIAL_CHARACTERS):
        raise ConfigError(
            f"{path}: must hold user:password in one line of at most {MAX_CREDENTIAL_CHARACTERS} characters"
        )
    return f"Proxy-Authorization:Basic {base64.b64encode(text.encode()).decode('ascii')}"

"""A running agent's identity: its link, and its certificate's renewal between two tasks."""

from dataclasses import replace
from datetime import UTC, datetime

import grpc
import structlog

from adpfl.errors import IdentityError, ProtocolError
from adpfl.security.identity import CallerIdentity, time_text
from adpfl.security.tls import CHANNEL_OPTIONS, channel_credentials
from adpfl.wire.operations import RenewRequest
from adpfl_client.link.proxy import Route
from adpfl_client.link.renewal import asked_lately, ends_soon, renew, renewal_due, signed_chain
from adpfl_client.local_site import Site

log = structlog.get_logger()


def open_channel(identity: CallerIdentity, route: Route) -> grpc.Channel:
    """A channel to the server's main port; nothing is dialled before the first call.

    Args:
        identity: whose certificate is shown.
        route: directly, or through which proxy.
    """
    options = (*CHANNEL_OPTIONS, *route.options)
    return grpc.secure_channel(identity.address, channel_credentials(identity), options=options)


def with_certificate_renewed(site: Site) -> Site:
    """The site with its certificate renewed where that is due; as it was where nothing is due or it fails.

    A failure is logged, as a warning once the end is near, and tried again at the next look; a renewal that
    waits to be signed is asked for again now and then.
    """
    now = datetime.fromtimestamp(site.clock(), UTC)
    if not renewal_due(site.identity, now) or asked_lately(site.config.state_dir, now):
        return site

    def ask(request: bytes) -> bytes:
        return signed_chain(site.connection.renew(RenewRequest(request)))

    try:
        renewed = renew(site.config.state_dir, site.identity, ask, now=now)
    except (IdentityError, ProtocolError) as error:
        say = log.warning if ends_soon(site.identity, now) else log.info
        ends = time_text(site.identity.certificate.not_valid_after_utc)
        say("certificate not renewed; will try again", ends=ends, reason=str(error))
        return site
    site.connection.change_channel(open_channel(renewed, site.connection.route))
    log.info("certificate renewed", until=time_text(renewed.certificate.not_valid_after_utc))
    return replace(site, identity=renewed)

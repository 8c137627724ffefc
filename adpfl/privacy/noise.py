"""What noise a plan means at a site: the multiplier of its reading, and the lattice that carries it."""

from dataclasses import dataclass

from adpfl.errors import ConfigError, PrivacyError
from adpfl.kernels.lattice import LatticeScale, Law
from adpfl.privacy.plan import PaperPrivacy
from adpfl.privacy.sampling import expected_units


@dataclass(frozen=True)
class Noise:
    """Noise of one release, relative to the clip norm C.

    The noise really drawn has scale C * 2^s / A on each coordinate of the sum;
    `lattice.inverse_noise_multiplier` is the exact T = A / 2^s that accounting uses.
    """

    law: Law
    lattice: LatticeScale

    def scale(self, clip_norm: float) -> float:
        """Noise scale b on each coordinate of the sum at clip norm C."""
        return clip_norm / float(self.lattice.inverse_noise_multiplier)


def noise_multiplier(plan: PaperPrivacy, unit_count: int) -> float:
    """Noise multiplier z = b/C, b the Laplace scale on each coordinate of the SUM over sampled units.

    The mean is the sum over the public q*n, so noise of scale b' on the mean is noise of scale b' * q * n
    on the sum:

    - `multiplier`: b = epsilon * C, z = epsilon.
    - `multiplier_mean`: b' = epsilon * C, z = epsilon * q * n.
    - `budget`: b = C / epsilon, z = 1 / epsilon.
    - `budget_n`: b' = C / (n * epsilon), z = q / epsilon.
    """
    epsilon = plan.nominal_epsilon
    match plan.reading:
        case "multiplier":
            return epsilon
        case "multiplier_mean":
            return epsilon * expected_units(plan.sampling, unit_count)
        case "budget":
            return 1.0 / epsilon
        case "budget_n":
            return expected_units(plan.sampling, 1) / epsilon


def resolve_noise(plan: PaperPrivacy, unit_count: int) -> Noise:
    """The noise of a plan at a site of `unit_count` units.

    Raises:
        ConfigError: no lattice carries this multiplier.
    """
    multiplier = noise_multiplier(plan, unit_count)
    try:
        lattice = LatticeScale.for_noise_multiplier(multiplier, law="laplace")
    except PrivacyError as error:
        raise ConfigError(
            f"privacy.nominal_epsilon is {plan.nominal_epsilon} with privacy.reading {plan.reading}: {error}"
        ) from error
    return Noise("laplace", lattice)

"""What `adpfl epsilon` and `adpfl calibrate` answer, without the command line around it."""

from typing import Any

from adpfl.config import parse
from adpfl.errors import ConfigError
from adpfl.privacy.calibration import calibrate
from adpfl.privacy.certificate import Certificate, SamplingMode, certify_configuration
from adpfl.privacy.guarantee import IF_FIXED_MEANING
from adpfl.privacy.plan import (
    AnyThreshold,
    ExponentialThreshold,
    FixedThreshold,
    NoisyBitsThreshold,
    PercentileThreshold,
    SlackThreshold,
)

THRESHOLD_METHODS = ("fixed", "percentile", "noisy_bits", "slack", "exponential")

_ABOUT_EXPONENTIAL = {"epsilon": "--threshold-epsilon", "refresh_steps": "--threshold-refresh-steps"}


def threshold_of(
    method: str = "fixed",
    *,
    bit_noise_ratio: float | None = None,
    threshold_epsilon: float | None = None,
    refresh_steps: int | None = None,
) -> AnyThreshold:
    """The threshold that options describe; only what bears on the figure can be given.

    Args:
        method: one of `THRESHOLD_METHODS`.
        bit_noise_ratio: `noisy_bits`: noise on the bits over the noise multiplier; 2.5 by default.
        threshold_epsilon: `exponential`: pure epsilon of one choice.
        refresh_steps: `exponential`: steps between two choices.

    Raises:
        ConfigError: an option is out of range, missing, or belongs to another method.
    """
    given = {
        "bit_noise_ratio": ("noisy_bits", bit_noise_ratio),
        "epsilon": ("exponential", threshold_epsilon),
        "refresh_steps": ("exponential", refresh_steps),
    }
    document: dict[str, Any] = {"method": method}
    for key, (owner, value) in given.items():
        option = _ABOUT_EXPONENTIAL.get(key, "--bit-noise-ratio")
        if value is not None and owner != method:
            raise ConfigError(f"{option} is {value}; goes with --threshold {owner}, not {method}")
        if value is None and owner == method == "exponential":
            raise ConfigError(f"{option} is missing; --threshold exponential needs it")
        if value is not None:
            document[key] = value
    match method:
        case "fixed":
            return FixedThreshold(method="fixed", clip_norm=1.0)  # the figure does not depend on C
        case "percentile":
            return parse(document, PercentileThreshold, source="--threshold")
        case "noisy_bits":
            return parse(document, NoisyBitsThreshold, source="--threshold")
        case "slack":
            return parse(document, SlackThreshold, source="--threshold")
        case "exponential":
            return parse(document, ExponentialThreshold, source="--threshold")
    raise ConfigError(f"--threshold is {method}; must be one of {', '.join(THRESHOLD_METHODS)}")


def epsilon_answer(
    *,
    mechanism: str,
    noise_multiplier: float,
    dimension: int,
    sampling: SamplingMode,
    sampling_probability: float,
    delta: float,
    steps: int | None = None,
    epochs: int | None = None,
    records_per_patient: int = 1,
    threshold: AnyThreshold | None = None,
) -> Certificate:
    """Epsilon(delta) of one configuration; see `certify_configuration`.

    Raises:
        ConfigError: an option is out of range or contradicts another.
    """
    return certify_configuration(
        mechanism=mechanism,
        noise_multiplier=noise_multiplier,
        dimension=dimension,
        sampling=sampling,
        sampling_probability=sampling_probability,
        delta=delta,
        steps=steps,
        epochs=epochs,
        records_per_patient=records_per_patient,
        threshold=threshold or threshold_of(),
    )


def calibration_answer(
    *,
    target_epsilon: float,
    mechanism: str,
    dimension: int,
    sampling: SamplingMode,
    sampling_probability: float,
    delta: float,
    steps: int | None = None,
    epochs: int | None = None,
    records_per_patient: int = 1,
    threshold: AnyThreshold | None = None,
) -> Certificate:
    """The least noise multiplier whose certified epsilon is at most the target, with its certificate.

    Raises:
        ConfigError: an option is out of range, contradicts another, or no noise reaches the target.
    """
    return calibrate(
        target_epsilon=target_epsilon,
        mechanism=mechanism,
        dimension=dimension,
        sampling=sampling,
        sampling_probability=sampling_probability,
        delta=delta,
        steps=steps,
        epochs=epochs,
        records_per_patient=records_per_patient,
        threshold=threshold or threshold_of(),
    )


def answer_rows(certificate: Certificate) -> tuple[tuple[str, str], ...]:
    """The same answer as a table of (name, value) for a person."""
    of_gradient = certificate.gradient_noise_multiplier
    multiplier = f"{certificate.noise_multiplier:.6g}"
    if of_gradient != certificate.noise_multiplier:
        multiplier += f" ({of_gradient:.6g} on the gradient, beside the noisy bit)"
    rows = [("epsilon", f"{certificate.epsilon:.6g}"), ("delta", f"{certificate.delta:g}")]
    if certificate.epsilon_if_fixed is not None:
        rows.append(("epsilon_if_fixed", f"{certificate.epsilon_if_fixed:.6g}: {IF_FIXED_MEANING}"))
    rows += [
        ("accountant", certificate.accountant),
        ("mechanism", certificate.mechanism),
        ("noise multiplier", multiplier),
        ("dimension", str(certificate.dimension)),
        ("threshold", certificate.threshold),
        ("sampling", f"{certificate.sampling}, probability {certificate.sampling_probability:g}"),
        ("steps", f"{certificate.steps}, of which {certificate.releases} are composed"),
        ("unit", certificate.unit),
        ("neighbouring relation", certificate.neighboring_relation),
        *(("note", caveat) for caveat in certificate.caveats),
    ]
    return tuple(rows)

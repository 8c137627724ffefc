"""The page's and the figures' colours, for light and dark, from one table.

Text reaches a contrast of 4.5 to 1 against its ground and each series 3 to 1 (WCAG 2.2, 1.4.3 and 1.4.11); a
test holds it. Sites are told apart by marker and label too, never by hue alone.
"""

from typing import Final

LIGHT: Final[dict[str, str]] = {
    "paper": "#fdfcf9",
    "panel": "#f5f2ec",
    "ink": "#1b2125",
    "muted": "#576068",
    "rule": "#dcd7cc",
    "band": "#8b949b",
    "accent": "#0e5a66",
    "caution-ground": "#fbf3e2",
    "caution-rule": "#b9770e",
    "caution-ink": "#6a4200",
    "good": "#2a6a44",
    "bad": "#a3322a",
    "site-1": "#0a7285",
    "site-2": "#bf5118",
    "site-3": "#6b4a97",
    "site-4": "#8a6900",
    "site-5": "#ad2a5a",
    "site-6": "#2a64ad",
    "site-7": "#3f6f2b",
    "site-8": "#5b5048",
}

DARK: Final[dict[str, str]] = {
    "paper": "#14181a",
    "panel": "#1c2225",
    "ink": "#e9e5db",
    "muted": "#a0aab1",
    "rule": "#343c41",
    "band": "#87929a",
    "accent": "#6cc5d2",
    "caution-ground": "#2a2314",
    "caution-rule": "#d79a36",
    "caution-ink": "#f0cf95",
    "good": "#7fc79b",
    "bad": "#f0938a",
    "site-1": "#4fc0d2",
    "site-2": "#f19560",
    "site-3": "#b99fe3",
    "site-4": "#d8b64a",
    "site-5": "#ee82a7",
    "site-6": "#82b4ec",
    "site-7": "#94c474",
    "site-8": "#c2b6aa",
}

SITE_COLORS: Final = 8
SITE_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "p")


def site_role(position: int) -> str:
    """Name of the colour of the site at this position in the plan; colours repeat after eight sites."""
    return f"site-{position % SITE_COLORS + 1}"


def css_variables(scheme: dict[str, str]) -> str:
    """The scheme as CSS custom properties."""
    return " ".join(f"--{role}: {color};" for role, color in scheme.items())


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two `#rrggbb` colours, 1 to 21 (WCAG 2.2, definition of contrast ratio)."""
    bright, dim = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(color: str) -> float:
    channels = (int(color[start : start + 2], 16) / 255 for start in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
